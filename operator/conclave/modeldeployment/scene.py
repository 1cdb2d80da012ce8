"""What checks and parts look at: a ModelDeployment and what surrounds it, and for the status what the pass did."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.modeldeployment import ModelDeployment
from conclave.catalogue.models import find_model
from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.weights.keys import cached_files, find_download


def _own_pods(given: dict[str, Any]) -> tuple[JsonObject, ...]:
    pods: tuple[JsonObject, ...] = given["observed"].pods
    return pods


class Scene(BaseModel):
    """A ModelDeployment and what surrounds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployment: ModelDeployment
    observed: Observed
    pods: tuple[JsonObject, ...] = Field(default_factory=_own_pods)
    """The pods that checks of pods look at: the model's own, or those of a Job."""

    @cached_property
    def download(self) -> JsonObject | None:
        """The Job that has put the spec's files into the cache; None where there is none, or nothing is downloaded."""
        return find_download(self.deployment, self.observed)

    @cached_property
    def is_downloaded(self) -> bool:
        """Whether pods can mount the weights: they are downloaded, or need no download."""
        return not cached_files(self.deployment) or self.download is not None

    @cached_property
    def needs_inspection(self) -> bool:
        """Whether the model is unknown, so that only its weights describe it."""
        model = self.deployment.spec.model
        return model.config_ref is None and find_model(model.id) is None

    @property
    def name(self) -> str:
        """The deployment's."""
        return self.deployment.metadata.name

    @property
    def subject(self) -> str:
        """The deployment as messages name it."""
        return self.name_of("ModelDeployment", self.name)

    def name_of(self, kind: str, name: str) -> str:
        """An object of the deployment's namespace as messages name it."""
        return f"{kind} {self.deployment.metadata.namespace}/{name}"


class StatusScene(Scene):
    """A scene after the pass has decided and written."""

    decision: Decision
    outcome: Outcome = Outcome()
    now: datetime

    @property
    def least_workers(self) -> int:
        """Worker pods of the least replicas."""
        nodes = self.decision.plan.nodes_per_replica if self.decision.plan else 1
        return self.deployment.spec.scaling.min_replicas * nodes

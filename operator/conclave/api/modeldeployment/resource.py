"""The kind ModelDeployment itself: its names, its metadata and the rules of the whole object."""

from __future__ import annotations

from typing import Literal

from conclave.api.base import ApiModel
from conclave.api.group import API_VERSION
from conclave.api.kind import Column, Kind, Scale
from conclave.api.meta import ObjectMeta
from conclave.api.modeldeployment.scaling import NO_SCALE_TO_ZERO
from conclave.api.modeldeployment.spec import ModelDeploymentSpec
from conclave.api.modeldeployment.status import ModelDeploymentStatus
from conclave.api.rules import Message, NeverChanges, Rule

KIND: Literal["ModelDeployment"] = "ModelDeployment"
PLURAL = "modeldeployments"


def _name_of_model(deployment: ModelDeployment) -> str:
    """As the CEL beside it: an empty name is a name, which another rule refuses."""
    served_name = deployment.spec.model.served_name
    return deployment.metadata.name if served_name is None else served_name


class ModelDeployment(ApiModel):
    """An OpenAI-compatible endpoint of one model, served by Ray Serve and vLLM."""

    change_rules = {  # noqa: RUF012 - ClassVar of the base
        (): (
            NeverChanges(
                "(has({object}.spec.model.servedName) ? {object}.spec.model.servedName : {object}.metadata.name)",
                _name_of_model,
                "spec.model.servedName never changes, because clients send it: it is {before} (the object's name when "
                "left out) and cannot become {after}. Create a new ModelDeployment for a new name",
            ),
        ),
        ("spec", "scaling", "minReplicas"): (NO_SCALE_TO_ZERO,),
    }
    rules = (
        Rule(
            "has(self.spec.model.servedName) || !has(self.spec.model.adapters)"
            " || self.spec.model.adapters.all(adapter, adapter.name != self.metadata.name)",
            lambda deployment: (
                deployment.spec.model.served_name is not None
                or deployment.metadata.name not in [adapter.name for adapter in deployment.spec.model.adapters]
            ),
            Message(
                'spec.model.adapters: the name "{metadata.name}" is the name of the base model, '
                "since servedName is left out. Give each adapter a name of its own"
            ),
        ),
    )

    api_version: Literal["conclave.dev/v1alpha1"] = API_VERSION
    kind: Literal["ModelDeployment"] = KIND
    metadata: ObjectMeta
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus | None = None

    @property
    def served_name(self) -> str:
        """The model name that clients send."""
        return _name_of_model(self)


_READY = '.status.conditions[?(@.type=="Ready")]'
MODEL_DEPLOYMENT = Kind(
    name=KIND,
    plural=PLURAL,
    model=ModelDeployment,
    short_names=("mdl",),
    columns=(
        Column("Model", "string", ".spec.model.id"),
        Column("Accelerator", "string", ".status.plan.accelerator"),
        Column("Parallelism", "string", ".status.plan.parallelism"),
        Column("Wanted", "integer", ".status.replicas"),
        Column("Answering", "integer", ".status.readyReplicas"),
        Column("Ready", "string", f"{_READY}.status"),
        Column("Reason", "string", f"{_READY}.reason"),
        Column("Age", "date", ".metadata.creationTimestamp"),
    ),
    scale=Scale(".spec.scaling.minReplicas", ".status.replicas", ".status.selector"),
)

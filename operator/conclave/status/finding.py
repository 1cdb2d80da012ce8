"""One reason why a deployment is not as it should be, what a condition says, and all that the checks may look at."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import ConditionType, Reason
from conclave.observation import Decision, Observed, Outcome

Status = Literal["True", "False", "Unknown"]


class Verdict(NamedTuple):
    """What a condition says."""

    status: Status
    reason: Reason
    message: str


class Finding(BaseModel):
    """A fact with its remedy; `conclave explain` prints it, conditions carry it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    condition: ConditionType
    """The condition that it makes false, besides Ready."""
    reason: Reason
    subject: str
    """The object that it was seen on, for instance `Pod llm/mixtral-8x7b-head-abcde`."""
    seen: str
    remedy: str = ""
    """What to do; empty where waiting is enough."""
    evidence: tuple[str, ...] = ()
    """Where it was seen, from the object down to the line."""
    is_stalled: bool = True
    """Whether somebody has to act before it can go on."""

    @property
    def message(self) -> str:
        """Object, what was seen, remedy."""
        return f"{self.subject}: {self.seen}" + (f"; {self.remedy}" if self.remedy else "")


class Scene(BaseModel):
    """What a check sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployment: ModelDeployment
    observed: Observed
    decision: Decision
    outcome: Outcome = Outcome()
    now: datetime

    @property
    def name(self) -> str:
        """The deployment's."""
        return self.deployment.metadata.name

    @property
    def least_workers(self) -> int:
        """Worker pods of the least replicas."""
        nodes = self.decision.plan.nodes_per_replica if self.decision.plan else 1
        return self.deployment.spec.scaling.min_replicas * nodes

    def name_of(self, kind: str, name: str) -> str:
        """An object of the deployment's namespace as messages name it."""
        return f"{kind} {self.deployment.metadata.namespace}/{name}"

"""What one pass decides for a ModelDeployment: the objects that should exist, the plan, and what the rest waits for."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from conclave.api.modeldeployment import Endpoint
from conclave.api.reasons import ConditionType
from conclave.finding import Finding
from conclave.kubernetes.objects import JsonObject
from conclave.planning.roles import Plan


class Decision(BaseModel):
    """Made by `sync.decide`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan | None = None
    """The recorded plan, or a fresh one where nothing was recorded for this spec."""
    refusal: Finding | None = None
    """Why there is no plan for this spec. What already runs keeps running."""
    waits_for: tuple[Finding, ...] = ()
    """What the pods of this spec wait for: a download, an inspection. No pods of it are wanted before."""
    objections: tuple[Finding, ...] = ()
    """What the operator's own lists and rules do not allow, of what runs (it keeps running) and of what is recorded."""
    endpoint: Endpoint | None = None
    """Where the model answers once it runs."""
    update_available: str = ""
    """What a refresh would change; empty where the recorded build is what would be built now."""
    create: tuple[JsonObject, ...] = ()
    """Created once and never patched or read; 409 means that the object exists. A failure stops what follows."""
    apply: tuple[JsonObject, ...] = ()
    """Compared with what was observed, then server-side applied, in this order."""
    delete: tuple[JsonObject, ...] = ()
    """Owned objects (apiVersion, kind, metadata.name) that nothing needs any more."""

    def waits(self, condition: ConditionType) -> Finding | None:
        """What keeps this condition from being true before any pod is wanted."""
        return next((finding for finding in self.waits_for if finding.condition is condition), None)

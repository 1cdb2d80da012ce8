"""What the API server refused, as data: a condition has to name it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ApiFailure(BaseModel):
    """One request that the API server refused, or that never reached the API server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verb: str
    """RBAC verb: get, list, watch, create, patch, delete."""
    group: str = ""
    """API group of the resource; empty for the core group."""
    resource: str
    """Plural of the resource, for instance rayservices."""
    namespace: str = ""
    name: str = ""
    code: int
    """HTTP status; 0 where no answer came."""
    reason: str
    """Kubernetes' reason (Forbidden, NotFound, Conflict, Invalid ...), or one of the two below."""
    message: str = ""


FOREIGN_OWNER = "ForeignOwner"
"""`ApiFailure.reason`: an object of that name exists and has another owner; the operator left it unchanged."""
UNREACHABLE = "Unreachable"
"""`ApiFailure.reason`: no answer from the API server."""


class Outcome(BaseModel):
    """The result of the writes of one pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    written: tuple[str, ...] = ()
    """`verb Kind/name` of each write, in order; empty when nothing had to change."""
    failures: tuple[ApiFailure, ...] = ()

"""A plan is a tuple of roles: groups of equal engines that together make one replica of a model.

Today every plan has one role, the engine that serves. Prefill and decode groups, or data-parallel groups, are further
roles of the same shape. `status.plan` and the records keep the flat form of one role (`conclave.api.plan.Plan`).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from conclave.api import plan as wire
from conclave.api.plan import RejectedOption

SERVE = "serve"
"""The role that answers requests."""


class Role(wire.RolePlan):
    """Equal engines, one in each replica: their accelerator, layout and memory."""

    name: str = SERVE


class Plan(BaseModel):
    """How the GPUs of one replica share a model, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roles: tuple[Role, ...] = Field(min_length=1)
    because: tuple[str, ...] = ()
    """Plain sentences that give the reasons for this plan."""
    rejected: tuple[RejectedOption, ...] = ()
    """Options that were considered and not taken."""

    @property
    def role(self) -> Role:
        """The role that answers requests."""
        return self.roles[0]

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of all roles of one replica."""
        return sum(role.gpus_per_replica for role in self.roles)

    @property
    def nodes_per_replica(self) -> int:
        """Worker pods of all roles of one replica."""
        return sum(role.nodes_per_replica for role in self.roles)

    def flat(self) -> wire.Plan:
        """The plan as `status.plan` and the records show it. Raises ValueError for a plan of several roles."""
        if len(self.roles) > 1:
            raise ValueError(f"a plan of {len(self.roles)} roles has no flat form, expected 1 role")
        layout = {name: getattr(self.role, name) for name in wire.RolePlan.model_fields}
        return wire.Plan(**layout, because=self.because, rejected=self.rejected)

    @classmethod
    def of_flat(cls, plan: wire.Plan) -> Plan:
        """A recorded plan: of one role."""
        layout = {name: getattr(plan, name) for name in wire.RolePlan.model_fields}
        return cls(roles=(Role(**layout),), because=plan.because, rejected=plan.rejected)

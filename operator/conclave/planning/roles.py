"""A plan is a tuple of roles: groups of equal engines that together make one replica of a model.

Today every plan has one role, the engine that serves. Prefill and decode groups, or data-parallel groups, are further
roles of the same shape. `status.plan` and the records keep the flat form of one role (`conclave.api.plan.Plan`).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from conclave.api import plan as wire
from conclave.api.plan import PlanMemory, RejectedOption

SERVE = "serve"
"""The role that answers requests."""


class Role(BaseModel):
    """Equal engines, one in each replica: their accelerator, layout and memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = SERVE
    accelerator: str
    """Product name as node labels spell it, or `cpu`."""
    tensor: int = Field(ge=1)
    pipeline: int = Field(ge=1)
    data: int = Field(default=1, ge=1)
    expert_parallel: bool = False
    gpus_per_replica: int = Field(ge=1)
    """tensor x pipeline x data."""
    nodes_per_replica: int = Field(ge=1)
    """Worker pods of one replica, each on a node of its own."""
    gpus_per_node: int = Field(ge=1)
    max_model_len: int = Field(ge=1)
    """Context length that the engine is started with, in tokens."""
    longest_context_tokens: int = Field(ge=0)
    kv_cache_tokens: int = Field(ge=0)
    max_concurrency: int = Field(ge=0)
    """Requests of max_model_len tokens that the KV cache holds at once."""
    memory: PlanMemory
    """Of the fullest GPU."""


class Plan(BaseModel):
    """How one replica of a model is laid out over GPUs, and why."""

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

    @property
    def accelerators(self) -> tuple[str, ...]:
        """The products of all roles, each once."""
        return tuple(dict.fromkeys(role.accelerator for role in self.roles))

    def flat(self) -> wire.Plan:
        """The plan as `status.plan` and the records show it: the role that answers, and the reasons."""
        layout = self.role.model_dump(exclude={"name"})
        return wire.Plan(**layout, because=self.because, rejected=self.rejected)

    @classmethod
    def of_flat(cls, plan: wire.Plan) -> Plan:
        """A recorded plan: of one role."""
        fields = set(Role.model_fields) - {"name"}
        role = Role.model_validate({name: getattr(plan, name) for name in fields})
        return cls(roles=(role,), because=plan.because, rejected=plan.rejected)

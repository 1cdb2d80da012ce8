"""The hardware: nodes with accelerators, in use and free.

Made by the cluster room or the CLI, read by the plan.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Node(BaseModel):
    """One node with accelerators of one kind (also: this machine, whose accelerator may be `cpu`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    accelerator: str
    """Product name as the node label spells it, for instance NVIDIA-H100-80GB-HBM3; `cpu` where there is no GPU."""
    memory_bytes: int = Field(ge=0)
    """Memory of one accelerator."""
    gpus: int = Field(ge=0)
    """Accelerators on the node (for `cpu`: ranks that this machine can run)."""
    free_gpus: int = Field(ge=0)
    """Accelerators that no other workload holds; the deployment's own pods count as free."""
    labels: dict[str, str] = Field(default_factory=dict)
    schedulable: bool = True


class Inventory(BaseModel):
    """All nodes with accelerators."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: tuple[Node, ...] = ()

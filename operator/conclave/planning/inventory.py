"""The hardware: nodes with accelerators, in use and free, and what keeps pods off some of them.

Made by the cluster room or the CLI, read by the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.modeldeployment import Toleration
from conclave.catalogue.accelerators import is_product
from conclave.names import gpu_vendor

NAMED_NODES = 3
"""Nodes that a sentence names; the rest are counted."""
_LONGEST_NAME = 63
"""Characters of a node's name that are shown."""


class Sharing(StrEnum):
    """How several pods get one GPU at a time."""

    NONE = ""
    TIME_SLICING = "time slicing"
    """NVIDIA's device plugin, or GKE's: a pod that asks for two may get one GPU twice."""
    MPS = "MPS"
    """As time slicing, and each pod may take its part of the memory only, while CUDA reports all of it."""
    BY_SCHEDULER = "a scheduler such as HAMi"
    """A pod that asks for two GPUs gets two different ones, and all memory of each where it asks for no less."""


class Barrier(BaseModel):
    """Why no pod of the deployment may use a node, and what would admit one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: str
    """For instance "taint sku=gpu:NoSchedule is not tolerated"."""
    remedy: str
    """For instance "add hardware.tolerations [{key: sku, ...}]"."""
    tolerations: tuple[Toleration, ...] = ()
    """Those that the deployment lacks, where they alone would admit its pods."""


class Node(BaseModel):
    """One node with accelerators of one kind (also: this machine, whose accelerator may be `cpu`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    accelerator: str
    """Product name as the node label spells it, for instance NVIDIA-H100-80GB-HBM3; `cpu` where there is no GPU."""
    memory_bytes: int = Field(ge=0)
    """Memory of one accelerator."""
    gpus: int = Field(ge=0)
    """Accelerators on the node: physical ones, or MIG slices (for `cpu`: ranks that this machine can run)."""
    free_gpus: int = Field(ge=0)
    """Accelerators that no other workload holds; the deployment's own pods count as free."""
    labels: dict[str, str] = Field(default_factory=dict)
    resource: str = ""
    """What pods ask for; empty where it is the vendor's own name, nvidia.com/gpu or amd.com/gpu."""
    selector: dict[str, str] = Field(default_factory=dict)
    """Labels by which pods find the accelerator; empty where it is the vendor's product label."""
    sharing: Sharing = Sharing.NONE
    devices: int = 0
    """What the node offers of the resource, where several pods share a GPU."""
    barriers: tuple[Barrier, ...] = ()
    """What keeps the deployment's pods off the node."""

    @property
    def schedulable(self) -> bool:
        """Whether a pod of the deployment may use the node."""
        return not self.barriers

    @property
    def resource_name(self) -> str:
        """What pods ask for."""
        return self.resource or gpu_vendor(self.accelerator).resource

    def is_meant(self, wanted: str) -> bool:
        """Whether a name that an owner wrote means the node's accelerator: its product, or a label that finds it."""
        return any(is_product(name, wanted) for name in (self.accelerator, *self.selector.values()))


class OtherNode(BaseModel):
    """A node whose accelerators no plan can use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    labels: dict[str, str] = Field(default_factory=dict)
    accelerator: str = ""
    """Its product, where it is known."""
    barrier: Barrier


class Inventory(BaseModel):
    """All nodes with accelerators."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: tuple[Node, ...] = ()
    others: tuple[OtherNode, ...] = ()


def node_names(names: Sequence[str]) -> str:
    """For instance "node a", or "nodes a, b, c and 5 more"."""
    shown = sorted(names)[:NAMED_NODES]
    rest = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{'node' if len(names) == 1 else 'nodes'} {', '.join(map(_cut, shown))}{rest}"


def tolerations_in_words(tolerations: Sequence[Toleration]) -> str:
    """As a manifest has them, for instance [{key: sku, operator: Equal, value: "gpu", effect: NoSchedule}]."""
    each = []
    for toleration in tolerations:
        fields = toleration.to_wire()
        if "value" in fields:
            fields["value"] = f'"{fields["value"]}"'  # true and 1 are values, too
        each.append(f"{{{', '.join(f'{field}: {value}' for field, value in fields.items())}}}")
    return f"[{', '.join(each)}]"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"

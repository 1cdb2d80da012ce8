"""Where the GPUs of one replica are: worker pods of equal size on nodes with enough free GPUs.

A worker pod holds one pipeline stage; only a stage larger than a node's GPUs is shared out, in equal parts.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from conclave.planning.inventory import Node
from conclave.planning.layout import Layout


class Placement(BaseModel):
    """Pods of one replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pods: int = Field(ge=1)
    gpus_per_pod: int = Field(ge=1)


def place(layout: Layout, nodes: Sequence[Node]) -> Placement | None:
    """Pods for one replica on the free GPUs, or None if they do not fit.

    A stage that a node of this kind could hold is never shared out: slower than waiting for a whole one.
    """
    stages = layout.pipeline * layout.data
    largest = max((node.gpus for node in nodes), default=0)
    for share in _shares(layout.tensor, largest):
        pods = stages * (layout.tensor // share)
        if sum(node.free_gpus // share for node in nodes) >= pods:
            return Placement(pods=pods, gpus_per_pod=share)
    return None


def _shares(tensor: int, largest: int) -> tuple[int, ...]:
    """Sizes that a pod may have, largest first."""
    if tensor <= largest:
        return (tensor,)
    return tuple(share for share in range(largest, 0, -1) if tensor % share == 0)

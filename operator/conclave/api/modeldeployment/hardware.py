"""`spec.hardware`: on which nodes and accelerators a model may run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import AcceleratorName, LabelKey, LabelValue, NodeSelector
from conclave.api.rules import Message, Rule


class Toleration(ApiModel):
    """A Kubernetes toleration."""

    rules = (
        Rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
            lambda toleration: toleration.operator != "Exists" or toleration.value is None,
            Message('value "{value|}" is given with operator Exists: leave it out, or use Equal'),
        ),
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            lambda toleration: toleration.key is not None or toleration.operator == "Exists",
            Message("without a key the operator must be Exists (which tolerates every taint), not {operator|Equal}"),
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
            Message("tolerationSeconds {tolerationSeconds|} needs effect NoExecute, not {effect|any effect}"),
        ),
    )

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None


class Hardware(ApiModel):
    """Which nodes may run the model. Without `accelerators`, every known accelerator of the cluster is considered."""

    accelerators: Annotated[tuple[AcceleratorName, ...], Field(max_length=16)] = ()
    """Accelerators in order of preference, as the node label spells them. A prefix of the label's value is enough."""
    max_gpus_per_replica: Annotated[int, Field(ge=1, le=1024)] = 8
    """Most GPUs that one replica may use."""
    node_selector: NodeSelector = Field(default_factory=dict)
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()

"""The plan, as `status.plan` and `conclave plan -o json` show it. `conclave.planning` makes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel

MOST_LABEL_VALUES = 64
"""Values of one node label in a plan: a cloud has some ten machine types with one accelerator."""


_LabelValues = Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=MOST_LABEL_VALUES)]


class PlanMemory(ApiModel):
    """Memory of the fullest GPU of a replica, in bytes. All other fields add up to `total`."""

    total: int = Field(ge=0)
    """Memory of one GPU, as its driver reports it."""
    weights: int = Field(ge=0)
    """What vLLM loads on this GPU: its share of the parameters, the rotary tables that all GPUs hold, and the slots of
    adapters."""
    kv_cache: int = Field(ge=0)
    """KV cache that vLLM is expected to allocate."""
    activations: int = Field(ge=0)
    """Peak of the forward pass that vLLM profiles."""
    graphs: int = Field(ge=0)
    """CUDA graphs."""
    overhead: int = Field(ge=0)
    """Memory outside of torch, such as libraries and NCCL."""
    free: int
    """What gpu_memory_utilization leaves unused."""


class RejectedOption(ApiModel):
    """An option that the planner considered, and why it was not chosen."""

    option: str = Field(max_length=256)
    """For instance "TP=8 on NVIDIA-A100-SXM4-80GB"."""
    reason: str = Field(max_length=1024)
    """For instance "10 key-value heads do not divide by 8"."""


def _parallelism(plan: dict[str, int]) -> str:
    sizes = [f"TP={plan['tensor']}"]
    sizes += [f"{name}={plan[field]}" for name, field in (("PP", "pipeline"), ("DP", "data")) if plan[field] > 1]
    return " ".join([*sizes, *(["EP"] if plan["expert_parallel"] else [])])


def _is_absent(value: object) -> bool:
    return value is None


class RolePlan(ApiModel):
    """How the GPUs of one role of a replica share a model."""

    accelerator: str = Field(max_length=128)
    """The accelerator's product name as node labels spell it, or `cpu`."""
    resource: Annotated[str, Field(max_length=128)] | None = Field(default=None, exclude_if=_is_absent)
    """What worker pods ask for, where it is not nvidia.com/gpu or amd.com/gpu: for instance nvidia.com/mig-3g.40gb."""
    node_labels: Annotated[dict[str, _LabelValues], Field(max_length=4)] | None = Field(
        default=None, exclude_if=_is_absent
    )
    """Labels of the nodes that worker pods may go to, each with its values, where these are not the product label of
    the vendor's feature discovery: for instance cloud.google.com/gke-accelerator."""
    tensor: int = Field(ge=1)
    """Tensor-parallel size."""
    pipeline: int = Field(ge=1)
    """Pipeline-parallel size."""
    data: int = Field(default=1, ge=1)
    """Data-parallel size."""
    expert_parallel: bool = False
    """Whether each tensor x data rank holds whole experts (true) or a slice of every expert (false)."""
    parallelism: str = Field(default_factory=_parallelism, max_length=64)
    """The sizes in one short text for tables, for instance "TP=8 PP=2 EP"."""
    gpus_per_replica: int = Field(ge=1)
    """GPUs of one replica: tensor x pipeline x data."""
    nodes_per_replica: int = Field(ge=1)
    """Nodes of one replica. Each has one worker pod."""
    gpus_per_node: int = Field(ge=1)
    """GPUs of one replica on each of its nodes, so in each of its worker pods."""
    max_model_len: int = Field(ge=1)
    """Context length of the engine, in tokens."""
    longest_context_tokens: int = Field(ge=0)
    """Longest request that the KV cache holds, in tokens."""
    kv_cache_tokens: int = Field(ge=0)
    """Tokens that the KV cache of one replica holds."""
    max_concurrency: int = Field(ge=0)
    """Requests of maxModelLen tokens that the KV cache holds at once, rounded down."""
    memory: PlanMemory


class Plan(RolePlan):
    """How the GPUs of one replica share a model, and why."""

    because: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(default=(), max_length=32)
    """Reasons for this plan, one sentence each."""
    rejected: tuple[RejectedOption, ...] = Field(default=(), max_length=64)
    """Options that were considered and not chosen."""

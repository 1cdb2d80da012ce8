"""Bytes of the slots that vLLM sets aside for LoRA adapters beside a model's weights.

Every adapter gets one of the largest rank, for every linear layer, filled or not: A is as wide as the layer's inputs
and whole on column-parallel ranks, B as its outputs (`vllm/lora/layers`). Embedding and head count for all models,
though some classes have no slot there; a layer that a checkpoint holds fused counts as if it were split.
"""

from __future__ import annotations

from conclave.catalogue.engine_classes import takes_adapters, vllm_name
from conclave.catalogue.shapes import GroupedAttention, LatentAttention, Layer, ModelFacts
from conclave.planning.layout import Layout


def adapter_refusal(facts: ModelFacts, adapters: int) -> str | None:
    """Why vLLM would not load that many adapters for this model."""
    if not adapters or takes_adapters(facts.architecture):
        return None
    return f"model.adapters names {adapters}, and {vllm_name()}'s {facts.architecture} has no LoRA adapters"


def adapter_bytes(facts: ModelFacts, layout: Layout, dtype_bytes: int, *, slots: int, rank: int) -> tuple[int, ...]:
    """Bytes for each pipeline stage on its fullest rank."""
    stages = layout.stages(len(facts.layers))
    ends = facts.vocab + facts.hidden
    return tuple(
        slots
        * rank
        * dtype_bytes
        * (
            sum(_layer_widths(facts.hidden, facts.layers[index], layout) for index in stage)
            + (ends if stage is stages[0] else 0)
            + (ends if stage is stages[-1] else 0)
        )
        for stage in stages
    )


def _layer_widths(hidden: int, layer: Layer, layout: Layout) -> int:
    """Inputs and outputs of all linear layers on one rank."""
    attention = layer.attention
    total = _grouped(hidden, attention, layout) if isinstance(attention, GroupedAttention) else 0
    total += _latent(hidden, attention, layout) if isinstance(attention, LatentAttention) else 0
    if layer.recurrence is not None:
        total += 2 * hidden + (layer.recurrence.projected + layer.recurrence.inner) // layout.tensor
    if layer.dense is not None:
        total += _gated(hidden, layer.dense.intermediate // layout.tensor)
    if layer.moe is not None:
        moe = layer.moe
        total += hidden + moe.experts
        total += layout.local_experts(moe.experts) * _gated(hidden, moe.intermediate // layout.expert_slices)
        total += _gated(hidden, moe.shared_intermediate // layout.tensor) if moe.shared_intermediate else 0
    return total


def _gated(hidden: int, share: int) -> int:
    """Gate, up and down."""
    return 3 * (hidden + share)


def _grouped(hidden: int, attention: GroupedAttention, layout: Layout) -> int:
    query = attention.heads // layout.tensor * attention.head_dim
    key_value = max(1, attention.kv_heads // layout.tensor) * attention.head_dim
    return 3 * hidden + query + 2 * key_value + query + hidden


def _latent(hidden: int, attention: LatentAttention, layout: Layout) -> int:
    heads = attention.heads // layout.tensor
    query = heads * (attention.nope_head_dim + attention.rope_head_dim)
    expanded = heads * (attention.nope_head_dim + attention.value_head_dim)
    down = hidden + attention.kv_rank + attention.rope_head_dim
    if attention.query_rank is None:
        down += hidden + query
    else:
        down += hidden + attention.query_rank + attention.query_rank + query
    return down + attention.kv_rank + expanded + heads * attention.value_head_dim + hidden

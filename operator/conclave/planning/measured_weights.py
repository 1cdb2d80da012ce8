"""Bytes of measured weights on each pipeline stage's fullest rank: a bound, since only the headers are known.

Called by `weights.py` for architectures that no reader knows. What vLLM cuts, and how, is in
`vllm/model_executor/layers/{linear,vocab_parallel_embedding}.py`: columns or rows of matrices, rows of the vocabulary.
"""

from __future__ import annotations

from math import ceil

from conclave.catalogue.measured import Amount, MeasuredLayer, MeasuredWeights
from conclave.catalogue.shapes import GroupedAttention, Layer, ModelFacts, WeightFormat
from conclave.planning.layout import Layout


def measured_bytes(
    facts: ModelFacts, measured: MeasuredWeights, layout: Layout, dtype_bytes: int, weights: WeightFormat | None
) -> tuple[int, ...]:
    """Bytes for each pipeline stage. `weights` counts where vLLM converts while it loads; else the files are as loaded.

    Every stage counts the embedding and the head, which some classes build on each.
    """
    rules = weights.rules if weights is not None else ()
    online = next((rule.format for rule in rules if rule.format is not None and rule.format.online), None)
    matrix_bytes = online.bits / 8 if online is not None else dtype_bytes

    def layer_bytes(layer: Layer, stored: MeasuredLayer) -> float:
        return (
            stored.matrices.served_bytes(matrix_bytes) / layout.tensor
            + stored.fused.served_bytes(matrix_bytes) * _fused_share(layer, layout)
            + stored.keys_values.served_bytes(matrix_bytes) * _key_value_share(layer, layout)
            + stored.experts.served_bytes(matrix_bytes) * _expert_share(layer, layout)
            + stored.whole.served_bytes(dtype_bytes)
        )

    layers = [layer_bytes(layer, stored) for layer, stored in zip(facts.layers, measured.layers, strict=True)]
    ends = _served(measured.embedding, measured.head, dtype_bytes) / layout.tensor
    ends += _served(measured.whole, measured.encoders, dtype_bytes)
    return tuple(ceil(sum(layers[index] for index in stage) + ends) for stage in layout.stages(len(layers)))


def _served(first: Amount, second: Amount, dtype_bytes: int) -> float:
    return first.served_bytes(dtype_bytes) + second.served_bytes(dtype_bytes)


def _key_value_share(layer: Layer, layout: Layout) -> float:
    attention = layer.attention
    return 1 / min(layout.tensor, attention.kv_heads) if isinstance(attention, GroupedAttention) else 1 / layout.tensor


def _fused_share(layer: Layer, layout: Layout) -> float:
    attention = layer.attention
    if not isinstance(attention, GroupedAttention):
        return 1 / layout.tensor
    local = attention.heads / layout.tensor + 2 * max(1, attention.kv_heads / layout.tensor)
    return local / (attention.heads + 2 * attention.kv_heads)


def _expert_share(layer: Layer, layout: Layout) -> float:
    if layer.moe is None:
        return 1 / layout.tensor
    return layout.local_experts(layer.moe.experts) / layer.moe.experts / layout.expert_slices

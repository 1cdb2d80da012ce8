"""What vLLM 0.32 spends on a GPU besides weights and KV cache, and so what is left for the cache.

pool = total x gpu_memory_utilization - weights - activations - graphs - overhead
(`vllm/v1/worker/gpu_worker.py:determine_available_memory`; on CPU `cpu_worker.py`). Activations, graphs and overhead
are measured by vLLM and estimated here; the constants come from published start-up logs (tests/data/published).
"""

from __future__ import annotations

from conclave.catalogue.accelerators import Accelerator
from conclave.catalogue.shapes import GroupedAttention, Layer, ModelFacts
from conclave.planning.layout import Layout

_MIB = 2**20
_GIB = 2**30

SAMPLER_BYTES_PER_LOGIT = 18
"""Logits in 16 bits, gathered and not, in float32, their probabilities, and the noise that they are divided by."""
SORTING_BYTES_PER_LOGIT = 38.5
"""The same in vLLM 0.9 to 0.16, which sorted the logits and did not yet count the graphs."""
GRAPH_BYTES_PER_LAYER = int(0.3 * _MIB)
"""One captured graph of one layer."""
ALONE_OVERHEAD_BYTES = int(0.3 * _GIB)
"""Libraries' own allocations where a rank works alone."""
JOINED_OVERHEAD_BYTES = int(0.4 * _GIB)
"""The same with NCCL's buffers over PCIe or between nodes."""
NVLINK_OVERHEAD_BYTES = int(1.0 * _GIB)
"""The same with the all-reduce kernels' buffers over NVLink or Infinity Fabric."""
NVSWITCH_OVERHEAD_BYTES = int(2.4 * _GIB)
"""The same with NVLink SHARP (Hopper and later)."""
CPU_OVERHEAD_BYTES = int(1.0 * _GIB)
"""A worker process of the CPU build before it holds a model."""
UNCERTAIN_SHARE = 0.025
"""Share of a GPU's memory by which published start-ups missed their plan: graphs, workspaces of 4-bit kernels."""
_NVLINK_SHARP_SINCE = 9.0


def activation_bytes(
    facts: ModelFacts, layout: Layout, dtype_bytes: int, *, tokens: int, sequences: int, graphs: int
) -> int:
    """Peak of the profiling pass: the widest layer over a full batch, or the sampler over all sequences.

    With the graphs it covers either generation of the sampler, so that the plan holds for older serving images too.
    """
    widest = max(_layer_elements(facts.hidden, layer, layout) for layer in dict.fromkeys(facts.layers))
    residual = 3 * facts.hidden
    logits = min(sequences, tokens) * facts.vocab
    sampler = max(logits * SAMPLER_BYTES_PER_LOGIT, int(logits * SORTING_BYTES_PER_LOGIT) - graphs)
    return max(tokens * (widest + residual) * dtype_bytes, sampler)


def encoder_activation_bytes(facts: ModelFacts, dtype_bytes: int, *, tokens: int) -> int:
    """Peak of an encoder over a full batch, which vLLM profiles first, and the tokens that it hands on."""
    widest = max((encoder.inputs_per_token * encoder.elements_per_input for encoder in facts.encoders), default=0)
    return tokens * (widest + facts.hidden) * dtype_bytes if facts.encoders else 0


def graph_bytes(layers: int, largest: int) -> int:
    """CUDA graphs of one pipeline stage, which vLLM takes off the pool since 0.21: one for each batch size.

    Sizes are 1, 2, 4, then by 8 to 256, then by 16 to the largest.
    """
    sizes = 3 + min(largest, 256) // 8 + max(0, largest - 256) // 16
    return layers * sizes * GRAPH_BYTES_PER_LAYER


def rotary_bytes(facts: ModelFacts, dtype_bytes: int) -> int:
    """The rotary tables, whole on every GPU."""
    return sum(table.positions * table.dim * (4 if table.dtype == "float32" else dtype_bytes) for table in facts.rotary)


def overhead_bytes(layout: Layout, accelerator: Accelerator | None, *, on_cpu: bool) -> int:
    """What libraries take outside of torch; an unknown accelerator counts as the newest."""
    if on_cpu:
        return CPU_OVERHEAD_BYTES
    if layout.gpus == 1:
        return ALONE_OVERHEAD_BYTES
    if layout.tensor == 1 or (accelerator is not None and accelerator.link.startswith("PCIe")):
        return JOINED_OVERHEAD_BYTES
    if accelerator is not None and (accelerator.vendor == "amd" or float(accelerator.compute) < _NVLINK_SHARP_SINCE):
        return NVLINK_OVERHEAD_BYTES
    return NVSWITCH_OVERHEAD_BYTES


def _layer_elements(hidden: int, layer: Layer, layout: Layout) -> int:
    """Elements for each token that are alive at once in the widest part of a layer."""
    attention, widest = layer.attention, hidden
    if isinstance(attention, GroupedAttention):
        local = attention.heads // layout.tensor + 2 * max(1, attention.kv_heads // layout.tensor)
        widest = 2 * local * attention.head_dim + hidden
    elif attention is not None:
        heads = attention.heads // layout.tensor
        query = heads * (attention.nope_head_dim + attention.rope_head_dim)
        widest = 3 * query + heads * attention.value_head_dim + hidden
    if layer.recurrence is not None:
        widest = max(widest, 2 * (layer.recurrence.projected + layer.recurrence.inner) // layout.tensor + hidden)
    if layer.dense is not None:
        widest = max(widest, 3 * layer.dense.intermediate // layout.tensor + hidden)
    if layer.moe is not None:
        share = layer.moe.intermediate // layout.expert_slices
        routed = layer.moe.top_k * (max(2 * share, hidden) + max(share, hidden))
        widest = max(widest, routed + hidden + 3 * layer.moe.shared_intermediate // layout.tensor)
    return widest

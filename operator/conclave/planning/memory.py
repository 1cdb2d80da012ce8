"""What vLLM 0.32 spends on a GPU besides weights and KV cache, and so what is left for the cache.

pool = total x gpu_memory_utilization - weights - activations - graphs - overhead
(`vllm/v1/worker/gpu_worker.py:determine_available_memory`; on CPU `cpu_worker.py`). Activations, graphs and overhead
are measured by vLLM and estimated here; constants come from published start-up logs (tests/data/published), and what
the sampler takes from the shipped version's own model runner (`vllm/v1/worker/gpu`).
"""

from __future__ import annotations

from conclave.catalogue.accelerators import Accelerator
from conclave.catalogue.shapes import GroupedAttention, Layer, ModelFacts
from conclave.planning.layout import Layout
from conclave.planning.weights import padded_vocabulary

_MIB = 2**20
_GIB = 2**30

PENALTY_BYTES_PER_LOGIT = 4 + 1 / 8
"""What the sampler keeps for each word and sequence: how often the answer has it, and a bit for the prompt
(`v1/worker/gpu/sample/penalties.py`)."""
GRAMMAR_BYTES_PER_LOGIT = 1 / 8
"""What it keeps for structured output (`v1/worker/gpu/structured_outputs.py`)."""
COMPILED_STATES = 6
"""Hidden states of a full batch that are alive beside that embedding; 4.8 and 5.3 were seen."""
CPU_SAMPLER_BYTES_PER_LOGIT = 38.5
"""Peak of the CPU build's sampler, which sorts float32 logits with their indices."""
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


def forward_bytes(facts: ModelFacts, layout: Layout, dtype_bytes: int, tokens: int) -> int:
    """Peak of the profiling pass over a full batch: its widest layer."""
    widest = max(_layer_elements(facts.hidden, layer, layout) for layer in dict.fromkeys(facts.layers))
    residual = 3 * facts.hidden
    return tokens * (widest + residual) * dtype_bytes


def logits_bytes(facts: ModelFacts, layout: Layout, dtype_bytes: int, *, tokens: int, sequences: int) -> int:
    """Peak of the profiling pass behind the layers, on the last pipeline stage: hidden states, and logits of all
    sequences. The profile samples without penalties, top-p and top-k, so that the sampler copies no logits; scaling
    them, or gathering them from the ranks, does.
    """
    copies = 2 if layout.tensor == 1 else 2 + 1 / layout.tensor
    rows = min(sequences, tokens)
    return tokens * facts.hidden * dtype_bytes + int(rows * facts.vocab * copies) * dtype_bytes


def compile_bytes(facts: ModelFacts, layout: Layout, dtype_bytes: int, tokens: int) -> int:
    """Peak of a profiling pass that compiles the model, as every pod's does: one more embedding, and hidden states.

    Seen in starts of 0.32 (tests/data/emulated_starts.yaml) and of 0.31 on a real card. An eager engine has none.
    """
    table = padded_vocabulary(facts.vocab) // layout.tensor * facts.hidden
    return (table + COMPILED_STATES * tokens * facts.hidden) * dtype_bytes


def sampler_state_bytes(facts: ModelFacts, sequences: int, step_tokens: int) -> int:
    """What the sampler keeps beside the weights on the last pipeline stage."""
    return int(sequences * facts.vocab * (PENALTY_BYTES_PER_LOGIT + step_tokens * GRAMMAR_BYTES_PER_LOGIT))


def cpu_logits_bytes(facts: ModelFacts, *, tokens: int, sequences: int) -> int:
    """Peak of the CPU build's sampler."""
    return int(min(sequences, tokens) * facts.vocab * CPU_SAMPLER_BYTES_PER_LOGIT)


def encoder_activation_bytes(facts: ModelFacts, dtype_bytes: int, *, tokens: int) -> int:
    """Peak of an encoder over a full batch, which vLLM profiles first, and the tokens that it hands on."""
    widest = max((encoder.inputs_per_token * encoder.elements_per_input for encoder in facts.encoders), default=0)
    return tokens * (widest + facts.hidden) * dtype_bytes if facts.encoders else 0


def graph_bytes(layers: int, largest: int, step_tokens: int = 1) -> int:
    """CUDA graphs of one pipeline stage, which vLLM takes off the pool since 0.21: one for each batch size.

    Sizes are 1, 2, 4, then by 8 to 256, then by 16 to the largest; and, where a sequence has several tokens a step, so
    many sequences each (`vllm/config/vllm.py:_set_cudagraph_sizes`).
    """
    steps = [*(1, 2, 4), *range(8, 256, 8), *range(256, largest + 1, 16)]
    sizes = {size * tokens for size in steps for tokens in {1, step_tokens} if size * tokens <= largest}
    return layers * len(sizes) * GRAPH_BYTES_PER_LAYER


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

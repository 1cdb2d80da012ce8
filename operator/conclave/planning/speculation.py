"""What speculative decoding adds to an engine: layers that draft, their bytes, and what vLLM 0.32 refuses with it.

Sources: `vllm/config/speculative.py`, `vllm/v1/worker/gpu/spec_decode`, `model_executor/models/llama_eagle3.py`,
`deepseek_mtp.py`. The plan does not read a head's own config.json: it counts the largest head that is usual for the
model, so that a smaller one leaves more KV cache than planned.
"""

from __future__ import annotations

from collections.abc import Iterator

from conclave.api.modeldeployment import SpeculativeMethod
from conclave.catalogue.engine_classes import takes_eagle3
from conclave.catalogue.shapes import DenseMlp, FloatType, GroupedAttention, Layer, ModelFacts, WeightFormat
from conclave.planning.layout import Layout
from conclave.planning.matrices import ExpertTiles
from conclave.planning.settings import Speculation
from conclave.planning.weights import DTYPE_BYTES, layer_bytes, padded_vocabulary

EAGLE3_OVER_STAGES = frozenset(
    {
        "LlamaForCausalLM",
        "Llama4ForCausalLM",
        "Llama4ForConditionalGeneration",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    }
)
"""Classes that hand them on from one pipeline stage to the next (`supports_aux_hidden_states_over_pp`)."""

_EAGLE3_STATES = 3
"""Layers of the model whose hidden states an EAGLE-3 head reads."""
_HEAD_WIDTH = 8
"""Width of the feed-forward part of a head for a mixture of experts, in hidden sizes; known heads have 3 to 7."""


def speculation_refusals(facts: ModelFacts, layout: Layout, speculation: Speculation | None) -> Iterator[str]:
    """Why vLLM would not draft for this model, or not in this layout."""
    if speculation is None:
        return
    method, tokens = speculation.method, speculation.tokens
    if method is not SpeculativeMethod.NGRAM and facts.evidence is not None:
        yield (
            f"engine.speculative.method is {method}, and no reader knows {facts.architecture}, so that this release "
            "cannot size what drafts for it; use ngram"
        )
        return
    if method is SpeculativeMethod.MTP:
        if not facts.drafting_layers:
            yield (
                "engine.speculative.method is mtp, and the model has no layers that draft "
                f"(num_nextn_predict_layers) in vLLM's {facts.architecture}; use ngram, or eagle3 with a head"
            )
        elif tokens > facts.drafting_layers and tokens % facts.drafting_layers:
            yield (
                f"engine.speculative.numSpeculativeTokens is {tokens}, expected a multiple of the model's "
                f"{facts.drafting_layers} layers that draft"
            )
    if method is SpeculativeMethod.EAGLE3:
        if not takes_eagle3(facts.architecture):
            yield (
                f"engine.speculative.method is eagle3, and vLLM's {facts.architecture} hands no hidden states to an "
                "EAGLE-3 head; use ngram, or eagle with a head"
            )
        elif layout.pipeline > 1 and facts.architecture not in EAGLE3_OVER_STAGES:
            yield (
                f"engine.speculative.method is eagle3, and vLLM's {facts.architecture} does not hand hidden states "
                f"on over {layout.pipeline} pipeline stages; set parallelism.pipeline 1, or use ngram"
            )


def drafting_layers(facts: ModelFacts, speculation: Speculation | None) -> tuple[Layer, ...]:
    """Decoder layers that draft, which the last pipeline stage holds, with a KV cache of their own."""
    if speculation is None or speculation.method is SpeculativeMethod.NGRAM:
        return ()
    if speculation.method is SpeculativeMethod.MTP:
        return (facts.layers[-1],) * facts.drafting_layers
    attention = facts.attention
    if isinstance(attention, GroupedAttention):
        attention = attention.model_copy(update={"window_tokens": None, "chunked": False, "sinks": False})
    width = max((layer.dense.intermediate for layer in facts.layers if layer.dense), default=0)
    if facts.moe is not None:
        width = max(width, _HEAD_WIDTH * facts.hidden)
    return (Layer(attention=attention, dense=DenseMlp(intermediate=width)),)


def draft_bytes(
    facts: ModelFacts,
    layout: Layout,
    dtype: FloatType,
    weights: WeightFormat | None,
    tiles: ExpertTiles,
    speculation: Speculation | None,
) -> int:
    """Bytes of the weights that draft, on each rank of the last pipeline stage.

    A head is unquantized. It shares the model's embedding, unless another stage holds that, and `eagle` its output
    head. Where one process holds all stages, MTP layers share both.
    """
    layers = drafting_layers(facts, speculation)
    if speculation is None or not layers:
        return 0
    size = DTYPE_BYTES[dtype]
    square = facts.hidden * facts.hidden * size
    table = padded_vocabulary(facts.vocab) // layout.tensor * facts.hidden * size
    total = table if layout.pipeline > 1 else 0
    if speculation.method is SpeculativeMethod.MTP:
        drafting = range(len(facts.layers), len(facts.layers) + len(layers))
        extended = facts.model_copy(update={"layers": (*facts.layers, *layers)})
        total += layer_bytes(extended, layout, dtype, weights, tiles, drafting)
        return total + len(layers) * (2 * square + 3 * facts.hidden * size)
    head = facts.model_copy(update={"layers": layers})
    total += layer_bytes(head, layout, dtype, None, tiles, range(1))
    if speculation.method is SpeculativeMethod.EAGLE:
        return total + 2 * square
    return total + _EAGLE3_STATES * square + _wider_inputs(facts, layout, size) + table + 2 * facts.hidden * size


def draft_state_bytes(
    facts: ModelFacts, dtype_bytes: int, speculation: Speculation | None, *, tokens: int, sequences: int, length: int
) -> int:
    """Bytes of what drafting keeps beside weights: for `ngram` every sequence's text, else hidden states of a batch."""
    if speculation is None:
        return 0
    if speculation.method is SpeculativeMethod.NGRAM:
        return sequences * length * 4
    states = _EAGLE3_STATES + 1 if speculation.method is SpeculativeMethod.EAGLE3 else 1
    return states * tokens * facts.hidden * dtype_bytes


def _wider_inputs(facts: ModelFacts, layout: Layout, dtype_bytes: int) -> int:
    """An EAGLE-3 head's attention reads a token's embedding beside the hidden state."""
    attention = facts.attention
    if not isinstance(attention, GroupedAttention):
        return 2 * facts.hidden * facts.hidden * dtype_bytes
    heads = attention.heads // layout.tensor + 2 * max(1, attention.kv_heads // layout.tensor)
    return heads * attention.head_dim * facts.hidden * dtype_bytes

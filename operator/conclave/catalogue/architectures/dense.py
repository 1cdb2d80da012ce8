"""Readers of dense decoders: Llama and its relatives (Mistral, Qwen2, Qwen3, Phi-3) and Gemma 1 to 3.

What each vLLM class adds is in `vllm/model_executor/models/{llama,mistral,qwen2,qwen3,phi3,gemma,gemma2,gemma3}.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from conclave.catalogue.architectures.blocks import decoder, grouped_attention, rotary, windows
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.shapes import DenseMlp, Layer, ModelFacts, Rotary

_ALL_SLIDE = (True,)


def _llama(fields: Fields) -> ModelFacts:
    """Llama, Mistral and what is built as them."""
    bias = fields.flag("attention_bias") or fields.flag("bias")
    mlp = DenseMlp(intermediate=fields.size("intermediate_size"), bias=fields.flag("mlp_bias"))
    layers = tuple(
        Layer(
            attention=grouped_attention(
                fields, window_tokens=window, qkv_bias=fields.flag("qkv_bias", bias), output_bias=bias
            ),
            dense=mlp,
        )
        for window in windows(fields, default_pattern=_ALL_SLIDE)
    )
    return decoder(fields, fields.architecture(), layers, rotary=rotary(fields, grouped_attention(fields).head_dim))


def _phi3(fields: Fields) -> ModelFacts:
    facts = _llama(fields)
    return facts.model_copy(update={"architecture": "Phi3ForCausalLM"})


def _qwen(fields: Fields, *, bias: bool, qk_norm: str) -> ModelFacts:
    sliding = windows(fields, default_pattern=_ALL_SLIDE) if fields.flag("use_sliding_window") else None
    count = len(sliding or windows(fields))
    first = fields.size("max_window_layers", 28, least=0)
    mlp = DenseMlp(intermediate=fields.size("intermediate_size"))
    layers = tuple(
        Layer(
            attention=grouped_attention(
                fields,
                window_tokens=sliding[index] if sliding and (fields.has("layer_types") or index >= first) else None,
                qkv_bias=bias,
                qk_norm=qk_norm,
            ),
            dense=mlp,
        )
        for index in range(count)
    )
    return decoder(fields, fields.architecture(), layers, rotary=rotary(fields, grouped_attention(fields).head_dim))


def _qwen2(fields: Fields) -> ModelFacts:
    return _qwen(fields, bias=True, qk_norm="none")


def _qwen3(fields: Fields) -> ModelFacts:
    return _qwen(fields, bias=fields.flag("attention_bias"), qk_norm="per_head")


def _gemma(fields: Fields, *, norms: int, pattern: tuple[bool, ...], qk_norm: str = "none") -> ModelFacts:
    bias = fields.flag("attention_bias")
    mlp = DenseMlp(intermediate=fields.size("intermediate_size"))
    layers = tuple(
        Layer(
            attention=grouped_attention(fields, window_tokens=window, qkv_bias=bias, output_bias=bias, qk_norm=qk_norm),
            dense=mlp,
            norms=norms,
        )
        for window in windows(fields, default_pattern=pattern)
    )
    return decoder(
        fields,
        fields.architecture(),
        layers,
        rotary=rotary(fields, grouped_attention(fields).head_dim),
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        ends_on_every_stage=True,
    )


def _gemma1(fields: Fields) -> ModelFacts:
    return _gemma(fields, norms=2, pattern=(False,))


def _gemma2(fields: Fields) -> ModelFacts:
    return _gemma(fields, norms=4, pattern=(True, False))


def _gemma3(fields: Fields) -> ModelFacts:
    every = fields.size("sliding_window_pattern", 6)
    facts = _gemma(fields, norms=4, pattern=(*[True] * (every - 1), False), qk_norm="per_head")
    if len(facts.rotary) > 1:
        return facts
    # Before Transformers 5 the unscaled table of the sliding layers was written as rope_local_base_freq.
    positions = fields.size("max_position_embeddings", facts.context_tokens)
    local = Rotary(positions=positions, dim=facts.rotary[0].dim)
    return facts.model_copy(update={"rotary": (*facts.rotary, local)})


READERS: dict[str, Callable[[Fields], ModelFacts]] = {
    "LlamaForCausalLM": _llama,
    "LLaMAForCausalLM": _llama,
    "MistralForCausalLM": _llama,
    "Phi3ForCausalLM": _phi3,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "GemmaForCausalLM": _gemma1,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
}

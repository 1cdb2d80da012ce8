"""The tensors and shapes that a checkpoint of an architecture must hold, from tables of names and `config.json`.

`directory.py` calls it. The names are those of the published checkpoints, which the engine's classes load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from conclave.catalogue.shapes import GroupedAttention, ModelFacts
from conclave_weights.errors import WeightsUnfit

_MOST_EXPERTS = 10_000
Shape = tuple[int, ...]
_Names = Mapping[str, str]
"""The name of each tensor, and its dimensions as symbols of `_extents`."""

_LAYER = "model.layers.{layer}."
_NORMS = {
    _LAYER + "input_layernorm.weight": "hidden",
    _LAYER + "post_attention_layernorm.weight": "hidden",
}
_ATTENTION = {
    _LAYER + "self_attn.q_proj.weight": "query hidden",
    _LAYER + "self_attn.k_proj.weight": "key_value hidden",
    _LAYER + "self_attn.v_proj.weight": "key_value hidden",
    _LAYER + "self_attn.o_proj.weight": "hidden query",
}
_ATTENTION_BIAS = {
    _LAYER + "self_attn.q_proj.bias": "query",
    _LAYER + "self_attn.k_proj.bias": "key_value",
    _LAYER + "self_attn.v_proj.bias": "key_value",
    _LAYER + "self_attn.o_proj.bias": "hidden",
}
_MLP = {
    _LAYER + "mlp.gate_proj.weight": "intermediate hidden",
    _LAYER + "mlp.up_proj.weight": "intermediate hidden",
    _LAYER + "mlp.down_proj.weight": "hidden intermediate",
}
_MLP_BIAS = {
    _LAYER + "mlp.gate_proj.bias": "intermediate",
    _LAYER + "mlp.up_proj.bias": "intermediate",
    _LAYER + "mlp.down_proj.bias": "hidden",
}
_EXPERT = _LAYER + "block_sparse_moe.experts.{expert}."
_EXPERTS = {
    _LAYER + "block_sparse_moe.gate.weight": "experts hidden",
    _EXPERT + "w1.weight": "expert_width hidden",
    _EXPERT + "w2.weight": "hidden expert_width",
    _EXPERT + "w3.weight": "expert_width hidden",
}
_ENDS = {"model.embed_tokens.weight": "vocab hidden", "model.norm.weight": "hidden"}
_HEAD = {"lm_head.weight": "vocab hidden"}
_BLOCK = "transformer.blocks.{layer}."
_GROK_EXPERT = _LAYER + "moe_block.experts.{expert}."

GROK_1: _Names = {
    "model.embed_tokens.weight": "vocab hidden",
    _LAYER + "attn.q_proj.weight": "query hidden",
    _LAYER + "attn.k_proj.weight": "key_value hidden",
    _LAYER + "attn.v_proj.weight": "key_value hidden",
    _LAYER + "attn.o_proj.weight": "hidden query",
    _LAYER + "pre_attn_norm.scale": "hidden",
    _LAYER + "post_attn_norm.scale": "hidden",
    _LAYER + "pre_moe_norm.scale": "hidden",
    _LAYER + "post_moe_norm.scale": "hidden",
    _LAYER + "moe_block.gate.weight": "experts hidden",
    _GROK_EXPERT + "linear.weight": "expert_width hidden",
    _GROK_EXPERT + "linear_v.weight": "expert_width hidden",
    _GROK_EXPERT + "linear_1.weight": "hidden expert_width",
    "model.norm.scale": "hidden",
}


@dataclass(frozen=True)
class _Layout:
    tensors: _Names
    flagged: Mapping[str, _Names] = field(default_factory=dict)
    """Tensors that exist only where this field of the config is true."""


_PHIMOE = _Layout(
    _ENDS
    | {"model.norm.bias": "hidden"}
    | _NORMS
    | {name.replace(".weight", ".bias"): symbols for name, symbols in _NORMS.items()}
    | _ATTENTION
    | _EXPERTS,
    {"attention_bias": _ATTENTION_BIAS, "lm_head_bias": {"lm_head.bias": "vocab"}},
)
_LAYOUTS = {
    "LlamaForCausalLM": _Layout(
        _ENDS | _NORMS | _ATTENTION | _MLP, {"attention_bias": _ATTENTION_BIAS, "mlp_bias": _MLP_BIAS}
    ),
    "GemmaForCausalLM": _Layout(_ENDS | _NORMS | _ATTENTION | _MLP, {"attention_bias": _ATTENTION_BIAS}),
    "MixtralForCausalLM": _Layout(_ENDS | _NORMS | _ATTENTION | _EXPERTS),
    "Phi3ForCausalLM": _Layout(
        _ENDS
        | _NORMS
        | {
            _LAYER + "self_attn.qkv_proj.weight": "query_key_value hidden",
            _LAYER + "self_attn.o_proj.weight": "hidden query",
            _LAYER + "mlp.gate_up_proj.weight": "gate_up hidden",
            _LAYER + "mlp.down_proj.weight": "hidden intermediate",
        }
    ),
    "PhiMoEForCausalLM": _PHIMOE,
    "PhimoeForCausalLM": _PHIMOE,
    "DbrxForCausalLM": _Layout(
        {
            "transformer.wte.weight": "vocab hidden",
            _BLOCK + "norm_attn_norm.norm_1.weight": "hidden",
            _BLOCK + "norm_attn_norm.attn.Wqkv.weight": "query_key_value hidden",
            _BLOCK + "norm_attn_norm.attn.out_proj.weight": "hidden query",
            _BLOCK + "norm_attn_norm.norm_2.weight": "hidden",
            _BLOCK + "ffn.router.layer.weight": "experts hidden",
            _BLOCK + "ffn.experts.mlp.w1": "all_expert_widths hidden",
            _BLOCK + "ffn.experts.mlp.v1": "all_expert_widths hidden",
            _BLOCK + "ffn.experts.mlp.w2": "all_expert_widths hidden",
            "transformer.norm_f.weight": "hidden",
        }
    ),
    "Grok1ModelForCausalLM": _Layout(GROK_1),
}


@dataclass(frozen=True)
class ExpectedTensors:
    """Names and shapes of the required tensors, and of tensors that are allowed and not used."""

    required: dict[str, Shape]
    redundant: dict[str, Shape]


def expected_tensors(architecture: str, config: Mapping[str, object], facts: ModelFacts) -> ExpectedTensors | None:
    """The tensors that the config implies. None for an architecture without a table.

    Raises WeightsUnfit where the config has more experts than any model.
    """
    layout = _LAYOUTS.get(architecture)
    if layout is None:
        return None
    if facts.moe is not None and facts.moe.experts > _MOST_EXPERTS:
        raise WeightsUnfit(
            f"config.json: {facts.moe.experts} experts a layer, expected at most {_MOST_EXPERTS}; copy it anew"
        )
    names = dict(layout.tensors)
    for flag, flagged in layout.flagged.items():
        if config.get(flag) is True:
            names |= flagged
    extents = _extents(facts)
    head = dict(named_shapes(_HEAD, extents))
    required = dict(named_shapes(names, extents))
    return ExpectedTensors(required, head) if facts.tied_embeddings else ExpectedTensors(required | head, {})


def named_shapes(names: _Names, extents: Mapping[str, int]) -> Iterator[tuple[str, Shape]]:
    """Every tensor of the table, layer by layer and expert by expert, with its shape."""
    for template, symbols in names.items():
        shape = tuple(extents[symbol] for symbol in symbols.split())
        layers = range(extents["layers"]) if "{layer}" in template else range(1)
        experts = range(extents["experts"]) if "{expert}" in template else range(1)
        for layer, expert in product(layers, experts):
            yield template.format(layer=layer, expert=expert), shape


def _extents(facts: ModelFacts) -> dict[str, int]:
    attention, moe, dense = facts.attention, facts.moe, facts.layers[0].dense
    if not isinstance(attention, GroupedAttention):
        raise TypeError(f"{facts.architecture}: tables are for grouped attention, got {type(attention).__name__}")
    query, key_value = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    intermediate = dense.intermediate if dense else 0
    experts, expert_width = (moe.experts, moe.intermediate) if moe else (0, 0)
    return {
        "layers": len(facts.layers),
        "hidden": facts.hidden,
        "vocab": facts.vocab,
        "query": query,
        "key_value": key_value,
        "query_key_value": query + 2 * key_value,
        "intermediate": intermediate,
        "gate_up": 2 * intermediate,
        "experts": experts,
        "expert_width": expert_width,
        "all_expert_widths": experts * expert_width,
    }

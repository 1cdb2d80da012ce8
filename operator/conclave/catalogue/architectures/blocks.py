"""What the readers have in common: heads, windows, rotary tables, weight format and the ends of a decoder.

Used by the readers only.
"""

from __future__ import annotations

from typing import Any

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.weight_format import read_weight_format
from conclave.catalogue.measured import MOST_LAYERS
from conclave.catalogue.shapes import GroupedAttention, Layer, ModelFacts, Rotary


def grouped_attention(fields: Fields, *, window_tokens: int | None = None, **traits: Any) -> GroupedAttention:
    """Attention from the names that Llama's config.json uses; `traits` are GroupedAttention's own fields."""
    heads = fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.refuse("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    head_dim = fields.optional_size("head_dim") or fields.divided("hidden_size", "num_attention_heads")
    return GroupedAttention(heads=heads, kv_heads=kv_heads, head_dim=head_dim, window_tokens=window_tokens, **traits)


def layer_count(fields: Fields, name: str = "num_hidden_layers") -> int:
    """Number of decoder layers."""
    count = fields.size(name)
    if count > MOST_LAYERS:
        raise fields.refuse(name, f"at most {MOST_LAYERS} layers")
    return count


def windows(fields: Fields, *, default_pattern: tuple[bool, ...] = (False,)) -> tuple[int | None, ...]:
    """Sliding window of each layer: by `layer_types`, else by a repeating pattern of sliding (True) and full."""
    layers = layer_count(fields)
    window = fields.size("sliding_window", least=0) if fields.has("sliding_window") else 0
    types = fields.texts("layer_types")
    if types and len(types) != layers:
        raise fields.refuse("layer_types", f"one entry for each of the {layers} layers")
    if types:
        sliding = [kind == "sliding_attention" for kind in types]
    else:
        sliding = [default_pattern[index % len(default_pattern)] for index in range(layers)]
    return tuple(window or None if slides else None for slides in sliding)


def rotary(fields: Fields, dim: int, *, rotated_share: float = 1.0) -> tuple[Rotary, ...]:
    """The rotary tables of a config: one, or one for each attention type (Gemma 3).

    Sizes after `vllm/model_executor/layers/rotary_embedding`: YaRN holds original positions x factor, linear scaling
    positions x factor, LongRoPE a short and a long table. `rotated_share` is the part of a head that
    rotates where the config does not say.
    """
    share = fields.number("partial_rotary_factor", rotated_share)
    return tuple(_rotary_table(fields, table, dim, share) for table in _rope_tables(fields) or (Fields({}),))


def _rope_tables(fields: Fields) -> tuple[Fields, ...]:
    """The parameters of the rotary tables: none, one, or one for each attention type."""
    nested = fields.nested("rope_parameters") or fields.nested("rope_scaling")
    if nested is None:
        return ()
    is_one = any(map(nested.has, ("rope_type", "type", "rope_theta")))
    return (() if is_one else fields.objects("rope_parameters")) or (nested,)


def _rope_kind(table: Fields) -> str:
    return table.text("rope_type") or table.text("type", "default")


def _rotary_table(fields: Fields, parameters: Fields, dim: int, share: float) -> Rotary:
    kind = _rope_kind(parameters)
    positions = fields.size("max_position_embeddings", 8192)
    if kind in ("longrope", "su"):
        original = parameters.size("original_max_position_embeddings", positions)
        positions += fields.size("original_max_position_embeddings", original)
    if kind in ("yarn", "deepseek_yarn"):
        positions = parameters.size("original_max_position_embeddings", positions)
    if kind in ("yarn", "deepseek_yarn", "linear"):
        positions = _stretched(positions, parameters)
    rotated = fields.optional_size("rotary_dim") or int(dim * parameters.number("partial_rotary_factor", share))
    return Rotary(positions=positions, dim=max(1, rotated))


def _stretched(positions: int, scaling: Fields) -> int:
    stretched = int(positions * scaling.number("factor", 1.0))
    if not stretched:
        raise scaling.refuse("factor", f"a factor that leaves some of {positions} positions")
    return stretched


def decoder(
    fields: Fields, architecture: str, layers: tuple[Layer, ...], *, weights: Fields | None = None, **traits: Any
) -> ModelFacts:
    """The facts of a decoder from the names that Llama's config.json uses; `traits` are ModelFacts' own fields."""
    return ModelFacts(
        **{
            "architecture": architecture,
            "model_type": fields.text("model_type"),
            "hidden": fields.size("hidden_size"),
            "vocab": fields.size("vocab_size"),
            "layers": layers,
            "context_tokens": context_tokens(fields),
            "dtype": fields.dtype(),
            "tied_embeddings": fields.flag("tie_word_embeddings"),
            "weight_format": read_weight_format(weights or fields),
        }
        | traits
    )


CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_CONTEXT_WITHOUT_FIELD = 2048
_SCALED_ALREADY = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})
"""Rotary scalings whose factor the positions contain already."""


def context_tokens(fields: Fields) -> int:
    """Longest sequence that vLLM allows: the smallest of the fields that may say it, times the rotary scaling.

    `vllm/transformers_utils/model_arch_config_convertor.py:derive_max_model_len_and_key`, where model_max_length stands
    above all others, and `vllm/config/model.py:_get_and_verify_max_len`; Gemma 3's is scaled already.
    """
    given = {name: fields.size(name) for name in CONTEXT_FIELDS if fields.has(name)}
    tokens = given.get("model_max_length") or min(given.values(), default=_CONTEXT_WITHOUT_FIELD)
    tables = [] if "gemma3" in fields.text("model_type") else _rope_tables(fields)
    scaled = [table for table in tables if _rope_kind(table) not in _SCALED_ALREADY and table.has("factor")]
    return _stretched(tokens, scaled[-1]) if scaled else tokens

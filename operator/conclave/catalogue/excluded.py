"""Which modules a quantized checkpoint leaves as they are.

A config names them as the checkpoint does (`modules_to_not_convert`, `ignore`): whole names, parts of names, globs or
`re:` patterns. A config may come from anybody. Whole names are therefore looked up, and patterns are matched by the
engine of the Rust `regex` crate, which pydantic has: its time is linear in the pattern and in the name.
Made by the readers, asked by `planning.weights`; no other module interprets these names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

from pydantic_core import SchemaError, SchemaValidator, core_schema

from conclave.errors import InvalidInput

# Checkpoint names below `model.layers.N.` of the matrices that vLLM fuses into one module.
_NAMES = {
    "qkv": (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.qkv_proj",
        "attn.q_proj",
        "norm_attn_norm.attn.Wqkv",
    ),
    "output": ("self_attn.o_proj", "attn.o_proj", "norm_attn_norm.attn.out_proj"),
    "latent_down": ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.fused_qkv_a_proj"),
    "query_up": ("self_attn.q_b_proj", "self_attn.q_proj"),
    "latent_up": ("self_attn.kv_b_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj", "feed_forward.gate_proj"),
    "down": ("mlp.down_proj", "feed_forward.down_proj"),
    "experts": (
        "mlp.experts",
        "mlp.experts.0.gate_proj",
        "block_sparse_moe.experts",
        "block_sparse_moe.experts.0.w1",
        "feed_forward.experts",
        "feed_forward.experts.gate_up_proj",
        "ffn.experts",
        "moe_block.experts",
        "moe_block.experts.0.linear",
    ),
    "shared_gate_up": (
        "mlp.shared_experts.gate_proj",
        "mlp.shared_expert.gate_proj",
        "feed_forward.shared_expert.gate_proj",
    ),
    "shared_down": (
        "mlp.shared_experts.down_proj",
        "mlp.shared_expert.down_proj",
        "feed_forward.shared_expert.down_proj",
    ),
    "recurrence": (
        "linear_attn.in_proj_qkvz",
        "linear_attn.in_proj_qkv",
        "linear_attn.out_proj",
        "mixer.in_proj",
        "mamba.in_proj",
        "conv.in_proj",
    ),
}
_PREFIXES = ("language_model.model.layers", "transformer.blocks")
"""Parts of a name count as it does, so that `model.layers` is among them."""
_PATTERN_PREFIXES = ("model.layers", *_PREFIXES)
MOST_CHARACTERS = 2**14
"""Of all globs and regular expressions of a config; published ones have less than 100."""


class ExcludedModules:
    """The modules that these names and patterns name; raises InvalidInput where a pattern cannot be used."""

    def __init__(self, named: tuple[str, ...]) -> None:
        patterns = list(filter(_is_pattern, named))
        plain = (name for name in named if not _is_pattern(name))
        self._plain = frozenset(name.removesuffix(".weight").removesuffix(".") for name in plain)
        self._patterns = _compile(patterns) if patterns else None
        self._known: dict[tuple[int, str], bool] = {}

    def has(self, layer: int, module: str) -> bool:
        """Whether the module is excluded in that layer."""
        key = (layer, module)
        if key not in self._known:
            self._known[key] = self._names(layer, module)
        return self._known[key]

    def _names(self, layer: int, module: str) -> bool:
        names = _NAMES[module]
        if self._plain and any(
            not self._plain.isdisjoint(_parts(f"{prefix}.{layer}.{name}")) for prefix in _PREFIXES for name in names
        ):
            return True
        return self._patterns is not None and any(
            self._patterns.isinstance_python(f"{prefix}.{layer}.{name}")
            for prefix in _PATTERN_PREFIXES
            for name in names
        )


@lru_cache(maxsize=16)
def excluded_modules(named: tuple[str, ...]) -> ExcludedModules:
    """The same object for equal names, which remembers its answers."""
    return ExcludedModules(named)


def _is_pattern(name: str) -> bool:
    return name.startswith("re:") or "*" in name


def _parts(name: str) -> Iterator[str]:
    """All runs of a dotted name's parts: a.b.c, a.b, b.c, a, b, c."""
    steps = name.split(".")
    return (".".join(steps[first:end]) for first, end in combinations(range(len(steps) + 1), 2))


def _compile(patterns: list[str]) -> SchemaValidator:
    """One pattern of all; Rust's engine refuses look-around, back-references and what would take much memory."""
    characters = sum(map(len, patterns))
    if characters > MOST_CHARACTERS:
        raise InvalidInput(f"its patterns have {characters} characters, expected at most {MOST_CHARACTERS}")
    try:
        return SchemaValidator(core_schema.str_schema(pattern="|".join(map(_expression, patterns))))
    except (SchemaError, UnicodeError) as error:
        raise InvalidInput("one of its patterns is no regular expression of the Rust crate `regex`") from error


def _expression(pattern: str) -> str:
    if pattern.startswith("re:"):
        return f"^(?:{pattern.removeprefix('re:')})"
    return rf"^{'.*'.join(map(re.escape, pattern.split('*')))}(?:\..*)?$"

"""Which format a quantized checkpoint has for which module, by the names in its config.

A config names modules as the checkpoint does (`targets`, `ignore`, `modules_to_not_convert`): whole names, parts of
names, globs or `re:` patterns. A config may come from anybody. Whole names are therefore looked up, and patterns are
matched by the engine of the Rust `regex` crate, which pydantic has: its time is linear in the pattern and in the name.
Made by the readers, asked by `planning`; no other module interprets these names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations, groupby, takewhile

from pydantic_core import SchemaError, SchemaValidator, core_schema

from conclave.catalogue.shapes import ENGINE, Layer, Matrix, MatrixFormat, ModelFacts, WeightFormat
from conclave.errors import InvalidInput, NotServed

# Checkpoint names below `model.layers.N.` of each matrix, one tuple a spelling. vLLM builds the names of one tuple as
# one matrix, so that they must have one format.
_SPELLINGS: Mapping[Matrix, tuple[tuple[str, ...], ...]] = {
    "qkv": (
        ("self_attn.qkv_proj",),
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        ("norm_attn_norm.attn.Wqkv",),
    ),
    "output": (("self_attn.o_proj",), ("attn.o_proj",), ("norm_attn_norm.attn.out_proj",)),
    "latent_down": (("self_attn.fused_qkv_a_proj",), ("self_attn.kv_a_proj_with_mqa",), ("self_attn.q_a_proj",)),
    "query_up": (("self_attn.q_b_proj",), ("self_attn.q_proj",)),
    "latent_up": (("self_attn.kv_b_proj",),),
    "gate_up": (
        ("mlp.gate_up_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("feed_forward.gate_proj", "feed_forward.up_proj"),
    ),
    "down": (("mlp.down_proj",), ("feed_forward.down_proj",)),
    "experts": (
        ("mlp.experts",),
        ("mlp.experts.0.gate_proj", "mlp.experts.0.up_proj", "mlp.experts.0.down_proj"),
        ("block_sparse_moe.experts",),
        ("block_sparse_moe.experts.0.w1", "block_sparse_moe.experts.0.w3", "block_sparse_moe.experts.0.w2"),
        ("feed_forward.experts",),
        ("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"),
        ("ffn.experts",),
        ("moe_block.experts",),
        ("moe_block.experts.0.linear", "moe_block.experts.0.linear_v", "moe_block.experts.0.linear_1"),
    ),
    "shared_gate_up": (
        ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
        ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
        ("feed_forward.shared_expert.gate_proj", "feed_forward.shared_expert.up_proj"),
    ),
    "shared_down": (
        ("mlp.shared_experts.down_proj",),
        ("mlp.shared_expert.down_proj",),
        ("feed_forward.shared_expert.down_proj",),
    ),
    "head": (("lm_head",),),
}
_PREFIXES = ("language_model.model.layers", "model.language_model.layers", "transformer.blocks")
"""Parts of a name count as it does, so that `model.layers` is among them."""
_USUAL_PREFIX = "model.layers"
MOST_CHARACTERS = 2**14
"""Of all globs and regular expressions of a config; published ones have less than 4000."""


class ModuleFormats:
    """The format of each module. Raises InvalidInput where a pattern of the config cannot be used."""

    def __init__(self, weights: WeightFormat) -> None:
        named = list(takewhile(lambda rule: rule.names, weights.rules))
        others = weights.rules[len(named) :]
        self._default = others[0].format if others else None
        """Of matrices that no name before means."""
        self._formats: list[MatrixFormat | None] = []
        self._plain: dict[str, int] = {}
        self._patterns: list[tuple[int, SchemaValidator, tuple[str, ...]]] = []
        characters = 0
        for matrices, rules in groupby(named, lambda rule: rule.format):  # neighbours of one format are one rule
            names = [name for rule in rules for name in rule.names]
            patterns = list(filter(_is_pattern, names))
            for name in names:
                if not _is_pattern(name):
                    self._plain.setdefault(name.removesuffix(".weight").removesuffix("."), len(self._formats))
            characters += sum(map(len, patterns))
            if characters > MOST_CHARACTERS:
                raise InvalidInput(f"its patterns have {characters} characters, expected at most {MOST_CHARACTERS}")
            if patterns:
                self._patterns.append((len(self._formats), _compile(patterns), _prefixes(patterns)))
            self._formats.append(matrices)
        self._known: dict[tuple[int, Matrix], MatrixFormat | None] = {}

    def of(self, layer: int, matrix: Matrix) -> MatrixFormat | None:
        """The format of a layer's matrix; None where it stays unconverted.

        Raises NotServed where the parts of a matrix that vLLM fuses have different formats.
        """
        key = (layer, matrix)
        if key not in self._known:
            self._known[key] = self._find(layer, matrix)
        return self._known[key]

    def _find(self, layer: int, matrix: Matrix) -> MatrixFormat | None:
        default = None if matrix == "head" else self._default
        for spelling in _SPELLINGS[matrix]:
            named = [self._first_rule(layer, matrix, name) for name in spelling]
            if all(index is None for index in named):
                continue
            formats = {default if index is None else self._formats[index] for index in named}
            if len(formats) > 1:
                raise NotServed(
                    f"config.json: quantization_config: {', '.join(spelling)} of layer {layer} have different formats; "
                    f"{ENGINE} builds them as one matrix and refuses such a checkpoint"
                )
            return formats.pop()
        return default

    def _first_rule(self, layer: int, matrix: Matrix, name: str) -> int | None:
        """The number of the first rule that names the module."""
        found = [
            index
            for index, pattern, prefixes in self._patterns
            if any(pattern.isinstance_python(full) for full in _full_names(prefixes, layer, matrix, name))
        ]
        if self._plain:
            whole = _full_names(_PREFIXES, layer, matrix, name)
            found += [self._plain[part] for full in whole for part in _parts(full) if part in self._plain]
        return min(found, default=None)


@lru_cache(maxsize=16)
def module_formats(weights: WeightFormat) -> ModuleFormats:
    """The same object for equal formats, which remembers its answers."""
    return ModuleFormats(weights)


def layer_formats(
    facts: ModelFacts, weights: WeightFormat | None
) -> Iterator[tuple[Layer, dict[Matrix, MatrixFormat | None]]]:
    """Each layer with the formats of its matrices."""
    modules = None if weights is None else module_formats(weights)
    for index, layer in enumerate(facts.layers):
        yield layer, {matrix: None if modules is None else modules.of(index, matrix) for matrix in layer.matrices}


def head_format(weights: WeightFormat | None) -> MatrixFormat | None:
    """The format of the output head, which few checkpoints convert."""
    return None if weights is None else module_formats(weights).of(0, "head")


def formats_in_use(facts: ModelFacts, weights: WeightFormat | None) -> tuple[MatrixFormat, ...]:
    """The formats that a model's matrices have, in the order of its layers."""
    found = [format_ for _, formats in layer_formats(facts, weights) for format_ in formats.values()]
    return tuple(dict.fromkeys(format_ for format_ in (*found, head_format(weights)) if format_ is not None))


def _is_pattern(name: str) -> bool:
    return name.startswith("re:") or "*" in name


def _full_names(prefixes: tuple[str, ...], layer: int, matrix: Matrix, name: str) -> list[str]:
    return [name] if matrix == "head" else [f"{prefix}.{layer}.{name}" for prefix in prefixes]


def _prefixes(patterns: list[str]) -> tuple[str, ...]:
    """The prefixes that patterns may mean: any star matches the usual one, so that others have to be spelled."""
    text = "".join(patterns)
    return (_USUAL_PREFIX, *(prefix for prefix in _PREFIXES if any(word in text for word in _words_of(prefix))))


def _words_of(prefix: str) -> set[str]:
    return set(prefix.split(".")) - set(_USUAL_PREFIX.split("."))


def _parts(name: str) -> Iterator[str]:
    """All runs of a dotted name's parts: a.b.c, a.b, b.c, a, b, c."""
    steps = name.split(".")
    return (".".join(steps[first:end]) for first, end in combinations(range(len(steps) + 1), 2))


def _compile(patterns: list[str]) -> SchemaValidator:
    """One pattern of all; Rust's engine refuses look-around, back-references and what would take much memory."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern="|".join(map(_expression, patterns))))
    except (SchemaError, UnicodeError) as error:
        raise InvalidInput("one of its patterns is no regular expression of the Rust crate `regex`") from error


def _expression(pattern: str) -> str:
    if pattern.startswith("re:"):
        return f"^(?:{pattern.removeprefix('re:')})"
    return rf"^{'.*'.join(map(re.escape, pattern.split('*')))}(?:\..*)?$"

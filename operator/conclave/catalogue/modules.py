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
from typing import NamedTuple

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
    "recurrence": (
        ("linear_attn.in_proj_qkvz",),
        ("linear_attn.in_proj_qkv",),
        ("linear_attn.out_proj",),
        ("mixer.in_proj",),
        ("mamba.in_proj",),
        ("conv.in_proj",),
    ),
    "head": (("lm_head",),),
}
_USUAL_PARTS = frozenset({"self_attn", "mlp"})
_SPARSE_BLOCKS = frozenset({"self_attn", "block_sparse_moe"})
_FEED_FORWARD = frozenset({"self_attn", "feed_forward"})
_PARTS: Mapping[str, frozenset[str]] = {
    "MixtralForCausalLM": _SPARSE_BLOCKS,
    "PhiMoEForCausalLM": _SPARSE_BLOCKS,
    "MiniMaxM2ForCausalLM": _SPARSE_BLOCKS | _USUAL_PARTS,  # in its checkpoints, and in vLLM
    "Llama4ForCausalLM": _FEED_FORWARD,
    "Llama4ForConditionalGeneration": _FEED_FORWARD,
    "DbrxForCausalLM": frozenset({"norm_attn_norm", "ffn"}),
    "Grok1ModelForCausalLM": frozenset({"attn", "moe_block"}),
    "Grok1ForCausalLM": frozenset({"attn", "moe_block", "mlp"}),
}
"""How an architecture calls the parts of a layer, where it is not as Llama does: a pattern such as "all but the
experts" would match names that a model does not have."""
_MULTIMODAL = ("language_model.model.layers", "model.language_model.layers")
_PREFIXES = (*_MULTIMODAL, "transformer.blocks")
"""Parts of a name count as it does, so that `model.layers` is among them."""
MOST_CHARACTERS = 2**14
"""Of all globs and regular expressions of a config; published ones have less than 4000."""
MOST_REPEATED = 256
"""Sum of the counts in `{2,4}` of all of them: the engine writes a counted part out as often."""
_COUNTS = re.compile(r"\{([0-9]*),?([0-9]*)\}")
_ASCII = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\v\f\r "}
r"""Names of modules are ASCII. The engine's own `\w` is all of Unicode, and takes 80 KiB each time."""


class PatternUnread(InvalidInput):
    """A pattern that is no regular expression, or one with look-around or back-references."""


class ModuleFormats:
    """The format of each module. Raises InvalidInput where a pattern of the config cannot be used."""

    def __init__(self, weights: WeightFormat, architecture: str = "") -> None:
        self._parts = _PARTS.get(architecture, _USUAL_PARTS)
        self._prefixes = _prefixes(architecture)
        named = list(takewhile(lambda rule: rule.names, weights.rules))
        others = weights.rules[len(named) :]
        self._default = others[0].format if others else None
        """Of matrices that no name before means."""
        self._formats: list[MatrixFormat | None] = []
        self._plain: dict[str, int] = {}
        self._patterns: list[tuple[int, _Pattern]] = []
        characters = repeated = 0
        for matrices, rules in groupby(named, lambda rule: rule.format):  # neighbours of one format are one rule
            names = [name for rule in rules for name in rule.names]
            patterns = list(filter(_is_pattern, names))
            for name in names:
                if not _is_pattern(name):
                    self._plain.setdefault(name.removesuffix(".weight").removesuffix("."), len(self._formats))
            characters += sum(map(len, patterns))
            if characters > MOST_CHARACTERS:
                raise InvalidInput(f"its patterns have {characters} characters, expected at most {MOST_CHARACTERS}")
            repeated += sum(map(_repeated, patterns))
            if repeated > MOST_REPEATED:
                raise InvalidInput(
                    f"its patterns repeat {repeated} times in curly brackets, expected at most {MOST_REPEATED}"
                )
            self._patterns += [(len(self._formats), pattern) for pattern in _compile(patterns)]
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
            if matrix not in ("head", "recurrence") and spelling[0].partition(".")[0] not in self._parts:
                continue
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
        full_names = _full_names(self._prefixes, layer, matrix, name)
        found = [index for index, pattern in self._patterns if any(map(pattern.matches, full_names))]
        if self._plain:
            whole = _full_names(_PREFIXES, layer, matrix, name)
            found += [self._plain[part] for full in whole for part in _parts(full) if part in self._plain]
        return min(found, default=None)


@lru_cache(maxsize=16)
def module_formats(weights: WeightFormat, architecture: str) -> ModuleFormats:
    """The same object for equal formats, which remembers its answers."""
    try:
        return ModuleFormats(weights, architecture)
    except InvalidInput as error:
        raise InvalidInput(f"config.json: quantization_config: {error}") from error


def layer_formats(
    facts: ModelFacts, weights: WeightFormat | None
) -> Iterator[tuple[Layer, dict[Matrix, MatrixFormat | None]]]:
    """Each layer with the formats of its matrices."""
    modules = None if weights is None else module_formats(weights, facts.architecture)
    for index, layer in enumerate(facts.layers):
        yield layer, {matrix: None if modules is None else modules.of(index, matrix) for matrix in layer.matrices}


def head_format(facts: ModelFacts, weights: WeightFormat | None) -> MatrixFormat | None:
    """The format of the output head, which few checkpoints convert."""
    return None if weights is None else module_formats(weights, facts.architecture).of(0, "head")


def formats_in_use(facts: ModelFacts, weights: WeightFormat | None) -> tuple[MatrixFormat, ...]:
    """The formats that a model's matrices have, in the order of its layers."""
    found = [format_ for _, formats in layer_formats(facts, weights) for format_ in formats.values()]
    return tuple(dict.fromkeys(format_ for format_ in (*found, head_format(facts, weights)) if format_ is not None))


def _is_pattern(name: str) -> bool:
    return name.startswith("re:") or "*" in name


def _full_names(prefixes: tuple[str, ...], layer: int, matrix: Matrix, name: str) -> list[str]:
    return [name] if matrix == "head" else [f"{prefix}.{layer}.{name}" for prefix in prefixes]


def _prefixes(architecture: str) -> tuple[str, ...]:
    """What stands before a layer's number in the names that vLLM matches with patterns."""
    if architecture.endswith("ForConditionalGeneration"):
        return _MULTIMODAL
    return ("transformer.blocks",) if architecture == "DbrxForCausalLM" else ("model.layers",)


def _parts(name: str) -> Iterator[str]:
    """All runs of a dotted name's parts: a.b.c, a.b, b.c, a, b, c."""
    steps = name.split(".")
    return (".".join(steps[first:end]) for first, end in combinations(range(len(steps) + 1), 2))


class _Pattern(NamedTuple):
    """Matches what one expression matches from the start of a name, and another does not."""

    expression: SchemaValidator
    but: SchemaValidator | None = None

    def matches(self, name: str) -> bool:
        return self.expression.isinstance_python(name) and not (self.but and self.but.isinstance_python(name))


def _compile(patterns: list[str]) -> list[_Pattern]:
    """One pattern of all, and one for each that begins with what may not follow, such as `re:^(?!.*experts).*`."""
    split = [_without_look_ahead(pattern) for pattern in patterns]
    plain = [_expression(pattern) for pattern, but in split if but is None]
    compiled = [_Pattern(_validator("|".join(plain)))] if plain else []
    return compiled + [
        _Pattern(_validator(_expression(pattern)), _validator(f"^(?:{but})"))
        for pattern, but in split
        if but is not None
    ]


def _validator(expression: str) -> SchemaValidator:
    """Rust's engine refuses other look-around, back-references and what would take much memory."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=_in_ascii(expression)))
    except (SchemaError, UnicodeError) as error:
        raise PatternUnread("one of its patterns is no regular expression of the Rust crate `regex`") from error


def _repeated(pattern: str) -> int:
    counts = _COUNTS.findall(pattern) if pattern.startswith("re:") else ()
    return sum(int(count[:6] or "0") for pair in counts for count in pair)


def _in_ascii(expression: str) -> str:
    """The same with `\\d`, `\\w` and `\\s` spelled out, in and out of square brackets."""
    written, index, is_in_class = [], 0, False
    while index < len(expression):
        character = expression[index]
        index += 1
        if character == "\\" and index < len(expression):
            escaped = expression[index]
            index += 1
            letters = _ASCII.get(escaped.lower())
            if letters is None or (escaped.isupper() and is_in_class):
                if escaped in "pPDWS":
                    raise InvalidInput(f"one of its patterns has \\{escaped}, which stands for all of Unicode")
                written.append(character + escaped)
            elif is_in_class:
                written.append(letters)
            else:
                written.append(f"[^{letters}]" if escaped.isupper() else f"[{letters}]")
            continue
        if character in "[]":
            is_in_class = character == "["
        written.append(character)
    return "".join(written)


def _without_look_ahead(pattern: str) -> tuple[str, str | None]:
    """A pattern, and what a negative look-ahead at its start excludes; None where it has none."""
    begins = re.match(r"re:\^?\(\?!", pattern)
    if begins is None:
        return pattern, None
    depth, is_in_class, index = 1, False, begins.end()
    while index < len(pattern) and depth:
        character = pattern[index]
        if character == "\\":
            index += 1
        elif character in "[]":
            is_in_class = character == "["
        elif character in "()" and not is_in_class:
            depth += 1 if character == "(" else -1
        index += 1
    return f"re:{pattern[index:]}", pattern[begins.end() : index - 1]


def _expression(pattern: str) -> str:
    if pattern.startswith("re:"):
        return f"^(?:{pattern.removeprefix('re:')})"
    return rf"^{'.*'.join(map(re.escape, pattern.split('*')))}(?:\..*)?$"

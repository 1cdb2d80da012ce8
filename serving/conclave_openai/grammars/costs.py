"""Estimates the CPU that the engine will take to compile a grammar, in milliseconds (request_limits.yaml).

Pure; `schemas.py` adds the costs of one request up. The figures are rather too high: they were measured with xgrammar
0.2.8 and a vocabulary of 131,072 tokens, where a state that takes any character costs the most. They hold for patterns
that xgrammar reads as `of_pattern` does. Every other pattern is refused (`UnreadPattern`).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict

NUMBER_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
ITEM_COUNTS = ("minItems", "maxItems")
OPENING = ("additionalProperties", "unevaluatedProperties")
PROPERTY_COUNTS = ("minProperties", "maxProperties")

_ATOM = re.compile(
    r"\((?:\?(?:[:=!>#]|<[=!]|P?<\w+>|[a-zA-Z-]+:?))?"
    r"|\\u\{[0-9a-fA-F]{1,6}\}|\\[pP]\{[^{}]*\}|\\."
    r"|\[\^?(?:\\.|[^\]\\])+\]|[^{*+?\[]",
    re.DOTALL,
)
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(?P<least>[0-9]+)(?P<range>,(?P<most>[0-9]*))?\})\??")
_REPEATS = re.compile(r"[*+?{]")
_NOTHING = frozenset("^$|(")
"""A quantifier after one of these repeats nothing in xgrammar, or repeats the part before them."""
_WIDE = re.compile(r"\.|\[.*|\\[SDWwpP].*", re.DOTALL)
_NARROW = re.compile(
    r"\\[ds]|\[(?!\^)-?(?:[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|\\[^sSwWDpPuxc0-9]|[^\\\]\s-]|-(?=\]))*\]"
)
_MANY = 10**6
_LONG_NAME = 64


class UnreadPattern(ValueError):
    """A regular expression that xgrammar may read differently from the estimate. The message says how to write it."""


class GrammarCosts(BaseModel):
    """Milliseconds of each construct. Each optional part of a pattern adds `choice_share` to the cost of all parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: float
    name_character: float
    value_character: float
    bound_digit: float
    item_count: float
    length_character: float
    length_characters: int
    property_pair: float
    open_name_beginning: float
    counted_property_triple: float
    pattern_wide: float
    pattern_class: float
    pattern_literal: float
    choice_share: float
    formats: dict[str, float]

    def of_node(self, node: dict[str, Any]) -> float:
        """One object of a JSON schema, without its children, its string lengths and its patterns."""
        cost = self.node + self.formats.get(str(node.get("format")), 0)
        digits = sum(_digits(node[key]) for key in NUMBER_BOUNDS if _is_number(node.get(key)))
        types = node.get("type")
        cost += self.bound_digit * digits * (2 if isinstance(types, list) and "integer" in types else 1)
        cost += sum(self.item_count for key in ITEM_COUNTS if key in node)
        for key in ("properties", "patternProperties", "$defs", "definitions"):
            if isinstance(node.get(key), dict):
                cost += self.name_character * sum(map(len, node[key]))
        if isinstance(node.get("properties"), dict):
            properties = len(node["properties"])
            cost += self.property_pair * properties**2
            if any(key in node for key in PROPERTY_COUNTS):
                cost += self.counted_property_triple * properties**3
        cost += self.of_values([node["const"]] if "const" in node else [])
        return cost + self.of_values(node["enum"] if isinstance(node.get("enum"), list) else [])

    def of_open_names(self, node: dict[str, Any]) -> float:
        """The extra cost of an object that also takes properties with other names.

        Each different beginning of the given names is a state of its own. Example: `to` and `top` have the beginnings
        "", "t", "to" and "top", and another name can differ after each of them.
        """
        properties = node.get("properties")
        if not isinstance(properties, dict) or all(node.get(key) in (None, False) for key in OPENING):
            return 0
        beginnings = {name[:end] for name in properties for end in range(min(len(name), _LONG_NAME) + 1)}
        excess = sum(max(0, len(name) - _LONG_NAME) for name in properties)
        return self.open_name_beginning * (len(beginnings) + excess)

    def of_values(self, values: list[Any]) -> float:
        """The literals of an `enum`, a `const` or a `choice`."""
        return sum(self.node + self.value_character * len(str(value)) for value in values)

    def of_length(self, characters: int) -> float:
        """One pair of `minLength` and `maxLength`, by the larger. The engine compiles equal pairs once."""
        return self.length_character * min(characters, self.length_characters)

    def of_pattern(self, pattern: str) -> float:
        """A regular expression: its parts times their counts. Each optional part makes every part cost more.

        Raises UnreadPattern.
        """
        groups = [(0.0, 0.0)]
        position = 0
        while position < len(pattern):
            atom = _ATOM.match(pattern, position)
            if atom is None:
                raise UnreadPattern(_advice(pattern[position]))
            position = atom.end()
            text = atom[0]
            quantifier = _QUANTIFIER.match(pattern, position)
            if text[0] in _NOTHING and _REPEATS.match(pattern, position):
                raise UnreadPattern("has a quantifier with nothing to repeat before it")
            if text[0] == "(":
                groups.append((self.pattern_literal, 0.0))
                continue
            cost, choices = groups.pop() if text == ")" and len(groups) > 1 else (self._of_atom(text), text == "|")
            if quantifier:
                position = quantifier.end()
                times = _times(quantifier)
                cost *= times
                choices = choices * times + (quantifier["least"] is None or quantifier["range"] is not None)
                if _REPEATS.match(pattern, position):
                    raise UnreadPattern("repeats a repetition: put the inner one into a group")
            groups[-1] = (groups[-1][0] + cost, groups[-1][1] + choices)
        total, choices = map(sum, zip(*groups, strict=True))
        return float(total * (1 + self.choice_share * choices))

    def _of_atom(self, text: str) -> float:
        if _NARROW.fullmatch(text):
            return self.pattern_class
        return self.pattern_wide if _WIDE.fullmatch(text) else self.pattern_literal


def _advice(character: str) -> str:
    """Says what is wrong at a character with which no part of a pattern begins."""
    if character == "{":
        return r"has a brace that begins no quantifier such as {2}, {2,} or {2,5}: write \{ for the character"
    if character == "[":
        return r"has a character class that is empty or not closed: write \[ for the character"
    return "has a quantifier with nothing to repeat before it"


def _times(quantifier: re.Match[str]) -> int:
    counts = (quantifier["least"], quantifier["most"])
    return min(_MANY, max([1, *(int(count) for count in counts if count)]))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digits(number: float) -> int:
    return len(format(Decimal(repr(number)), "f"))

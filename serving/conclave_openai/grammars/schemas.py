"""Bounds of the grammars of structured output: JSON schemas and regular expressions (request_limits.yaml, `schema`).

Pure; called by `limits/request.py`. The engine compiles a grammar before it answers, so a large grammar costs CPU. An
endpoint of ours compiles a grammar that passes here once more in a process of its own (`trials.py`), before the engine
compiles it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from conclave_openai.errors import invalid
from conclave_openai.grammars.costs import GrammarCosts, UnreadPattern
from conclave_openai.grammars.trials import TrialLimits

COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains")
TYPES = 7
"""The number of different names that a `type` can list."""


class SchemaKeywords(BaseModel):
    """The keys that an object of a JSON schema may have, sorted by what their values are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schemas: frozenset[str]
    """The value is a schema, or an array of schemas."""
    named_schemas: frozenset[str]
    """The value is an object whose values are schemas."""
    values: frozenset[str]
    annotations: frozenset[str]
    """The key says nothing about which values are valid, so its value is accepted without a check."""
    annotation_prefix: str

    def is_known(self, key: str) -> bool:
        """Whether a schema may have this key."""
        known = self.schemas | self.named_schemas | self.values | self.annotations
        return key in known or key.startswith(self.annotation_prefix)

    def children(self, node: dict[str, Any]) -> Iterator[object]:
        """The schemas directly below an object."""
        for key, value in node.items():
            if key in self.named_schemas and isinstance(value, dict):
                yield from value.values()
            elif key in self.schemas:
                yield from value if isinstance(value, list) else (value,)


class _Bill:
    """The cost of all grammars of one request. A pair of lengths counts once, because it is compiled once."""

    def __init__(self, costs: GrammarCosts) -> None:
        self.costs = costs
        self.ms = 0.0
        self._lengths: set[tuple[int, int]] = set()

    def add_node(self, node: dict[str, Any]) -> None:
        """Add one object of a JSON schema, without its children."""
        self.ms += self.costs.of_node(node) + self.costs.of_open_names(node)
        lengths = (_length(node.get("minLength")), _length(node.get("maxLength")))
        if lengths not in self._lengths:
            self._lengths.add(lengths)
            self.ms += self.costs.of_length(max(lengths))


def _length(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


class SchemaLimits(BaseModel):
    """The largest grammar that a request may bring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int
    count: int
    enum_items: int
    properties: int
    branches: int
    pattern_characters: int
    structured_outputs: tuple[str, ...]
    keywords: SchemaKeywords
    compile_ms: int
    costs_ms: GrammarCosts
    trial: TrialLimits

    def check_request(self, request: dict[str, Any]) -> None:
        """Check every schema and pattern of a request, and their cost together. Raises 400."""
        bill = _Bill(self.costs_ms)
        response_format = request.get("response_format")
        if response_format is not None:
            self._check_response_format(response_format, bill)
        structured = request.get("structured_outputs")
        if structured is not None:
            if response_format is not None and response_format["type"] != "text":
                raise invalid(
                    "The request has both 'response_format' and 'structured_outputs'; send one of them.",
                    "structured_outputs",
                )
            self._check_structured_outputs(structured, bill)
        choice = request.get("tool_choice")
        called = choice["function"]["name"] if isinstance(choice, dict) else None
        for tool in request.get("tools") or ():
            function = tool["function"]
            parameters = function.get("parameters")
            self._check_depth(parameters, "tools", 0)
            if is_compiled(function["name"], function.get("strict"), choice, called):
                self._check_schema(parameters, "tools", bill)

    def _check_response_format(self, response_format: dict[str, Any], bill: _Bill) -> None:
        kind = response_format.get("type")
        if kind not in ("text", "json_object", "json_schema"):
            raise invalid("'response_format.type' must be text, json_object or json_schema.", "response_format")
        if kind == "json_schema":
            described = response_format.get("json_schema")
            if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
                raise invalid("'response_format.json_schema.schema' must be an object.", "response_format")
            self._check_schema(described["schema"], "response_format", bill)

    def _check_structured_outputs(self, structured: dict[str, Any], bill: _Bill) -> None:
        param = "structured_outputs"
        for key, value in structured.items():
            if key not in self.structured_outputs:
                raise invalid(f"'{param}' takes {', '.join(self.structured_outputs)} only.", param)
            if key == "regex":
                bill.ms += self._cost_of_pattern(value, param)
            elif key == "json":
                if not isinstance(value, dict):
                    raise invalid(f"'{param}.json' must be an object.", param)
                self._check_schema(value, param, bill)
            elif key == "choice":
                if not isinstance(value, list) or len(value) > self.enum_items:
                    raise invalid(f"'{param}.choice' must be an array of at most {self.enum_items}.", param)
                bill.ms += self.costs_ms.of_values(value)
        self._check_bill(bill, param)

    def _check_schema(self, schema: object, param: str, bill: _Bill) -> None:
        self._check_depth(schema, param, 0)
        seen: dict[int, dict[str, Any]] = {}
        self._check_node(schema, param, bill, seen)
        for node in seen.values():
            reference = node.get("$ref")
            if isinstance(reference, str):
                target = _target(schema, reference)
                if isinstance(target, dict) and id(target) not in seen:
                    raise invalid("A JSON schema's '$ref' leads to what is no schema.", param)
        self._check_bill(bill, param)

    def _check_bill(self, bill: _Bill, param: str) -> None:
        if bill.ms > self.compile_ms:
            raise invalid(
                f"The grammars of the request, up to and with '{param}', would take about {bill.ms:.0f} ms of CPU to"
                f" compile; at most {self.compile_ms} ms are given. Use fewer or simpler patterns, formats, number"
                " bounds, enum values and properties, and fewer different string lengths.",
                param,
            )

    def _check_depth(self, value: object, param: str, depth: int) -> None:
        if depth > self.depth:
            raise invalid(f"A JSON schema is nested deeper than {self.depth} levels.", param)
        if isinstance(value, list | dict):
            for item in value.values() if isinstance(value, dict) else value:
                self._check_depth(item, param, depth + 1)

    def _check_node(self, node: object, param: str, bill: _Bill, seen: dict[int, dict[str, Any]]) -> None:
        if not isinstance(node, dict):
            return
        seen[id(node)] = node
        for key, value in node.items():
            self._check_keyword(key, value, param)
        for pattern in _patterns(node):
            bill.ms += self._cost_of_pattern(pattern, param)
        bill.add_node(node)
        for child in self.keywords.children(node):
            self._check_node(child, param, bill, seen)

    def _check_keyword(self, key: str, value: object, param: str) -> None:
        if not self.keywords.is_known(key):
            raise invalid(
                "A JSON schema has a keyword that is not accepted here; the list of those that are is in"
                f" docs/request-limits.md. Keywords that begin with '{self.keywords.annotation_prefix}' are ignored.",
                param,
            )
        if key in COUNTS and isinstance(value, int | float) and not 0 <= value <= self.count:
            raise invalid(
                f"A JSON schema's '{key}' must be between 0 and {self.count}: more is too costly to compile.", param
            )
        if isinstance(value, list):
            self._check_list(key, value, param)
        if key in self.keywords.named_schemas and isinstance(value, dict) and len(value) > self.properties:
            raise invalid(f"A JSON schema's '{key}' has more than {self.properties} members.", param)
        if key == "$ref" and (not isinstance(value, str) or not value.startswith("#") or "~" in value or "%" in value):
            raise invalid("A JSON schema's '$ref' must stay inside the schema ('#...') and be written plainly.", param)

    def _check_list(self, key: str, value: list[Any], param: str) -> None:
        if key in self.keywords.annotations or key.startswith(self.keywords.annotation_prefix):
            return
        most = {"type": TYPES, "enum": self.enum_items, "required": self.properties}.get(key, self.branches)
        if len(value) > most:
            raise invalid(f"A JSON schema's '{key}' has more than {most} values.", param)
        if key in ("type", "enum", "required") and len({json.dumps(item) for item in value}) < len(value):
            raise invalid(f"A JSON schema's '{key}' has a value twice.", param)

    def _cost_of_pattern(self, pattern: object, param: str) -> float:
        if not isinstance(pattern, str):
            raise invalid("A regular expression must be a string.", param, "invalid_type")
        if len(pattern) > self.pattern_characters:
            raise invalid(f"A regular expression is longer than {self.pattern_characters} characters.", param)
        try:
            return self.costs_ms.of_pattern(pattern)
        except UnreadPattern as unread:
            raise invalid(f"A regular expression {unread}.", param) from None


def is_compiled(name: str, strict: object, choice: object, called: str | None) -> bool:
    """Whether the engine compiles the schema of the tool of this name, because an answer must follow it.

    `called` is the tool that `choice` names. A parser of tool calls may force more; the trial sees that.
    """
    if called is not None:
        return name == called
    return choice == "required" or (choice != "none" and bool(strict))


def _patterns(node: dict[str, Any]) -> Iterator[object]:
    """The regular expressions of one object of a JSON schema."""
    if isinstance(node.get("patternProperties"), dict):
        yield from node["patternProperties"]
    if "pattern" in node:
        yield node["pattern"]


def _target(schema: object, reference: str) -> object:
    """The value at the path of a `$ref`. None where the path leads nowhere."""
    found = schema
    for part in filter(None, reference[1:].split("/")):
        if isinstance(found, dict):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and len(part) < 6 and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found

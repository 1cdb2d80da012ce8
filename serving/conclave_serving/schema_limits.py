"""Bounds on what structured output compiles: JSON schemas and regular expressions (request_limits.yaml, `schema`).

Pure; called by `request_limits.py`. The engine compiles a grammar before it answers, so its size is cost.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from conclave_serving.errors import invalid
from conclave_serving.grammar_costs import GrammarCosts

COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


class _Bill:
    """What the grammars of one request cost; a pair of lengths is compiled once, however often it is used."""

    def __init__(self, costs: GrammarCosts) -> None:
        self.costs = costs
        self.ms = 0.0
        self._lengths: set[tuple[int, int]] = set()

    def add_node(self, node: dict[str, Any]) -> None:
        """One object of a JSON schema, without its children."""
        self.ms += self.costs.of_node(node)
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
    pattern_characters: int
    structured_outputs: tuple[str, ...]
    compile_ms: int
    costs_ms: GrammarCosts

    def check_request(self, request: dict[str, Any]) -> None:
        """Check every schema and pattern of a request, and what they cost together."""
        bill = _Bill(self.costs_ms)
        response_format = request.get("response_format")
        if response_format is not None:
            self._check_response_format(response_format, bill)
        structured = request.get("structured_outputs")
        if structured is not None:
            self._check_structured_outputs(structured, bill)
        for tool in request.get("tools") or ():
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, dict):
                raise invalid("Each of 'tools' must be of type 'function'.", "tools")
            self._check_schema(function.get("parameters"), "tools", bill)

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
                self._check_pattern(value, param)
                bill.ms += self.costs_ms.of_pattern(value)
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
        self._check_node(schema, param, bill, 0)
        self._check_bill(bill, param)

    def _check_bill(self, bill: _Bill, param: str) -> None:
        if bill.ms > self.compile_ms:
            raise invalid(
                f"The grammars of the request, up to and with '{param}', would take about {bill.ms:.0f} ms of CPU to"
                f" compile; at most {self.compile_ms} ms are given. Use fewer or simpler patterns, formats, number"
                " bounds, enum values and properties, and fewer different string lengths.",
                param,
            )

    def _check_node(self, node: object, param: str, bill: _Bill, depth: int) -> None:
        if depth > self.depth:
            raise invalid(f"A JSON schema is nested deeper than {self.depth} levels.", param)
        if isinstance(node, list):
            for item in node:
                self._check_node(item, param, bill, depth + 1)
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            self._check_keyword(key, value, param)
            self._check_node(value, param, bill, depth + 1)
        bill.add_node(node)

    def _check_keyword(self, key: str, value: object, param: str) -> None:
        if key in COUNTS and isinstance(value, int | float) and not 0 <= value <= self.count:
            raise invalid(f"A JSON schema's '{key}' must be between 0 and {self.count}.", param)
        if key == "enum" and isinstance(value, list) and len(value) > self.enum_items:
            raise invalid(f"A JSON schema's 'enum' has more than {self.enum_items} values.", param)
        if key in ("properties", "patternProperties", "$defs") and isinstance(value, dict):
            if len(value) > self.properties:
                raise invalid(f"A JSON schema's '{key}' has more than {self.properties} members.", param)
            if key == "patternProperties":
                for pattern in value:
                    self._check_pattern(pattern, param)
        if key == "pattern" and isinstance(value, str):
            self._check_pattern(value, param)
        if key == "$ref" and isinstance(value, str) and not value.startswith("#"):
            raise invalid("A JSON schema's '$ref' must stay inside the schema ('#...').", param)

    def _check_pattern(self, pattern: object, param: str) -> None:
        if not isinstance(pattern, str):
            raise invalid("A regular expression must be a string.", param, "invalid_type")
        if len(pattern) > self.pattern_characters:
            raise invalid(f"A regular expression is longer than {self.pattern_characters} characters.", param)

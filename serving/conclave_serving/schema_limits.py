"""Bounds on what structured output compiles: JSON schemas and regular expressions (request_limits.yaml, `schema`).

Pure; called by `request_limits.py`. The engine compiles a grammar before it answers, so its size is cost.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from conclave_serving.errors import invalid

COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_COUNTED_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")


class SchemaLimits(BaseModel):
    """The largest grammar that a request may bring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int
    count: int
    enum_items: int
    properties: int
    pattern_characters: int
    pattern_repeats: int
    structured_outputs: tuple[str, ...]

    def check_request(self, request: dict[str, Any]) -> None:
        """Check every schema and pattern of a request."""
        response_format = request.get("response_format")
        if response_format is not None:
            self._check_response_format(response_format)
        structured = request.get("structured_outputs")
        if structured is not None:
            self._check_structured_outputs(structured)
        for tool in request.get("tools") or ():
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, dict):
                raise invalid("Each of 'tools' must be of type 'function'.", "tools")
            self._check_schema(function.get("parameters"), "tools", 0)

    def _check_response_format(self, response_format: dict[str, Any]) -> None:
        kind = response_format.get("type")
        if kind not in ("text", "json_object", "json_schema"):
            raise invalid("'response_format.type' must be text, json_object or json_schema.", "response_format")
        if kind == "json_schema":
            described = response_format.get("json_schema")
            if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
                raise invalid("'response_format.json_schema.schema' must be an object.", "response_format")
            self._check_schema(described["schema"], "response_format", 0)

    def _check_structured_outputs(self, structured: dict[str, Any]) -> None:
        for key, value in structured.items():
            if key not in self.structured_outputs:
                raise invalid(
                    f"'structured_outputs' takes {', '.join(self.structured_outputs)} only.", "structured_outputs"
                )
            if key == "regex":
                self._check_pattern(value, "structured_outputs")
            elif key == "json":
                if not isinstance(value, dict):
                    raise invalid("'structured_outputs.json' must be an object.", "structured_outputs")
                self._check_schema(value, "structured_outputs", 0)
            elif key == "choice" and (not isinstance(value, list) or len(value) > self.enum_items):
                raise invalid(
                    f"'structured_outputs.choice' must be an array of at most {self.enum_items}.", "structured_outputs"
                )

    def _check_schema(self, node: object, param: str, depth: int) -> None:
        if depth > self.depth:
            raise invalid(f"A JSON schema is nested deeper than {self.depth} levels.", param)
        if isinstance(node, list):
            for item in node:
                self._check_schema(item, param, depth + 1)
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            self._check_keyword(key, value, param)
            self._check_schema(value, param, depth + 1)

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
        repeats = 1
        for least, most in _COUNTED_REPEAT.findall(pattern):
            repeats *= max(int(least), int(most or 0), 1)
            if repeats > self.pattern_repeats:
                raise invalid(f"A regular expression repeats more than {self.pattern_repeats} times.", param)

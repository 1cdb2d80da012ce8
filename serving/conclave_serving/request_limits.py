"""Caps on poison requests: which fields a request may have and how large each may be (request_limits.yaml).

Pure. `edge.py` calls `LIMITS.check` before the engine sees a request; messages name the field, never its value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from conclave_serving.errors import RequestError, invalid, unknown_model
from conclave_serving.schema_limits import SchemaLimits

Endpoint = Literal["chat", "completions"]
JsonType = Literal["string", "integer", "number", "boolean", "array", "object"]

JSON_TYPES: Mapping[JsonType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FieldLimit(_Data):
    """Bounds of one field; `item_*` hold for the members of an array or object."""

    types: tuple[JsonType, ...]
    endpoints: tuple[Endpoint, ...] = ("chat", "completions")
    required: bool = False
    minimum: int | float | None = None
    maximum: int | float | None = None
    min_items: int | None = None
    max_items: int | None = None
    max_characters: int | None = None
    max_bytes: int | None = None
    item_types: tuple[JsonType, ...] = ()
    item_minimum: int | float | None = None
    item_maximum: int | float | None = None

    def check(self, name: str, value: object) -> None:
        """Raise where the value is out of bounds."""
        _check_type(name, value, self.types)
        _check_number(name, value, self.minimum, self.maximum)
        if isinstance(value, str):
            self._check_text(name, value)
        if isinstance(value, list | dict):
            self._check_items(name, value)

    def _check_text(self, name: str, value: str) -> None:
        if self.max_characters is not None and len(value) > self.max_characters:
            raise invalid(f"'{name}' is longer than {self.max_characters} characters.", name)

    def _check_items(self, name: str, value: list[Any] | dict[str, Any]) -> None:
        if self.min_items is not None and len(value) < self.min_items:
            raise invalid(f"'{name}' has fewer than {self.min_items} items.", name)
        if self.max_items is not None and len(value) > self.max_items:
            raise invalid(f"'{name}' has more than {self.max_items} items.", name)
        if self.max_bytes is not None and len(json.dumps(value)) > self.max_bytes:
            raise invalid(f"'{name}' is larger than {self.max_bytes} bytes.", name)
        if not self.item_types:
            return
        for item in value.values() if isinstance(value, dict) else value:
            _check_type(name, item, self.item_types)
            _check_number(name, item, self.item_minimum, self.item_maximum)
            if isinstance(item, str):
                self._check_text(name, item)


class MessageLimits(_Data):
    """What a chat message may be made of."""

    roles: tuple[str, ...]
    parts: tuple[str, ...]

    def check(self, messages: list[Any]) -> None:
        """Raise where a message is not one of text."""
        for message in messages:
            if not isinstance(message, dict):
                raise _bad_message("each must be an object")
            if message.get("role") not in self.roles:
                raise _bad_message(f"'role' must be one of {', '.join(self.roles)}")
            for name in ("name", "tool_call_id", "refusal"):
                if not isinstance(message.get(name), str | None):
                    raise _bad_message(f"'{name}' must be a string")
            self._check_content(message.get("content"))
            self._check_tool_calls(message.get("tool_calls"))

    def _check_content(self, content: object) -> None:
        if not isinstance(content, str | list | None):
            raise _bad_message("'content' must be a string or an array")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in self.parts:
                raise _bad_message(f"a content part's 'type' must be one of {', '.join(self.parts)}")
            if not isinstance(part.get(kind), str):
                raise _bad_message(f"a content part's '{kind}' must be a string")

    def _check_tool_calls(self, calls: object) -> None:
        if not isinstance(calls, list | None):
            raise _bad_message("'tool_calls' must be an array")
        for call in calls or ():
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not all(
                isinstance(function.get(k), str) for k in ("name", "arguments")
            ):
                raise _bad_message("a tool call needs a 'function' with 'name' and 'arguments', both strings")


def _bad_message(rule: str) -> RequestError:
    return invalid(f"'messages': {rule}.", "messages")


class RequestLimits(_Data):
    """The whole data file."""

    body_bytes: int
    body_timeout_s: float
    json_depth: int
    sequences: int
    fields: dict[str, FieldLimit]
    message: MessageLimits
    schema_: SchemaLimits
    ignored: dict[str, str]
    forbidden: dict[str, str]

    def check(self, endpoint: Endpoint, request: dict[str, Any], models: Collection[str]) -> dict[str, Any]:
        """The request without what is ignored; a RequestError where anything is out of bounds."""
        kept = {name: value for name, value in request.items() if name not in self.ignored}
        for name, value in kept.items():
            limit = self._limit(endpoint, name)
            if value is not None or limit.required:
                limit.check(name, value)
        for name, limit in self.fields.items():
            if limit.required and endpoint in limit.endpoints and name not in kept:
                raise invalid(f"'{name}' is required.", name, "missing_required_parameter")
        if kept["model"] not in models:
            raise unknown_model()
        self._check_together(endpoint, kept)
        return kept

    def _limit(self, endpoint: Endpoint, name: str) -> FieldLimit:
        if name in self.forbidden:
            raise invalid(f"'{name}' is not accepted: {self.forbidden[name]}.", name, "unsupported_parameter")
        limit = self.fields.get(name)
        if limit is None or endpoint not in limit.endpoints:
            known = name if FIELD_NAME.fullmatch(name) else None
            raise invalid(
                f"'{known}' is not a parameter of this URL." if known else "An unknown parameter was sent.",
                known,
                "unknown_parameter",
            )
        return limit

    def _check_together(self, endpoint: Endpoint, request: dict[str, Any]) -> None:
        """Rules over more than one field."""
        prompts = 1
        if endpoint == "chat":
            self.message.check(request["messages"])
        else:
            prompts = _count_prompts(request["prompt"])
            if request.get("echo") and request.get("logprobs") is not None:
                raise invalid("'echo' with 'logprobs' is not accepted: it scores the whole prompt.", "echo")
        if prompts * (request.get("n") or 1) > self.sequences:
            raise invalid(f"The request asks for more than {self.sequences} sequences (prompts times 'n').", "n")
        self.schema_.check_request(request)


def _check_type(name: str, value: object, types: tuple[JsonType, ...]) -> None:
    is_boolean = isinstance(value, bool)
    for kind in types:
        if isinstance(value, JSON_TYPES[kind]) and (kind == "boolean" or not is_boolean):
            return
    raise invalid(f"'{name}' must be of type {' or '.join(types)}.", name, "invalid_type")


def _check_number(name: str, value: object, minimum: int | float | None, maximum: int | float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if minimum is not None and value < minimum:
        raise invalid(f"'{name}' must be at least {minimum}.", name)
    if maximum is not None and value > maximum:
        raise invalid(f"'{name}' must be at most {maximum}.", name)


def _count_prompts(prompt: str | list[Any]) -> int:
    """A string or a list of token ids is one prompt, a list of either is many."""
    if isinstance(prompt, str) or all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
        return 1
    for item in prompt:
        if not isinstance(item, str | list):
            raise invalid("'prompt' must hold strings, token ids or lists of token ids.", "prompt", "invalid_type")
    return len(prompt)


def load_limits() -> RequestLimits:
    """The packaged data file."""
    data = yaml.safe_load(files("conclave_serving").joinpath("request_limits.yaml").read_text())
    data["schema_"] = data.pop("schema")
    return RequestLimits.model_validate(data)


def limits_page() -> str:
    """docs/request-limits.md, generated from the data file."""
    limits = load_limits()
    rows = [
        f"| `{name}` | {', '.join(limit.endpoints)} | {' or '.join(limit.types)} | {_bounds(limit)} |"
        for name, limit in limits.fields.items()
    ]
    return "\n".join(
        [
            "# Request limits",
            "",
            "<!-- Generated from serving/conclave_serving/request_limits.yaml; edit that file. -->",
            "",
            "What one request may ask for. Whatever is outside is answered 400 in OpenAI's error shape before the",
            "engine sees it; the answer names the field, never its value. A field that is not listed is refused.",
            "",
            f"- body: at most {limits.body_bytes} bytes (413), complete within {limits.body_timeout_s:g} s (408)",
            f"- JSON: nested at most {limits.json_depth} levels; no duplicate keys, NaN, infinity or lone surrogates",
            f"- sequences (prompts times `n`): at most {limits.sequences}",
            f"- message roles: {', '.join(limits.message.roles)}; content parts: {', '.join(limits.message.parts)}",
            "",
            "## Fields",
            "",
            "| Field | URL | Type | Bounds |",
            "|---|---|---|---|",
            *rows,
            "",
            *limits.schema_.page_lines(),
            "## Taken and dropped",
            "",
            *(f"- `{name}`: {why}" for name, why in limits.ignored.items()),
            "",
            "## Refused",
            "",
            *(f"- `{name}`: {why}" for name, why in limits.forbidden.items()),
            "",
        ]
    )


def _bounds(limit: FieldLimit) -> str:
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "min_items": "at least {} items",
        "max_items": "at most {} items",
        "max_characters": "at most {} characters",
        "max_bytes": "at most {} bytes",
        "item_minimum": "each at least {}",
        "item_maximum": "each at most {}",
    }
    bounds = limit.model_dump(exclude_none=True)
    given = [text.format(bounds[key]) for key, text in words.items() if key in bounds]
    return ", ".join(["required", *given] if limit.required else given)


LIMITS = load_limits()
"""Read once; it is part of the package."""

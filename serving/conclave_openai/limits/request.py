"""The limits of a request: which fields it may have and how large each field may be (request_limits.yaml).

Pure. The edge calls `RequestLimits.check` before the engine sees a request. Each edge has limits of its own; those of
the package come from `load_limits`. Messages name the field, never its value.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files
from typing import Any

import yaml

from conclave.engine.environment import MOST_SEQUENCES
from conclave_openai.bodies.strict_json import Bounds
from conclave_openai.errors import invalid, unknown_model
from conclave_openai.grammars.schemas import SchemaLimits
from conclave_openai.limits.call_ids import fill_call_ids
from conclave_openai.limits.content_parts import read_parts
from conclave_openai.limits.fields import (
    FIELD_NAME,
    Data,
    FieldLimit,
    Refusals,
    Shape,
    check_number,
    is_neutral,
    refusal,
)
from conclave_openai.limits.thinking import read_thinking
from conclave_openai.limits.tool_arguments import mend_arguments
from conclave_openai.routes import Endpoint


class Cost(Data):
    """The most that one request takes at the edge. The figures were measured; no request is refused by them."""

    cpu_ms: int
    memory_bytes: int


class RequestLimits(Data):
    """The whole of request_limits.yaml."""

    body_bytes: int
    body_timeout_s: float
    bodies_bytes: int
    inline_bytes: int
    json_depth: int
    json_containers: int
    json_values: dict[Endpoint, int]
    cost: dict[Endpoint, Cost]
    sequences: int = MOST_SEQUENCES
    """Prompts x n of one request; the engine has the same bound."""
    fields: dict[str, FieldLimit]
    shapes: dict[str, Shape]
    schema_: SchemaLimits
    ignored: dict[str, str]
    forbidden: Refusals

    def json_bounds(self, endpoint: Endpoint) -> Bounds:
        """The bounds of a body, and of all tool arguments in a body together."""
        return Bounds(self.json_depth, self.json_containers, self.json_values[endpoint])

    def check(
        self,
        endpoint: Endpoint,
        request: dict[str, Any],
        models: Collection[str],
        context_tokens: int | None = None,
    ) -> dict[str, Any]:
        """The request as the engine takes it: without what says nothing, and in one spelling of what has several.

        `context_tokens` is the model's context, which bounds the length of an answer. Raises 400 where a field is out
        of bounds, 404 for another model.
        """
        kept: dict[str, Any] = {}
        for name, value in request.items():
            if value is None or name in self.ignored or self._is_neutral(name, value):
                continue
            checked = self._limit(endpoint, name).kept(name, value, self.shapes)
            if not self._is_neutral(name, checked):  # an object may say nothing but null
                kept[name] = checked
        for name, limit in self.fields.items():
            if limit.required and endpoint in limit.endpoints and name not in kept:
                raise refusal(name, "is required", "missing_required_parameter")
        if kept["model"] not in models:
            raise unknown_model()
        self._check_together(endpoint, kept)
        for name, limit in self.fields.items():
            if limit.within_context and context_tokens is not None and name in kept:
                kept[name] = min(kept[name], context_tokens)
        return kept

    def _is_neutral(self, name: str, value: object) -> bool:
        known = self.forbidden.get(name) or self.fields.get(name)
        return known is not None and is_neutral(value, known.neutral)

    def _limit(self, endpoint: Endpoint, name: str) -> FieldLimit:
        if name in self.forbidden:
            raise invalid(f"'{name}' is not accepted: {self.forbidden[name].why}.", name, "unsupported_parameter")
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
        """Rules that concern more than one field."""
        prompts = 1
        if endpoint == "chat":
            read_thinking(request)
            read_parts(request["messages"])
            fill_call_ids(request["messages"])
            mend_arguments(request["messages"], self.json_bounds(endpoint))
            if "tools" not in request and request.get("tool_choice") in ("none", "auto"):
                del request["tool_choice"]  # without tools there is nothing to choose, and vLLM would refuse it
        else:
            prompts = _count_prompts(request["prompt"], self.fields["prompt"])
            if request.get("echo") and request.get("logprobs") is not None:
                raise invalid("'echo' with 'logprobs' is not accepted: it scores the whole prompt.", "echo")
        if prompts * (request.get("n") or 1) > self.sequences:
            raise invalid(f"The request asks for more than {self.sequences} sequences (prompts times 'n').", "n")
        self.schema_.check_request(request)


def _count_prompts(prompt: str | list[Any], limit: FieldLimit) -> int:
    """A string or a list of token ids is one prompt. A list of strings or of lists is many prompts."""
    if isinstance(prompt, str):
        return 1
    if isinstance(prompt[0], int):
        _check_token_ids(prompt, limit)
        return 1
    for item in prompt:
        if isinstance(item, list):
            _check_token_ids(item, limit)
        elif not isinstance(item, str):
            raise refusal("prompt", "must hold strings, token ids or lists of token ids", "invalid_type")
    return len(prompt)


def _check_token_ids(prompt: list[Any], limit: FieldLimit) -> None:
    if set(map(type, prompt)) - {int}:
        raise refusal("prompt", "must hold strings, token ids or lists of token ids", "invalid_type")
    if prompt:
        for token in (min(prompt), max(prompt)):
            check_number("prompt", token, limit.item_minimum, limit.item_maximum)


def load_limits() -> RequestLimits:
    """The limits of the packaged file."""
    data = yaml.safe_load(files("conclave_openai.limits").joinpath("request_limits.yaml").read_text())
    data["schema_"] = data.pop("schema")
    return RequestLimits.model_validate(data)

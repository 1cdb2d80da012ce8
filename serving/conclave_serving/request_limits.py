"""Caps on poison requests: which fields a request may have and how large each may be (request_limits.yaml).

Pure. `edge.py` calls `LIMITS.check` before the engine sees a request; messages name the field, never its value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib.resources import files
from typing import Any

import yaml

from conclave_serving.earlier_calls import mend_arguments
from conclave_serving.errors import invalid, unknown_model
from conclave_serving.field_limits import Data, Endpoint, FieldLimit, Shape, check_number, refusal
from conclave_serving.schema_limits import SchemaLimits
from conclave_serving.strict_json import Bounds

FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Cost(Data):
    """What one request takes at the edge at most: measured, and no figure that anything is refused by."""

    cpu_ms: int
    memory_bytes: int


class RequestLimits(Data):
    """The whole data file."""

    body_bytes: int
    body_timeout_s: float
    bodies_bytes: int
    inline_bytes: int
    json_depth: int
    json_containers: int
    json_values: dict[Endpoint, int]
    cost: dict[Endpoint, Cost]
    sequences: int
    fields: dict[str, FieldLimit]
    shapes: dict[str, Shape]
    schema_: SchemaLimits
    ignored: dict[str, str]
    forbidden: dict[str, str]

    def json_bounds(self, endpoint: Endpoint) -> Bounds:
        """Of a body, and of all tool arguments in it together."""
        return Bounds(self.json_depth, self.json_containers, self.json_values[endpoint])

    def check(self, endpoint: Endpoint, request: dict[str, Any], models: Collection[str]) -> dict[str, Any]:
        """The request without what is ignored; a RequestError where anything is out of bounds."""
        kept: dict[str, Any] = {}
        for name, value in request.items():
            if name not in self.ignored:
                limit = self._limit(endpoint, name)
                absent = value is None and not limit.required
                kept[name] = None if absent else limit.kept(name, value, self.shapes)
        for name, limit in self.fields.items():
            if limit.required and endpoint in limit.endpoints and name not in kept:
                raise refusal(name, "is required", "missing_required_parameter")
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
            mend_arguments(request["messages"], self.json_bounds(endpoint))
        else:
            prompts = _count_prompts(request["prompt"], self.fields["prompt"])
            if request.get("echo") and request.get("logprobs") is not None:
                raise invalid("'echo' with 'logprobs' is not accepted: it scores the whole prompt.", "echo")
        if prompts * (request.get("n") or 1) > self.sequences:
            raise invalid(f"The request asks for more than {self.sequences} sequences (prompts times 'n').", "n")
        self.schema_.check_request(request)


def _count_prompts(prompt: str | list[Any], limit: FieldLimit) -> int:
    """A string or a list of token ids is one prompt, a list of either is many."""
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
    edge_costs = "; ".join(
        f"{endpoint} {cost.cpu_ms} ms and {cost.memory_bytes} bytes" for endpoint, cost in limits.cost.items()
    )
    return "\n".join(
        [
            "# Request limits",
            "",
            "<!-- Generated from serving/conclave_serving/request_limits.yaml; edit that file. -->",
            "",
            "These are the limits of one request. A request outside of them gets 400 in OpenAI's error shape, before",
            "the engine sees it. The answer names the field and never repeats its value. A field that is not listed is",
            "refused.",
            "",
            f"- body: at most {limits.body_bytes} bytes (else 413), complete in {limits.body_timeout_s:g} s (else 408)",
            f"- all bodies that one ingress replica reads at a time: {limits.bodies_bytes} bytes together (else 503)",
            f"- JSON: nested at most {limits.json_depth} levels; no duplicate keys, NaN, infinity or lone surrogates",
            f"- JSON values and keys, counted before parsing: at most {limits.json_values['chat']} in a chat,"
            f" {limits.json_values['completions']} in a completion; at most {limits.json_containers} are containers;"
            " as many again in the arguments of tool calls",
            f"- CPU and memory that the costliest request takes at the edge, without its answer: {edge_costs}; shown by"
            " `.venv/bin/python -m pytest -rP tests/unit/serving/test_request_cost.py`",
            f"- sequences (prompts times `n`): at most {limits.sequences}",
            "",
            "## Fields",
            "",
            "| Field | URL | Type | Bounds |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Objects within fields",
            "",
            "A key that is not listed is refused. A key with the value null counts as absent. `arguments` of an",
            "earlier call that are no JSON object count as `{}`. The pattern of a tool's name applies to every name of",
            "a tool.",
            "",
            "| Object | Key | Type | Bounds |",
            "|---|---|---|---|",
            *(row for name, shape in limits.shapes.items() for row in _shape_rows(name, shape)),
            "",
            *limits.schema_.page_lines(),
            "## Accepted and dropped",
            "",
            "The engine never sees these fields. A request with them is answered as if it had none of them.",
            "",
            *(f"- `{name}`: {why}" for name, why in limits.ignored.items()),
            "",
            "## Refused, and why",
            "",
            *(f"- `{name}`: {why}" for name, why in limits.forbidden.items()),
            "",
        ]
    )


def _shape_rows(name: str, shape: Shape) -> Iterator[str]:
    shown = name.replace("_", " ")
    if shape.told_by is not None:
        yield f"| {shown} | `{shape.told_by}` | string | one of {', '.join(shape.kinds)} |"
    for kind, keys in {"": shape.keys, **shape.kinds}.items():
        for key, limit in keys.items():
            of_kind = f"{shown} ({kind})" if kind else shown
            yield f"| {of_kind} | `{key}` | {' or '.join(limit.types)} | {_bounds(limit)} |"
    for key, why in shape.dropped.items():
        yield f"| {shown} | `{key}` | any | dropped: {why} |"
    for key, why in shape.refused.items():
        yield f"| {shown} | `{key}` |  | refused: {why} |"


def _bounds(limit: FieldLimit) -> str:
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "min_items": "at least {} items",
        "max_items": "at most {} items",
        "max_characters": "at most {} characters",
        "max_bytes": "at most {} bytes",
        "pattern": "matches `{}`",
        "key_pattern": "keys match `{}`",
        "item_minimum": "each at least {}",
        "item_maximum": "each at most {}",
    }
    bounds = limit.model_dump(exclude_none=True)
    given = [text.format(bounds[key]) for key, text in words.items() if key in bounds]
    if limit.choices:
        given.append(f"one of {', '.join(limit.choices)}")
    if limit.shape or limit.item_shape:
        shape = str(limit.shape or limit.item_shape).replace("_", " ")
        given.append(f"items: {shape}" if limit.item_shape else f"keys: {shape}")
    return ", ".join(["required", *given] if limit.required else given)


LIMITS = load_limits()
"""Read once; it is part of the package."""

"""The route table: the only table of the URLs that an OpenAI endpoint answers. Every other path answers 404.

A path is compared as the client wrote it, case-sensitive and still percent-encoded. Example: `/v1//models` and
`/v1%2Fmodels` are other paths than `/v1/models`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from conclave_openai.errors import method_not_allowed, unknown_model, unknown_path

Endpoint = Literal["chat", "completions"]
"""A URL that takes a body; the limits of the body's fields are kept under this name."""


@dataclass(frozen=True)
class Route:
    """One URL: the operation that answers it, and what it takes."""

    operation: str
    method: str
    path: str
    """A parameter in braces is the rest of the path, in FastAPI's notation."""
    endpoint: Endpoint | None = None
    """None: the URL takes no body."""


ROUTES = (
    Route("list_models", "GET", "/v1/models"),
    Route("show_model", "GET", "/v1/models/{model:path}"),
    Route("answer_chat", "POST", "/v1/chat/completions", "chat"),
    Route("answer_completions", "POST", "/v1/completions", "completions"),
)


def find_route(method: str, raw_path: str, models: Collection[str]) -> Route:
    """The route of a request. `raw_path` is still percent-encoded and has no query. Raises 404 and 405."""
    route = _at(raw_path, models)
    if method != route.method:
        raise method_not_allowed(route.method)
    return route


def _at(raw_path: str, models: Collection[str]) -> Route:
    for route in ROUTES:
        prefix, parameter, _ = route.path.partition("{")
        if not parameter and raw_path == route.path:
            return route
        if parameter and raw_path.startswith(prefix):
            if unquote(raw_path.removeprefix(prefix)) not in models:
                raise unknown_model()
            return route
    raise unknown_path()

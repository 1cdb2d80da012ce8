"""The allowlist of paths: what is not here answers 404, whatever the libraries below would have served.

Exact and case-sensitive on the path as the client wrote it: an encoded or doubled slash is another path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from urllib.parse import unquote

from conclave_serving.errors import RequestError, unknown_model, unknown_path


class Route(Enum):
    """What the endpoint serves."""

    MODELS = "models"
    MODEL = "model"
    CHAT = "chat"
    COMPLETIONS = "completions"


PATHS: Mapping[str, tuple[str, Route]] = {
    "/v1/models": ("GET", Route.MODELS),
    "/v1/chat/completions": ("POST", Route.CHAT),
    "/v1/completions": ("POST", Route.COMPLETIONS),
}
MODEL_PREFIX = "/v1/models/"


def find_route(method: str, raw_path: str, models: Collection[str]) -> Route:
    """The route of a request for one of `models`; `raw_path` is still percent-encoded and has no query."""
    if raw_path.startswith(MODEL_PREFIX):
        if unquote(raw_path.removeprefix(MODEL_PREFIX)) not in models:
            raise unknown_model()
        allowed, route = "GET", Route.MODEL
    elif raw_path in PATHS:
        allowed, route = PATHS[raw_path]
    else:
        raise unknown_path()
    if method != allowed:
        raise RequestError(
            405, f"This URL takes {allowed} only.", code="method_not_allowed", headers={"allow": allowed}
        )
    return route

"""The order in which a request is judged: token, route, body, limits; then the application, which asks an engine.

`Edge` is pure ASGI, so that a streamed answer passes through untouched. The application gets a scope without the
client's headers and query: the caller, an id of our own and the checked request stand in it under the keys below.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from conclave_openai.answers import Reply, Send
from conclave_openai.authorization import Authorization, Caller
from conclave_openai.bodies.reading import BodyMemory, DisconnectError, Receive, read_body
from conclave_openai.bodies.strict_json import parse_object
from conclave_openai.errors import RequestError, internal_error, not_json
from conclave_openai.limits.request import RequestLimits
from conclave_openai.logs.content_free import place_of
from conclave_openai.routes import Endpoint, find_route
from conclave_openai.spans.generation import Generations

Scope = MutableMapping[str, Any]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

OWN_LOGGER = logging.getLogger(__name__)

CALLER = "conclave.caller"
"""Key of the `Caller` in the ASGI scope."""
REQUEST = "conclave.request"
"""Key of the checked request in the ASGI scope. A URL without a body has none."""
REQUEST_ID = "conclave.request_id"
"""Key of the request's id in the ASGI scope. The edge makes the id; the client's is never used."""


class Edge:
    """ASGI middleware. Each instance has its own limits, authorization, models, body memory and thread."""

    def __init__(
        self,
        app: AsgiApp,
        *,
        models: Collection[str],
        authorization: Authorization,
        limits: RequestLimits,
        context_tokens: int | None = None,
        generations: Generations | None = None,
        logger: logging.Logger = OWN_LOGGER,
    ) -> None:
        self._app = app
        self._models = models
        self._authorization = authorization
        self._limits = limits
        self._context_tokens = context_tokens
        self._generations = generations or Generations()
        self._logger = logger
        self._body_memory = BodyMemory(limits.bodies_bytes)
        self._thread = ThreadPoolExecutor(1, "request-check")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, Reply(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        try:
            admitted = await self._admit(scope, receive)
            await self._pass_on(admitted, receive, reply)
        except RequestError as refusal:
            await reply.refuse(refusal)
        except DisconnectError:
            return
        except Exception as error:  # noqa: BLE001 - logged here: a caller would log its message
            self._logger.error("request failed: %s", place_of(error))
            await reply.refuse(internal_error())

    async def _admit(self, scope: Scope, receive: Receive) -> Scope:
        """The scope for the application. Raises a RequestError at the first rule that the request breaks."""
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        caller = self._authorization.require(headers)
        models = self._models_of(caller)
        route = find_route(scope["method"], _raw_path(scope), models)
        admitted = {**scope, CALLER: caller, REQUEST_ID: uuid4().hex, "headers": [], "query_string": b""}
        if route.endpoint is not None:
            _require_json(headers)
            admitted[REQUEST] = await self._read_request(route.endpoint, headers, receive, models)
        return admitted

    def _models_of(self, caller: Caller) -> Collection[str]:
        return self._models if caller.models is None else [name for name in self._models if name in caller.models]

    async def _read_request(
        self, endpoint: Endpoint, headers: list[tuple[bytes, bytes]], receive: Receive, models: Collection[str]
    ) -> dict[str, Any]:
        """The checked request. docs/adr/0013 says what the thread does for other requests, and what it cannot do."""
        limits = self._limits
        with self._body_memory.share() as take:
            body = await read_body(
                headers, receive, take, limit_bytes=limits.body_bytes, timeout_s=limits.body_timeout_s
            )
            if len(body) <= limits.inline_bytes:
                return self._check(endpoint, body, models)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._check, endpoint, body, models)

    def _check(self, endpoint: Endpoint, body: bytes, models: Collection[str]) -> dict[str, Any]:
        parsed = parse_object(body, self._limits.json_bounds(endpoint))
        return self._limits.check(endpoint, parsed, models, self._context_tokens)

    async def _pass_on(self, admitted: Scope, receive: Receive, reply: Reply) -> None:
        request = admitted.get(REQUEST)
        if request is None:
            await self._app(admitted, receive, reply)
            return
        with self._generations.traced(request, admitted.get("server")) as generation:
            await self._app(admitted, receive, generation.watched(reply))


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return str(scope["path"])
    return raw.partition(b"?")[0].decode("latin-1")


def _require_json(headers: list[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if name.lower() == b"content-type" and value.split(b";")[0].strip().lower() == b"application/json":
            return
    raise not_json()

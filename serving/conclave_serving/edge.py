"""The first code that a request meets: token, path, size, limits; and the only code that writes error responses.

Pure ASGI, so that a streamed answer passes through untouched. It parses the body once and leaves the checked object
in the scope for `ingress.py`; none of the client's headers goes further (Serve has taken the trace context).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from conclave_serving.authorization import BearerToken
from conclave_serving.errors import RequestError, internal_error, place_of
from conclave_serving.field_limits import Endpoint
from conclave_serving.generation import generation
from conclave_serving.request_body import BodyMemory, DisconnectError, Message, Receive, read_body
from conclave_serving.request_limits import LIMITS
from conclave_serving.routes import Route, find_route
from conclave_serving.strict_json import parse_object

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("ray.serve")

REQUEST = "conclave.request"
"""Key of the checked request in the ASGI scope."""
REQUEST_ID = "conclave.request_id"
"""Key of the id that the engine works under; never the client's."""
ENDPOINTS: dict[Route, Endpoint] = {Route.CHAT: "chat", Route.COMPLETIONS: "completions"}


class Edge:
    """ASGI middleware around the ingress."""

    def __init__(self, app: AsgiApp, *, models: Collection[str], token_path: str) -> None:
        self._app = app
        self._models = models
        self._token = BearerToken(Path(token_path))
        self._body_memory = BodyMemory(LIMITS.bodies_bytes)
        self._thread = ThreadPoolExecutor(1, "request-check")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = _Reply(send)
        try:
            inner = await self._admit(scope, receive)
            await self._pass_on(inner, receive, reply)
        except RequestError as refusal:
            await reply.refuse(refusal)
        except DisconnectError:
            return
        except Exception as error:  # noqa: BLE001 - logged here: whoever logs it above would log its message
            # Serve puts the request id of the response on the line.
            logger.error("request failed: %s", place_of(error))
            await reply.refuse(internal_error())

    async def _admit(self, scope: Scope, receive: Receive) -> Scope:
        """The scope as the ingress may see it, or a RequestError."""
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self._token.require(headers)
        route = find_route(scope["method"], _raw_path(scope), self._models)
        inner = {
            **scope,
            REQUEST_ID: uuid4().hex,
            "headers": [],
            "query_string": b"",
        }
        endpoint = ENDPOINTS.get(route)
        if endpoint is not None:
            _require_json(headers)
            inner[REQUEST] = await self._read_request(endpoint, headers, receive)
        return inner

    async def _read_request(
        self, endpoint: Endpoint, headers: list[tuple[bytes, bytes]], receive: Receive
    ) -> dict[str, Any]:
        """The checked request; docs/adr/0013 says what a thread does for the others, and what it cannot do."""
        with self._body_memory.share() as take:
            body = await read_body(
                headers, receive, take, limit_bytes=LIMITS.body_bytes, timeout_s=LIMITS.body_timeout_s
            )
            if len(body) <= LIMITS.inline_bytes:
                return self._check(endpoint, body)
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._check, endpoint, body)

    def _check(self, endpoint: Endpoint, body: bytes) -> dict[str, Any]:
        return LIMITS.check(endpoint, parse_object(body, LIMITS.json_bounds(endpoint)), self._models)

    async def _pass_on(self, inner: Scope, receive: Receive, reply: Send) -> None:
        request = inner.get(REQUEST)
        if request is None:
            await self._app(inner, receive, reply)
            return
        with generation(request, inner.get("server")) as traced:
            await self._app(inner, receive, traced.watched(reply))


class _Reply:
    """`send`, which remembers whether the response has begun and is a stream."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self._streams = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            self._streams = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
        await self._send(message)

    async def refuse(self, refusal: RequestError) -> None:
        """Answer with the error; where a stream has begun, end it with an error event and no [DONE]."""
        if not self._begun:
            body = refusal.body()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *refusal.headers,
            ]
            await self({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body})
        elif self._streams:
            await self._send({"type": "http.response.body", "body": refusal.as_event()})


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return str(scope["path"])
    return raw.partition(b"?")[0].decode("latin-1")


def _require_json(headers: list[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if name.lower() == b"content-type" and value.split(b";")[0].strip().lower() == b"application/json":
            return
    raise RequestError(415, "The Content-Type must be application/json.", code="unsupported_media_type")

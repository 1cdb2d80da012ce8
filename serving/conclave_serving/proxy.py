"""The outermost layer of Serve's HTTP proxy, and the door in front of it.

RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares` where Ray is started. Without this layer Serve would queue
the bodies of callers without a token, obey a client's headers (request id, model id, session, timeout), answer overload
in plain text, and show its list of applications to anybody.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, MutableMapping
from ipaddress import ip_address, ip_network
from pathlib import Path

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

from conclave.engine.arguments import (
    CONNECTIONS_EXEMPT_VARIABLE,
    CONNECTIONS_PER_ADDRESS_VARIABLE,
    TOKEN_FILE_VARIABLE,
)
from conclave.errors import EnvironmentUnfit
from conclave_openai.answers import send_refusal
from conclave_openai.authorization import Authorization, BearerToken
from conclave_openai.connections.door import Door
from conclave_openai.connections.limits import ConnectionLimits
from conclave_openai.errors import RequestError, bodies_full, unknown_path
from conclave_openai.limits.request import load_limits
from conclave_serving.engine_refusals import proxy_refusal

STEERING_HEADERS = (b"x-request-id", b"x-session-id", b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
STEERING_PREFIXES = (b"serve-", b"x-serve-")
ROUTE_LIST = "/-/routes"
"""Serve's list of applications."""
HEALTH = "/-/healthz"
"""The proxy's own health. The kubelet and KubeRay probe it without a token."""
MESSAGE_BYTES = 512
"""What Python keeps of each part of a body besides its bytes. A client may send a body in parts of one byte."""
STRUCTURED = (b"application/json", b"text/event-stream")

logger = logging.getLogger("ray.serve")


class OutermostLayer:
    """Pure ASGI middleware. What an application streams passes through untouched.

    Without `authorization` the edge alone checks the token: pods of older builds do not name the token's file.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_bytes: int,
        authorization: Authorization | None = None,
        waiting_bodies_bytes: int = 512 << 20,
    ) -> None:
        self._app = app
        self._authorization = authorization
        self._bodies = _Bodies(body_bytes, waiting_bodies_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._admit(scope)
        except RequestError as refusal:
            # Serve never sees the request, so it does not log it. The path is the client's text and is left out.
            logger.info("%s %d at the door, from %s", scope["method"], refusal.status, _address(scope))
            await send_refusal(send, refusal)
            return
        headers = [(name, value) for name, value in scope["headers"] if not _steers(name)]
        with _Exchange(receive, send, self._bodies) as exchange:
            await self._app({**scope, "headers": headers}, exchange.receive, exchange.send)

    def _admit(self, scope: Scope) -> None:
        if scope["path"] == ROUTE_LIST:
            raise unknown_path()
        if self._authorization is not None and scope["path"] != HEALTH:
            self._authorization.require(scope["headers"])


class _Bodies:
    """Counts the bytes of bodies that Serve queues: Serve reads a body whole before a replica takes the request."""

    def __init__(self, body_bytes: int, most_bytes: int) -> None:
        self.body_bytes = body_bytes
        self.most_bytes = most_bytes
        self.held_bytes = 0


class _Exchange:
    """A `receive` that bounds what is queued of the body, and a `send` that replaces Serve's own errors."""

    def __init__(self, receive: Receive, send: Send, bodies: _Bodies) -> None:
        self._receive = receive
        self._send = send
        self._bodies = bodies
        self._body_bytes = self._held_bytes = 0
        self._has_begun = False
        self._is_replaced = False

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    async def receive(self) -> Message:
        message = await self._receive()
        while message["type"] == "http.request" and self._needs_no_more():
            message = await self._receive()
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self._body_bytes += size
        self._held_bytes += size + MESSAGE_BYTES
        self._bodies.held_bytes += size + MESSAGE_BYTES
        if self._bodies.held_bytes <= self._bodies.most_bytes:
            return message
        self._has_begun = self._is_replaced = True
        await send_refusal(self._send, bodies_full())
        return {"type": "http.disconnect"}

    def _needs_no_more(self) -> bool:
        """Whether the rest of the body is dropped: the answer has begun, or the edge has enough to refuse the body."""
        return self._has_begun or self._body_bytes > self._bodies.body_bytes

    async def send(self, message: Message) -> None:
        if self._is_replaced:
            return
        if message["type"] == "http.response.start":
            self._has_begun = True
            self._release()
            headers = dict(message["headers"])
            if message["status"] >= 400 and not headers.get(b"content-type", b"").startswith(STRUCTURED):
                self._is_replaced = True
                await send_refusal(self._send, proxy_refusal(message["status"]), headers)
                return
        await self._send(message)

    def _release(self) -> None:
        """Give the bytes back. The application no longer needs the body once its answer has begun."""
        self._bodies.held_bytes -= self._held_bytes
        self._held_bytes = 0


def _address(scope: Scope) -> str:
    """The client's address. Behind a proxy on this machine uvicorn takes it from X-Forwarded-For, which is any text."""
    host = str((scope.get("client") or ("",))[0])
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return "an unknown address"


def _steers(name: bytes) -> bool:
    """Whether Serve obeys the header. Serve takes `_` and `-` as equal."""
    canonical = name.lower().replace(b"_", b"-")
    return canonical in STEERING_HEADERS or canonical.startswith(STEERING_PREFIXES)


def connection_limits(environment: Mapping[str, str]) -> ConnectionLimits:
    """The limits that the pod's environment sets. Raises EnvironmentUnfit where a value is of another type."""
    given = environment.get(CONNECTIONS_PER_ADDRESS_VARIABLE, str(ConnectionLimits.connections_per_address))
    if not given.isdecimal() or int(given) < 1:
        raise EnvironmentUnfit(
            f"variable {CONNECTIONS_PER_ADDRESS_VARIABLE}: {given!r}, expected a whole number of at least 1"
        )
    try:
        networks = tuple(map(ip_network, environment.get(CONNECTIONS_EXEMPT_VARIABLE, "").split()))
    except ValueError as error:
        raise EnvironmentUnfit(
            f"variable {CONNECTIONS_EXEMPT_VARIABLE}: {error}; expected networks such as 10.2.0.0/16, with spaces"
            " between them"
        ) from error
    return ConnectionLimits(connections_per_address=int(given), exempt_networks=networks)


def stand_at(protocols: MutableMapping[str, str], door: Door) -> None:
    """Put the door into uvicorn's own table of protocols: Serve makes its uvicorn itself and leaves it the choice."""
    if "auto" not in protocols:
        raise EnvironmentUnfit(
            f"uvicorn's table of HTTP protocols: has {', '.join(protocols)}, expected 'auto', which Ray Serve leaves it"
            " at; use the uvicorn of the lock file"
        )
    protocols["auto"] = door  # type: ignore[assignment]  # uvicorn imports strings, and takes anything else as it is


def middlewares() -> list[Middleware]:
    """Serve's proxy calls this at its start, before it makes its uvicorn."""
    limits = connection_limits(os.environ)
    stand_at(HTTP_PROTOCOLS, Door(limits, logger=logger))
    token_file = os.environ.get(TOKEN_FILE_VARIABLE)
    return [
        Middleware(
            OutermostLayer,
            body_bytes=load_limits().body_bytes,
            authorization=BearerToken(Path(token_file), logger=logger) if token_file else None,
            waiting_bodies_bytes=limits.waiting_bodies_bytes,
        )
    ]

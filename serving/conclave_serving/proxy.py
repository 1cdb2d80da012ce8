"""The outermost layer of Serve's HTTP proxy: the token before any body, no header that steers it, no list of its
routes, errors in OpenAI's shape; and the door before it.

Named by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH where Ray is started. Without it Serve would queue everybody's
bodies, take a client's request id for its own, its model id, session and timeout headers for orders, answer overload
in plain text, and tell anybody what is deployed.
"""

from __future__ import annotations

import logging
import os
from ipaddress import ip_address
from pathlib import Path

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

from conclave.engine.arguments import TOKEN_FILE_VARIABLE
from conclave_serving.authorization import BearerToken
from conclave_serving.connection_limits import ConnectionLimits
from conclave_serving.door import Door, stand_at
from conclave_serving.errors import RequestError, bodies_full, proxy_refusal, unknown_path
from conclave_serving.request_limits import LIMITS

STEERING_HEADERS = (b"x-request-id", b"x-session-id", b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
STEERING_PREFIXES = (b"serve-", b"x-serve-")
ROUTE_LIST = "/-/routes"
"""Serve's list of applications."""
HEALTH = "/-/healthz"
"""Its neighbour, the proxy's own health: the kubelet and KubeRay probe it without a token."""
MESSAGE_BYTES = 512
"""What Python keeps of each part of a body besides its bytes: a client may send a body in parts of one byte."""
STRUCTURED = (b"application/json", b"text/event-stream")

logger = logging.getLogger("ray.serve")


class OutermostLayer:
    """Pure ASGI middleware; what an application streams passes through untouched.

    Without `token` it leaves the question to the edge: so do pods that were built before they named its file.
    """

    def __init__(
        self, app: ASGIApp, *, token: BearerToken | None = None, waiting_bodies_bytes: int = 512 << 20
    ) -> None:
        self._app = app
        self._token = token
        self._bodies = _Bodies(waiting_bodies_bytes)

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
            # Serve, which would log it, never sees the request; its path is the client's own words.
            logger.info("%s %d at the door, from %s", scope["method"], refusal.status, _address(scope))
            await _send_error(send, refusal, dict(refusal.headers))
            return
        headers = [(name, value) for name, value in scope["headers"] if not _steers(name)]
        with _Exchange(receive, send, self._bodies) as exchange:
            await self._app({**scope, "headers": headers}, exchange.receive, exchange.send)

    def _admit(self, scope: Scope) -> None:
        if scope["path"] == ROUTE_LIST:
            raise unknown_path()
        if self._token is not None and scope["path"] != HEALTH:
            self._token.require(scope["headers"])


class _Bodies:
    """Bytes of bodies that Serve queues: Serve reads a body whole before a replica takes the request."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0


class _Exchange:
    """`receive` that bounds what is queued of the body, `send` that replaces an error of Serve's own."""

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
        while message["type"] == "http.request" and (self._has_begun or self._body_bytes > LIMITS.body_bytes):
            message = await self._receive()  # dropped: nobody reads it, or the edge has had enough to refuse it
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self._body_bytes += size
        self._held_bytes += size + MESSAGE_BYTES
        self._bodies.held_bytes += size + MESSAGE_BYTES
        if self._bodies.held_bytes <= self._bodies.most_bytes:
            return message
        refusal = bodies_full()
        self._has_begun = self._is_replaced = True
        await _send_error(self._send, refusal, dict(refusal.headers))
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._is_replaced:
            return
        if message["type"] == "http.response.start":
            self._has_begun = True
            self._release()
            headers = dict(message["headers"])
            if message["status"] >= 400 and not headers.get(b"content-type", b"").startswith(STRUCTURED):
                self._is_replaced = True
                await _send_error(self._send, proxy_refusal(message["status"]), headers)
                return
        await self._send(message)

    def _release(self) -> None:
        """Give the bytes back: once an answer begins, the application no longer needs the body."""
        self._bodies.held_bytes -= self._held_bytes
        self._held_bytes = 0


async def _send_error(send: Send, refusal: RequestError, headers: dict[bytes, bytes]) -> None:
    """The refusal as a response; it keeps the other headers of the answer that it replaces."""
    body = refusal.body()
    headers = headers | {b"content-type": b"application/json", b"content-length": str(len(body)).encode()}
    await send({"type": "http.response.start", "status": refusal.status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})


def _address(scope: Scope) -> str:
    """Of the client. uvicorn takes it from X-Forwarded-For where a peer on this machine sends that: any text."""
    host = str((scope.get("client") or ("",))[0])
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return "an unknown address"


def _steers(name: bytes) -> bool:
    """`_` and `-` are one, as Serve takes them."""
    canonical = name.lower().replace(b"_", b"-")
    return canonical in STEERING_HEADERS or canonical.startswith(STEERING_PREFIXES)


def middlewares() -> list[Middleware]:
    """Called by Serve's proxy at its start, before it makes its uvicorn."""
    limits = ConnectionLimits.from_environment(os.environ)
    stand_at(HTTP_PROTOCOLS, Door(limits))
    token_file = os.environ.get(TOKEN_FILE_VARIABLE)
    token = BearerToken(Path(token_file)) if token_file else None
    return [Middleware(OutermostLayer, token=token, waiting_bodies_bytes=limits.waiting_bodies_bytes)]

"""The outermost layer of Serve's HTTP proxy: no header steers it, no list of its routes, errors in OpenAI's shape.

Named by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH where Ray is started. Without it Serve would take a client's
request id for its own, its model id, session and timeout headers for orders, answer overload in plain text, and tell
anybody what is deployed.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conclave_serving.errors import RequestError, proxy_refusal, unknown_path

STEERING_HEADERS = (b"x-request-id", b"x-session-id", b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
STEERING_PREFIXES = (b"serve-", b"x-serve-")
ROUTE_LIST = "/-/routes"
"""Serve's list of applications; its neighbour `/-/healthz` stays: the kubelet and KubeRay probe it without a token."""
STRUCTURED = (b"application/json", b"text/event-stream")


class OutermostLayer:
    """Pure ASGI middleware; what an application streams passes through untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == ROUTE_LIST:
            await _send_error(send, unknown_path(), {})
            return
        headers = [(name, value) for name, value in scope["headers"] if not _steers(name)]
        await self._app({**scope, "headers": headers}, receive, _Shaped(send))


class _Shaped:
    """`send` that replaces an error of Serve's own by one in OpenAI's shape."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            headers = dict(message["headers"])
            if not headers.get(b"content-type", b"").startswith(STRUCTURED):
                self._replaced = True
                await _send_error(self._send, proxy_refusal(message["status"]), headers)
                return
        if not self._replaced:
            await self._send(message)


async def _send_error(send: Send, refusal: RequestError, headers: dict[bytes, bytes]) -> None:
    """The refusal as a response; it keeps the other headers of the answer that it replaces."""
    body = refusal.body()
    headers = headers | {b"content-type": b"application/json", b"content-length": str(len(body)).encode()}
    await send({"type": "http.response.start", "status": refusal.status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body})


def _steers(name: bytes) -> bool:
    """`_` and `-` are one, as Serve takes them."""
    canonical = name.lower().replace(b"_", b"-")
    return canonical in STEERING_HEADERS or canonical.startswith(STEERING_PREFIXES)


def middlewares() -> list[Middleware]:
    """Called by Serve's proxy at its start."""
    return [Middleware(OutermostLayer)]

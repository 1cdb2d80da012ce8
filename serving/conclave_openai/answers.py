"""Sends refusals, and remembers how far an answer has come. All errors of the edge reach a client by this module."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from conclave_openai.errors import Headers, RequestError

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


def refusal_headers(refusal: RequestError, body: bytes, kept: Mapping[bytes, bytes] | None = None) -> Headers:
    """The headers of a refusal. `kept` are headers of an answer that the refusal replaces."""
    own = {b"content-type": b"application/json", b"content-length": str(len(body)).encode()}
    return list({**(kept or {}), **dict(refusal.headers), **own}.items())


async def send_refusal(send: Send, refusal: RequestError, kept: Mapping[bytes, bytes] | None = None) -> None:
    """Answer a request whose answer has not begun."""
    body = refusal.body()
    headers = refusal_headers(refusal, body, kept)
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Reply:
    """An ASGI `send` that remembers whether the answer has begun and whether the answer is a stream."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = False
        self._streams = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._has_begun = True
            self._streams = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
        await self._send(message)

    async def refuse(self, refusal: RequestError) -> None:
        """Answer with the error. A stream that has begun ends with an error event and without `[DONE]`."""
        if not self._has_begun:
            await send_refusal(self, refusal)
        elif self._streams:
            await self._send({"type": "http.response.body", "body": refusal.as_event()})

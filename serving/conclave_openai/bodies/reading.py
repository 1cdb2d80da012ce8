"""Reads a request's body within bounds of bytes and time, and within the memory that all requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

from conclave_openai.answers import Message
from conclave_openai.errors import RequestError, too_many_bodies

Receive = Callable[[], Awaitable[Message]]
Take = Callable[[int], None]


class DisconnectError(Exception):
    """The client went away before its request was complete, so no answer is due."""


class BodyMemory:
    """Counts the bytes of all bodies that an edge reads and checks at the same time."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._taken = 0

    @contextmanager
    def share(self) -> Iterator[Take]:
        """A function that takes bytes for one request, or raises 503. The end of the block gives all bytes back."""
        own = 0

        def take(count: int) -> None:
            nonlocal own
            if self._taken + count > self._limit_bytes:
                raise too_many_bodies(retry_after_s=1)
            self._taken += count
            own += count

        try:
            yield take
        finally:
            self._taken -= own


async def read_body(
    headers: Iterable[tuple[bytes, bytes]], receive: Receive, take: Take, *, limit_bytes: int, timeout_s: float
) -> bytes:
    """The whole body, announced or chunked. Raises 413 over the limit, and 408 where the body is late."""
    for name, value in headers:
        if name.lower() == b"content-length" and value.isdigit() and int(value[:20]) > limit_bytes:
            raise _too_large(limit_bytes)
    body = bytearray()  # a list of chunks of two bytes would take twenty times the bytes that `take` counted
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise DisconnectError
                chunk = message.get("body", b"")
                if len(body) + len(chunk) > limit_bytes:
                    raise _too_large(limit_bytes)
                take(len(chunk))
                body += chunk
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestError(
            408, f"The request body did not arrive within {timeout_s:g} s.", code="request_timeout"
        ) from None


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(413, f"The request body is larger than {limit_bytes} bytes.", code="request_too_large")

"""uvicorn's HTTP protocol within `ConnectionLimits`: bytes of a head, time for a head, open connections.

uvicorn itself bounds none of these. A `Door` takes the place of a protocol class: `uvicorn.Config(http=Door(limits))`.
The door answers a refused client in OpenAI's shape where HTTP has an answer, and then closes the connection.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from conclave_openai.answers import refusal_headers
from conclave_openai.connections.limits import ConnectionLimits
from conclave_openai.errors import RequestError, head_timeout, head_too_large, malformed, too_many_connections

REFUSED_AT_A_TIME = 64
"""So many refused connections stay open until they are answered. More than these are closed without an answer."""
OWN_CONNECTIONS = 64
"""Clients on the same machine may open so many more, so that probes pass while other clients fill the process."""
FILES_OF_OTHERS = 512
"""File descriptors that the process needs besides its clients' connections."""
PIECE_BYTES = 16 << 10
"""The parser gets this much at a time. The bytes after its last report are counted from the next piece on."""
REPORT_EVERY_S = 10.0
VERSIONS = ("1.0", "1.1")
"""The parser would also take 0.9 (a request line without a version) and 2.0."""

OWN_LOGGER = logging.getLogger(__name__)


class Entry(NamedTuple):
    """Whether a connection was admitted, and for which address it counts."""

    is_admitted: bool
    counted: str | None
    """None: the address has no bound of its own."""
    is_answered: bool = True
    """Whether a refused connection gets an answer before it is closed."""


class Door:
    """Makes the protocol of each connection and counts the connections. A server has one door."""

    def __init__(self, limits: ConnectionLimits, *, logger: logging.Logger = OWN_LOGGER) -> None:
        self.limits = limits
        self._logger = logger
        self._most = min(limits.connections, max(1, _raise_file_limit(limits.connections) - FILES_OF_OTHERS))
        self._open = self._refused_open = 0
        self._of_address: Counter[str | None] = Counter()
        self._refused: Counter[int] = Counter()
        self._reported_at = -REPORT_EVERY_S

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> GuardedProtocol:
        return GuardedProtocol(self, config, server_state, app_state, _loop)

    def enter(self, address: str | None) -> Entry:
        """Admit or refuse a new connection. The caller must call `leave` with the entry at the connection's end."""
        parsed = ip_address(address) if address is not None else None
        most = self._most + (OWN_CONNECTIONS if parsed is not None and parsed.is_loopback else 0)
        is_exempt = parsed is None or any(parsed in network for network in self.limits.exempt_networks)
        counted = None if is_exempt else address
        if self._open < most and (counted is None or self._of_address[counted] < self.limits.connections_per_address):
            self._open += 1
            self._of_address[counted] += 1
            return Entry(True, counted)
        self._refused_open += 1
        return Entry(False, counted, is_answered=self._refused_open <= REFUSED_AT_A_TIME)

    def leave(self, entry: Entry) -> None:
        """The connection is closed."""
        if not entry.is_admitted:
            self._refused_open -= 1
            return
        self._open -= 1
        self._of_address[entry.counted] -= 1
        if not self._of_address[entry.counted]:
            del self._of_address[entry.counted]

    def note(self, status: int, address: str | None) -> None:
        """Count a refusal. Every REPORT_EVERY_S seconds one line logs all refusals since the last line."""
        self._refused[status] += 1
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            counted = ", ".join(f"{count} with {status}" for status, count in sorted(self._refused.items()))
            self._logger.warning(
                "refused connections since the last line of this kind: %s; the latest from %s", counted, address
            )
            self._refused.clear()


class GuardedProtocol(HttpToolsProtocol):
    """One connection: a head, its body and its answer, then the next head.

    One deadline runs at a time: for the first byte, for a head, for the rest of a body that was already answered, or
    for a refused client to leave. No deadline runs while the application works. Between requests uvicorn's own
    keep-alive deadline runs.
    """

    def __init__(
        self,
        door: Door,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.ws_protocol_class = None  # an upgrade is ignored: its request is answered like any other
        self._door = door
        self._limits = door.limits
        self._address: str | None = None
        self._entry: Entry
        self._deadline: asyncio.TimerHandle | None = None
        self._refusal: RequestError | None = None
        self._exchange: RequestResponseCycle | None = None
        """The current request, until it is answered and its body is complete."""
        self._has_begun = False
        """The client has sent a first byte."""
        self._in_body = False
        """A head is complete and its body is not."""
        self._drops_input = False
        """The connection is no longer read. Bytes that still arrive are dropped."""
        self._unframed_bytes = 0
        """Bytes that the parser got since its last report."""
        self._head_bytes = self._head_lines = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = _address_of(transport)
        self._entry = self._door.enter(self._address)
        if self._entry.is_admitted:
            self._set_deadline(self._limits.head_timeout_s, transport.close)
        elif self._entry.is_answered:
            self._refuse(too_many_connections())
        else:
            self._door.note(503, self._address)
            self._drops_input = True
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self._entry)
        self._clear_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._has_begun and not self._drops_input:
            self._has_begun = True
            self._set_deadline(self._limits.head_timeout_s, self._head_is_late)
        for start in range(0, len(data), PIECE_BYTES):
            if self._drops_input:
                return
            piece = data[start : start + PIECE_BYTES]
            self._unframed_bytes += len(piece)
            super().data_received(piece)
            if self._unframed_bytes > self._limits.head_bytes:
                self._refuse(self._too_large())
        if self._exchange is None and self._deadline is None and self.timeout_keep_alive_task is None:
            # The bytes began no request, or were the rest of a body that was already answered.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # What the parser reports

    def on_message_begin(self) -> None:
        if self._exchange is not None:
            raise ValueError  # a pipelined request would wait here without a bound
        self._framed()
        if self._deadline is None:
            self._set_deadline(self._limits.head_timeout_s, self._head_is_late)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_lines += 1
        self._count(len(name) + len(value) + len(b": \r\n"))
        if not self._in_body:  # a trailer must not become a header: the headers were already filtered
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._framed()
        if self.parser.get_http_version() not in VERSIONS:
            raise ValueError
        super().on_headers_complete()
        self._exchange = self.cycle
        self._clear_deadline()
        self._in_body = True
        self._head_bytes = self._head_lines = 0
        if self.parser.should_upgrade():
            # The parser takes what follows for another protocol. A proxy may take it for this request's body.
            self._drops_input = True
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self._framed()

    def on_body(self, body: bytes) -> None:
        self._framed()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._framed()
        super().on_message_complete()
        self._in_body = False
        self._head_bytes = self._head_lines = 0
        if self.cycle.response_complete:
            self._clear_deadline()
            self._forget_exchange()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() or self._drops_input:
            return
        if self._in_body:
            self._set_deadline(self._limits.leftover_timeout_s, self.transport.close)
            self.cycle.body = bytearray()
        else:
            self._forget_exchange()

    # Refusals

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """uvicorn calls this where its parser refuses the bytes. Our answer replaces uvicorn's."""
        self._refuse(self._refusal or malformed())

    def _head_is_late(self) -> None:
        self._refuse(head_timeout(self._limits.head_timeout_s))

    def _too_large(self) -> RequestError:
        return head_too_large(self._limits.head_bytes, self._limits.header_lines)

    def _count(self, count_bytes: int) -> None:
        self._head_bytes += count_bytes
        if self._head_bytes > self._limits.head_bytes or self._head_lines > self._limits.header_lines:
            self._refusal = self._too_large()
            raise ValueError  # the parser ends, and uvicorn calls `send_400_response`

    def _refuse(self, refusal: RequestError) -> None:
        """Stop reading, answer where an answer is due and has not begun, and close the connection after it."""
        if self._drops_input:
            return
        self._drops_input = True
        self._clear_deadline()
        self._door.note(refusal.status, self._address)
        exchange = self._exchange
        if exchange is None:
            self._answer(refusal)
        elif not self._in_body:  # the next request is refused; the last request still gets its answer
            exchange.keep_alive = False
        elif exchange.response_started:
            self.transport.close()
        else:
            exchange.disconnected = True
            exchange.waiting_for_100_continue = False  # nothing may be written after the refusal
            exchange.message_event.set()
            self._answer(refusal)

    def _answer(self, refusal: RequestError) -> None:
        body = refusal.body()
        headers = [
            *self.server_state.default_headers,
            *refusal_headers(refusal, body),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", body]))
        # A client that is still sending would be reset before it reads the answer, if the connection closed at once.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._unset_keepalive_if_required()
        self._set_deadline(self._limits.linger_s, self.transport.abort)

    # What the connection holds

    def _framed(self) -> None:
        self._unframed_bytes = 0

    def _forget_exchange(self) -> None:
        """An idle connection holds nothing of its last request."""
        self._exchange = self.cycle = self.scope = self.headers = None  # type: ignore[assignment]

    def _set_deadline(self, seconds: float, act: Callable[[], None]) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, act)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _address_of(transport: asyncio.Transport) -> str | None:
    """The peer's address. An IPv4-mapped IPv6 address is returned as IPv4; a Unix socket has none."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return None
    address = ip_address(peer[0].partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def _raise_file_limit(connections: int) -> int:
    """Raise the process's limit of open files to what the connections need, as far as allowed; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + FILES_OF_OTHERS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft

"""What one client may ask of the HTTP server before its token is known: bytes of a head, seconds, connections.

`door.py` holds connections to these limits. Each server has limits of its own. docs/request-limits.md is generated
from the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

CONNECTION_BYTES = 16 << 10
"""What Python and uvicorn keep of an open connection besides its head."""


@dataclass(frozen=True)
class ConnectionLimits:
    """The defaults hold where a cluster chooses nothing."""

    connections: int = 4096
    """Open at the same time in one process."""
    connections_per_address: int = 1024
    """Open at the same time from one client address."""
    exempt_networks: tuple[Network, ...] = ()
    """Addresses of proxies and gateways, which stand for many clients. They have no bound of their own."""
    head_bytes: int = 64 << 10
    """Of the request line and headers together; also of the trailers, and of each chunk's extensions."""
    header_lines: int = 100
    head_timeout_s: float = 10
    """From a request's first byte to the end of its head; also from connecting to the first byte."""
    leftover_timeout_s: float = 30
    """For the rest of a body whose request was answered before the body was complete."""
    linger_s: float = 2
    """How long a refused client may go on sending, so that it can read its answer. What it sends is dropped."""
    waiting_bodies_bytes: int = 512 << 20
    """Of the bodies that one process holds for requests whose answer has not begun."""

    @property
    def memory_bytes(self) -> int:
        """The most that all connections together hold of requests without a valid token."""
        return self.connections * (self.head_bytes + CONNECTION_BYTES)

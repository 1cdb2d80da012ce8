"""What one client may ask of the HTTP server before its token is known: bytes of a head, seconds, connections.

One frozen value. `door.py` holds connections to it, `proxy.py` bodies; the pods' environment says what a cluster
chose. The page of limits is generated from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from conclave.engine.arguments import CONNECTIONS_EXEMPT_VARIABLE, CONNECTIONS_PER_ADDRESS_VARIABLE
from conclave.errors import EnvironmentUnfit

Network = IPv4Network | IPv6Network

CONNECTION_BYTES = 16 << 10
"""What Python and uvicorn keep of an open connection besides its head."""


@dataclass(frozen=True)
class ConnectionLimits:
    """The defaults are those of a cluster that chose nothing."""

    connections: int = 4096
    """Open at a time in one process."""
    connections_per_address: int = 1024
    """Of those, from one client address."""
    exempt_networks: tuple[Network, ...] = ()
    """Addresses that stand for many clients: proxies, gateways. They have no bound of their own."""
    head_bytes: int = 64 << 10
    """Request line and headers together; also the trailers, and each chunk's extensions."""
    header_lines: int = 100
    head_timeout_s: float = 10
    """From the connection's or the request's first byte to the end of the head; also until that first byte."""
    leftover_timeout_s: float = 30
    """For the rest of a body whose request was answered before it had come."""
    linger_s: float = 2
    """How long a refused client may go on sending, so that it reads its answer; what it sends is dropped."""
    waiting_bodies_bytes: int = 512 << 20
    """Bodies that one process holds for requests whose answer has not begun."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ConnectionLimits:
        """The defaults under what the environment says; EnvironmentUnfit where it is not a number or a network."""
        given = environment.get(CONNECTIONS_PER_ADDRESS_VARIABLE, str(cls.connections_per_address))
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
        return cls(connections_per_address=int(given), exempt_networks=networks)

    @property
    def memory_bytes(self) -> int:
        """What all connections together hold at most of requests without a valid token."""
        return self.connections * (self.head_bytes + CONNECTION_BYTES)


def connections_section() -> str:
    """The part of docs/request-limits.md that holds before a request is read."""
    limits = ConnectionLimits()
    return "\n".join(
        [
            "## Connections",
            "",
            "<!-- Generated from serving/conclave_serving/connection_limits.py; edit that file. -->",
            "",
            "These limits apply to every connection before its token is checked. They count in each process that",
            "listens; a pod has one. A refused client gets an answer in OpenAI's error shape where HTTP has an answer",
            "for the case. Then the connection is closed.",
            "",
            "| What | Limit | Beyond it |",
            "|---|---|---|",
            f"| request line and headers; trailers; one chunk's extensions | {limits.head_bytes} bytes each | 431 |",
            f"| header lines; trailer lines | {limits.header_lines} | 431 |",
            f"| time from a request's first byte to the end of its headers | {limits.head_timeout_s:g} s | 408 |",
            f"| time from connecting to the first byte | {limits.head_timeout_s:g} s | closed |",
            "| time without a request on a connection that had one | 90 s | closed |",
            f"| time for the rest of a body after the answer was sent | {limits.leftover_timeout_s:g} s | closed |",
            "| requests at a time on one connection (pipelining) | 1 | closed after the answer |",
            f"| open connections | {limits.connections} | 503 with Retry-After |",
            f"| open connections from one address | {limits.connections_per_address} | 503 with Retry-After |",
            f"| bodies of all requests without an answer yet | {limits.waiting_bodies_bytes >> 20} MiB |"
            " 503 with Retry-After |",
            "",
            "A WebSocket is never opened: its request is answered like any other. Ray Serve never sees a request",
            "without a valid token, and no byte of its body. Only `/-/healthz` is answered without a token.",
            "",
            "Many clients behind one proxy, gateway or NAT have one address. The chart's value",
            "`network.connectionsPerAddress` sets the limit for an address. `network.connectionsExemptCidrs` lists",
            "networks without this limit. A model takes both values with its next build.",
            "",
            f"So all clients without a token together hold at most {limits.memory_bytes >> 20} MiB of one process,"
            f" {limits.memory_bytes // limits.connections >> 10} KiB a connection.",
            "One read may bring up to 256 KiB more for each, until the token is checked, which comes next.",
            f"Clients with a token hold at most {limits.waiting_bodies_bytes >> 20} MiB of bodies more, and twice that"
            " while Ray Serve copies them.",
            "",
        ]
    )

"""Ports of the loopback interface: which are free, and which a program may count on for a while.

The kernel gives ports of the ephemeral range to whoever connects or binds port 0, as Ray's processes do dozens of
times while they start: a port that is chosen now and bound later must lie outside of it. Used by `conclave up`.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

from conclave.errors import EnvironmentUnfit

EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 10_000
"""Above the ports that services are known by."""
ATTEMPTS = 100


def free_port() -> int:
    """A port on which nobody listens, outside of the range that the kernel gives away."""
    for port in random.choices(lasting_ports(EPHEMERAL_RANGE.read_text()), k=ATTEMPTS):  # noqa: S311 - no secret
        try:
            _bind(port)
        except OSError:
            continue
        return port
    raise EnvironmentUnfit(
        f"ports of 127.0.0.1: {ATTEMPTS} ports from {LOWEST_PORT} on are all in use, expected a free one; end the "
        "programs that listen there"
    )


def lasting_ports(ephemeral_range: str) -> range:
    """The ports below the kernel's ephemeral range, those above it where there are more, and all where it is all."""
    first, last = map(int, ephemeral_range.split())
    below, above = range(LOWEST_PORT, max(first, LOWEST_PORT)), range(max(last + 1, LOWEST_PORT), 65536)
    return max(below, above, key=len) or range(LOWEST_PORT, 65536)


def is_ephemeral(port: int) -> bool:
    """Whether the kernel may give this port to any program before we bind it."""
    first, last = map(int, EPHEMERAL_RANGE.read_text().split())
    return first <= port <= last


def check_port(port: int) -> None:
    """Raises now, not after minutes of loading, if another program listens on the port."""
    try:
        _bind(port, reuse=True)
    except OSError as error:
        raise EnvironmentUnfit(
            f"port {port}: {error.strerror}; choose a free port with --port, or end the program that listens there"
        ) from error


def taken_meanwhile(port: int) -> str:
    """The message if the port was free at `check_port`, and is in use when Serve starts."""
    why = " (the kernel gives this port to programs that connect)" if is_ephemeral(port) else ""
    return (
        f"port {port}: another program took it while Ray started{why}; run the command again, or choose a port "
        f"below {LOWEST_PORT} with --port"
    )


def _bind(port: int, reuse: bool = False) -> None:
    with socket.socket() as listener:
        if reuse:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))

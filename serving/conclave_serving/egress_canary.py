"""Tries to reach the API server from a worker pod, whose NetworkPolicy must forbid that.

The first init container of a worker pod runs `python -m conclave_serving.egress_canary REPORT`. It writes one line of
JSON to REPORT, the termination message, which the operator reads. The exit code is always 0, so that no start is
blocked. It uses the standard library only and needs no token: it only opens a connection.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

ATTEMPT_S = 3.0
PAUSE_S = 1.0
PATIENCE_S = 15.0
"""How long an open connection is tried again: a network plugin may allow everything until it knows a new pod."""
ENOUGH = 2
"""So many attempts in a row must fail, because the first moments of a pod's network prove nothing."""
_REFUSALS = {
    errno.EACCES,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EPERM,
    errno.ETIMEDOUT,
}

Egress = Literal["closed", "open", "unknown"]


def main() -> int:
    begun_s = time.monotonic()
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "")
    found: Egress = "unknown"
    if host and port.isdecimal():
        found = watch(lambda: attempt(host, int(port)))
    seconds = round(time.monotonic() - begun_s, 1)
    line = json.dumps({"egress": found, "target": _target(host, port), "seconds": seconds})
    print(line)
    try:
        Path(sys.argv[1]).write_text(f"{line}\n", encoding="utf-8")
    except OSError as error:
        print(f"{sys.argv[1]}: cannot be written: {error.strerror}; nobody learns the line above", file=sys.stderr)
    return 0


def watch(
    attempt: Callable[[], Egress],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Egress:
    """The result of the last attempt: the second closed attempt in a row, or the first attempt after PATIENCE_S."""
    until_s = clock() + PATIENCE_S
    closed_in_a_row = 0
    while True:
        found = attempt()
        closed_in_a_row = closed_in_a_row + 1 if found == "closed" else 0
        if closed_in_a_row == ENOUGH or clock() >= until_s:
            return found
        sleep(PAUSE_S)


def attempt(host: str, port: int, timeout_s: float = ATTEMPT_S) -> Egress:
    """Try one connection. A name without an address, and a failure inside this pod, prove nothing: `unknown`."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except (TimeoutError, ConnectionError):
        return "closed"
    except OSError as error:
        return "closed" if error.errno in _REFUSALS else "unknown"
    except (ValueError, OverflowError):
        return "unknown"
    return "open"


def _target(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())

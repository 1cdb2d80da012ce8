"""What a worker pod runs before anything else: tries to reach the API server, which no policy of a worker's lets it.

`python -m conclave_serving.egress_canary REPORT` in the first init container of a worker pod; one line of JSON in
REPORT, the termination message, is what the operator reads. It ends with 0 whatever it finds: it reports
and never blocks a start. Standard library only, and it needs no token: it never gets beyond the connection.
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
"""A plugin may let a new pod do everything until it has heard of it: what is open is tried again for so long."""
ENOUGH = 2
"""Attempts in a row that must fail: the first moments of a pod's network prove nothing."""
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
    """What the last attempt found: the second in a row that is closed, or the one after which the time is over."""
    until_s = clock() + PATIENCE_S
    closed_in_a_row = 0
    while True:
        found = attempt()
        closed_in_a_row = closed_in_a_row + 1 if found == "closed" else 0
        if closed_in_a_row == ENOUGH or clock() >= until_s:
            return found
        sleep(PAUSE_S)


def attempt(host: str, port: int, timeout_s: float = ATTEMPT_S) -> Egress:
    """One connection; a name that has no address, and what fails on this side of the network, tell nothing."""
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

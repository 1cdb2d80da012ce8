"""The one line of a local run's failure that says what was wrong, as `conclave explain` finds it in a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from conclave.engine.exceptions import Cause, find_cause

MAX_LENGTH = 600
POLL_INTERVAL_S = 0.5
LOGGED_WITHIN_S = 20.0
"""Serve reports a failed start as soon as the replica says so. The engine's processes write their exceptions on their
own, and later where the machine is busy."""


def root_cause(*texts: str) -> str | None:
    """The exception that started it, of Serve's message and the engine's logs in this order; None without any."""
    return _line_of(find_cause("\n".join(texts)))


def logged_root_cause(
    message: str, read_logs: Callable[[], Iterable[str]], sleep: Callable[[float], None] = time.sleep
) -> str | None:
    """The root cause in Serve's message and in the logs.

    Reads the logs again, for at most LOGGED_WITHIN_S, while message and logs hold only exceptions that pass another one
    on. Example: "Engine core initialization failed" is there, the worker's "NotImplementedError" is not there yet.
    """
    cause = find_cause("\n".join([message, *read_logs()]))
    for _ in range(round(LOGGED_WITHIN_S / POLL_INTERVAL_S)):
        if cause is None or not cause.is_consequence:
            break
        sleep(POLL_INTERVAL_S)
        cause = find_cause("\n".join([message, *read_logs()]))
    return _line_of(cause)


def _line_of(cause: Cause | None) -> str | None:
    return cause.line[:MAX_LENGTH] if cause else None

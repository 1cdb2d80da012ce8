"""The one line of a local run's failure that says what was wrong, as `conclave explain` finds it in a cluster."""

from __future__ import annotations

from conclave.engine.exceptions import find_cause

MAX_LENGTH = 600


def root_cause(*texts: str) -> str | None:
    """The exception that started it, of Serve's message and the engine's logs in this order; None without any."""
    cause = find_cause("\n".join(texts))
    return cause.line[:MAX_LENGTH] if cause else None

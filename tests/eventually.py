"""The one way to wait in tests: poll a check until it holds, and say what it last saw when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def eventually(check: Callable[[], Seen], timeout: float = 30.0, every: float = 0.1) -> Seen:
    """Returns `check()` as soon as it is true; an AssertionError inside counts as not yet.

    Raises AssertionError with the last value or the last assertion after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        cause: AssertionError | None = None
        last: object = None
        try:
            seen = check()
            if seen:
                return seen
            last = seen
        except AssertionError as error:
            cause = error
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s; last seen: {last!r}") from cause
        time.sleep(every)

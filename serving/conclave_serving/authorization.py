"""The endpoint's bearer token: one file, read again while requests come, compared in constant time.

`ingress.py` refuses to start without it; `proxy.py` and `edge.py` ask it before anything of a request is read. It
fails closed: without a token in the file nobody is let in. That is a 503, since no caller could do better with
another key, and a client that got 401 would not come again when the file is back.
"""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from conclave.errors import EnvironmentUnfit
from conclave_serving.errors import token_unavailable, unauthorized

RECHECK_S = 5.0
"""A token counts only if the file was read with it less than this ago. A file that is missing for a moment while it is
replaced changes nothing, as long as requests come more often."""
LOOK_S = 1.0
"""Least time between two readings: by time of change and size a replaced token could be taken for the same."""
MIN_TOKEN_CHARACTERS = 16

logger = logging.getLogger("ray.serve")


def read_token(path: Path) -> bytes:
    """The token in the file; an error that says what to do where there is none."""
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise EnvironmentUnfit(
            f"bearer token file {path}: {error.strerror or error}; expected a readable file that holds the token"
            " (in a cluster the mounted Secret's key 'token')"
        ) from error
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise EnvironmentUnfit(
            f"bearer token file {path}: {len(token)} characters; expected at least {MIN_TOKEN_CHARACTERS}"
        )
    return token


class BearerToken:
    """Says whether a request carries the token."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._token: bytes | None = None
        self._read_at = self._looked_at = -math.inf
        self._is_told = False

    def require(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise 401 unless the one Authorization header holds the token; raise 503 while the file holds no token."""
        token = self._current()
        if token is None:
            raise token_unavailable()
        given = [value for name, value in headers if name.lower() == b"authorization"]
        scheme, _, credential = (given[0] if len(given) == 1 else b"").partition(b" ")
        matches = hmac.compare_digest(credential.strip(), token)
        if not (matches and scheme.lower() == b"bearer"):
            raise unauthorized()

    def _current(self) -> bytes | None:
        now = self._clock()
        is_stale = self._token is not None and now - self._read_at >= RECHECK_S
        if is_stale or now - self._looked_at >= LOOK_S:
            self._looked_at = now
            try:
                self._token, self._read_at, self._is_told = read_token(self._path), now, False
            except EnvironmentUnfit as error:
                if is_stale or self._token is None:
                    self._refuse_everybody(error)
        return self._token

    def _refuse_everybody(self, error: EnvironmentUnfit) -> None:
        self._token = None
        if not self._is_told:
            self._is_told = True
            logger.error("%s. Every request is refused until then.", error)

"""The endpoint's bearer token: one file, read again when it changes, compared in constant time.

`ingress.py` refuses to start without it; `edge.py` asks it before anything of a request is read.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable
from pathlib import Path

from conclave.errors import EnvironmentUnfit
from conclave_serving.errors import unauthorized

RECHECK_S = 5.0
"""How long a changed file may go unnoticed."""
MIN_TOKEN_CHARACTERS = 16


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

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = read_token(path)
        self._modified = path.stat().st_mtime_ns
        self._checked_at = time.monotonic()

    def require(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Pass, or raise the 401; more than one Authorization header is refused as well."""
        given = [value for name, value in headers if name.lower() == b"authorization"]
        scheme, _, credential = (given[0] if len(given) == 1 else b"").partition(b" ")
        matches = hmac.compare_digest(credential.strip(), self._current())
        if not (matches and scheme.lower() == b"bearer"):
            raise unauthorized()

    def _current(self) -> bytes:
        """The token as the file has it now; an unreadable file leaves the last one in force."""
        now = time.monotonic()
        if now - self._checked_at >= RECHECK_S:
            self._checked_at = now
            try:
                modified = self._path.stat().st_mtime_ns
                if modified != self._modified:
                    self._token, self._modified = read_token(self._path), modified
            except (OSError, EnvironmentUnfit):
                return self._token
        return self._token

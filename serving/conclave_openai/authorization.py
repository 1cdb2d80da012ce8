"""Who may send a request: the interface that the edge asks, and the endpoint's one bearer token.

The edge asks before it reads anything else of a request. `BearerToken` is one token in a file. A gateway with many
keys implements `Authorization` itself and says in the `Caller` which models the key may use.
"""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from conclave.errors import EnvironmentUnfit
from conclave_openai.errors import token_unavailable, unauthorized

RECHECK_S = 5.0
"""The token counts for so long after the last reading of the file that found it. Example: the file is missing for a
moment while the kubelet replaces it. No request is refused meanwhile, as long as requests come more often than this."""
LOOK_S = 1.0
"""The least time between two readings. The file is read whole: a replaced token may have the same size and time."""
MIN_TOKEN_CHARACTERS = 16

OWN_LOGGER = logging.getLogger(__name__)

RequestHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Caller:
    """Who sent a request. It never holds the credential itself, so that it may be logged."""

    name: str
    models: Collection[str] | None = None
    """The models that the caller may use; None means all models of the endpoint."""


class Authorization(Protocol):
    """Holds one token or many keys."""

    def require(self, headers: RequestHeaders) -> Caller:
        """The caller whose credential the headers hold. Raises 401, or 503 where no credential can be right."""
        ...


DIRECT = Caller("direct")
"""The holder of an endpoint's own token."""


def bearer_credential(headers: RequestHeaders) -> bytes:
    """The credential of the only Authorization header. Empty where there is none, more than one, or another scheme."""
    given = [value for name, value in headers if name.lower() == b"authorization"]
    scheme, _, credential = (given[0] if len(given) == 1 else b"").partition(b" ")
    return credential.strip() if scheme.lower() == b"bearer" else b""


def read_token(path: Path) -> bytes:
    """The token in the file. Raises EnvironmentUnfit where the file holds no token."""
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
    """One token in a file, which is read again while requests come.

    A file without a token refuses everybody with 503, not 401: no other key would help the caller, and a client that
    gets a 401 does not try again when the file is back.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, *, logger: logging.Logger = OWN_LOGGER
    ) -> None:
        self._path = path
        self._clock = clock
        self._logger = logger
        self._token: bytes | None = None
        self._read_at = self._looked_at = -math.inf
        self._is_reported = False

    def require(self, headers: RequestHeaders) -> Caller:
        """Raises 401 where the headers do not hold the token, and 503 while the file holds no token."""
        token = self._current()
        if token is None:
            raise token_unavailable()
        if not hmac.compare_digest(bearer_credential(headers), token):
            raise unauthorized()
        return DIRECT

    def _current(self) -> bytes | None:
        now = self._clock()
        is_stale = self._token is not None and now - self._read_at >= RECHECK_S
        if is_stale or now - self._looked_at >= LOOK_S:
            self._looked_at = now
            try:
                self._token, self._read_at, self._is_reported = read_token(self._path), now, False
            except EnvironmentUnfit as error:
                if is_stale or self._token is None:
                    self._refuse_everybody(error)
        return self._token

    def _refuse_everybody(self, error: EnvironmentUnfit) -> None:
        self._token = None
        if not self._is_reported:
            self._is_reported = True
            self._logger.error("%s. The endpoint refuses every request until then.", error)

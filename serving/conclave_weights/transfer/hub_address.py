"""`hf://ORGANISATION/NAME@COMMIT` and the endpoint of a hub: checked, and named in messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, get_args
from urllib.parse import urlsplit

from conclave import names
from conclave.errors import InvalidInput

_URI = re.compile("hf://([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)?)(?:@(.*))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Whom a URL reaches. A token for one origin is for no other."""

    scheme: str
    host: str
    port: int | None


def origin_of(url: str) -> Origin:
    """The origin of an http or https URL."""
    parts = urlsplit(url)
    return Origin(parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme))


@dataclass(frozen=True)
class HubAddress:
    """A commit of a repository, on a hub."""

    uri: str
    repository: str
    commit: str
    endpoint: str
    """Base URL without a slash at the end."""

    @property
    def where(self) -> str:
        """As messages name it."""
        return self.uri if self.endpoint == names.OFFICIAL_HUB else f"{self.uri} at {self.endpoint}"

    @property
    def origin(self) -> Origin:
        return origin_of(self.endpoint)

    @property
    def page(self) -> str:
        """The repository's page, for people."""
        return f"{self.endpoint}/{self.repository}"


def read_address(uri: str, endpoint: str) -> HubAddress:
    """An empty endpoint is the official hub. Raises InvalidInput, which names the part that is wrong."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise InvalidInput(
            f"{uri!r} is not the address of a hub's repository, expected hf://ORGANISATION/NAME@COMMIT; correct the "
            "address"
        )
    repository, commit = found[1], found[2] or ""
    from conclave.api.formats import HubRepository  # they take pydantic along, which verification does not need
    from conclave.api.rules import Format

    rule = next(part for part in get_args(HubRepository) if isinstance(part, Format))
    if not rule.matches(repository):
        raise InvalidInput(f'{uri}: "{repository}" is not {rule.allowed}; correct the address')
    if not _COMMIT.fullmatch(commit):
        seen = f'revision "{commit}"' if commit else "no revision"
        raise InvalidInput(
            f"{uri}: {seen}, expected a commit of 40 hex digits (0-9a-f), since a branch or tag can move; copy the "
            f"commit from {names.OFFICIAL_HUB}/{repository}/commits/main and write hf://{repository}@COMMIT"
        )
    if endpoint:
        _check_endpoint(endpoint)
    return HubAddress(uri, repository, commit, (endpoint or names.OFFICIAL_HUB).rstrip("/"))


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no number of a port
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username is not None:
        raise InvalidInput(
            f'endpoint "{endpoint}" is not the base URL of a hub, expected http:// or https://, a host, and where '
            "needed a port and a path, such as https://hub.example/mirror"
        )

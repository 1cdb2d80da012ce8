"""The API server's audit log, as tools.cluster.commands.AUDIT_POLICY has it: who asked for what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MUTATING = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, order=True)
class Right:
    """What RBAC grants and a request uses; `resource` as in `pods/log`, namespace "" is cluster-wide."""

    group: str
    resource: str
    verb: str
    namespace: str = ""


@dataclass(frozen=True)
class Request:
    """One request that the API server answered."""

    user: str
    verb: str
    uri: str
    code: int
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def is_mutating(self) -> bool:
        return self.verb in MUTATING

    @property
    def rights(self) -> tuple[Right, ...]:
        """The rights that it used; none for a URL that names no resource (discovery, /version)."""
        if not self.resource:
            return ()
        creates = self.verb == "patch" and self.code == 201  # server-side apply of what was not there
        verbs = (self.verb, "create") if creates else (self.verb,)
        return tuple(Right(self.group, self.resource, verb, self.namespace) for verb in verbs)


class AuditLog:
    """Reads the log file; `mark()` now, `requests(since=mark)` later."""

    def __init__(self, path: Path):
        self.path = path

    def mark(self) -> int:
        """A place in the log: its size in bytes."""
        return self.path.stat().st_size

    def requests(self, user: str | None = None, since: int = 0, mutating: bool = False) -> list[Request]:
        """Requests after a mark, by one user (whole name) or all; a long watch appears as soon as it has begun."""
        found: dict[str, Request] = {}
        with self.path.open("rb") as log:
            log.seek(max(since - 1, 0))
            if since:
                log.readline()  # nothing but its end, or the rest of a line that was still being written
            for line in log:
                if not line.endswith(b"\n"):
                    break  # still being written
                event = json.loads(line)
                request = _request(event)
                if (user is None or request.user == user) and (request.is_mutating or not mutating):
                    found[event["auditID"]] = request
        return list(found.values())


def _request(event: dict) -> Request:  # type: ignore[type-arg]
    target = event.get("objectRef", {})
    resource = "/".join(part for part in (target.get("resource", ""), target.get("subresource", "")) if part)
    who = event.get("impersonatedUser") or event["user"]
    return Request(
        user=who.get("username", ""),
        verb=event["verb"],
        uri=event["requestURI"],
        code=event.get("responseStatus", {}).get("code", 0),
        group=target.get("apiGroup", ""),
        resource=resource,
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
    )

"""The objects of our kinds that the operator knows, newest version first come, and whether the watch tells of them.

Fed by kopf's watch and, at every resync, by a list: a watch that has ended silently (kopf#1276) then shows as lag.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from typing import NamedTuple

from conclave.kubernetes.objects import JsonObject
from conclave_cluster.cache import content_of, pack, unpack, version_of
from conclave_operator.kinds import Key, key_of


class _Known(NamedTuple):
    """One object, as it is kept: a thousand of them as dictionaries take 17 MB."""

    version: int
    uid: str
    content: bytes
    """Digest of all but its version."""
    packed: bytes


class Fleet:
    """Objects by key, and the version that the watch told of each."""

    def __init__(self) -> None:
        self._objects: dict[Key, _Known] = {}
        self._watched: dict[Key, int] = {}
        self._lagging_since: dict[Key, tuple[int, float]] = {}
        self._gone: dict[str, str] = {}
        """Kinds by uid."""

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> JsonObject | None:
        known = self._objects.get(key)
        return unpack(known.packed) if known else None

    def __contains__(self, key: Key) -> bool:
        return key in self._objects

    def content(self, key: Key) -> bytes:
        """The digest of an object that is known."""
        return self._objects[key].content

    def known(self, kind: str = "") -> tuple[Key, ...]:
        """Of one kind, or of all."""
        return tuple(key for key in self._objects if kind in ("", key.kind))

    def watched(self, item: JsonObject) -> bool:
        """The watch told of this version; whether it is any news, which our own writes of a status are not."""
        key = key_of(item)
        before = self._objects.get(key)
        self._watched[key] = max(version_of(item), self._watched.get(key, 0))
        self._put(key, item)
        now = self._objects.get(key)
        return now is not before and (before is None or now is None or now.content != before.content)

    def deleted(self, item: JsonObject) -> None:
        """The watch told that the object is gone."""
        key = key_of(item)
        self._objects.pop(key, None)
        self._watched.pop(key, None)
        self._lagging_since.pop(key, None)
        self._gone[_uid(item)] = key.kind

    def listed(self, kind: str, items: Iterable[JsonObject], now: float | None = None) -> None:
        """A list found these of a kind and no others; what the watch does not tell is taken from it, and noted."""
        now = time.monotonic() if now is None else now
        found = {key_of(item): item for item in items}
        uids = {_uid(item) for item in found.values()}
        self._gone = {uid: of for uid, of in self._gone.items() if of != kind or uid in uids}
        lagging = {key: since for key, since in self._lagging_since.items() if key.kind != kind}
        for key, item in found.items():
            self._put(key, item)
            if version_of(item) > self._watched.get(key, 0) and _uid(item) not in self._gone:
                lagging[key] = (version_of(item), now)
        for key in self._watched.keys() - found.keys():
            if key.kind == kind:
                lagging[key] = (0, now)
                self._objects.pop(key, None)
        for key, (version, since) in self._lagging_since.items():
            still = key in lagging and (version == 0 or self._watched.get(key, 0) < version)
            if still:
                lagging[key] = (version, since)
        self._lagging_since = lagging

    def status_written(self, key: Key, status: JsonObject) -> None:
        """What we wrote ourselves, until the watch brings it back."""
        known = self._objects.get(key)
        if known is not None:
            self._objects[key] = _known({**unpack(known.packed), "status": status})

    def lag_s(self, now: float | None = None) -> float:
        """For how long the watch has been silent about something that a list has shown."""
        now = time.monotonic() if now is None else now
        since = [
            since
            for key, (version, since) in self._lagging_since.items()
            if self._watched.get(key, 0) < version or (version == 0 and key in self._watched)
        ]
        return now - min(since) if since else 0.0

    def _put(self, key: Key, item: JsonObject) -> None:
        if _uid(item) in self._gone:
            return  # a list that began before the watch told of the deletion
        known = self._objects.get(key)
        if known is None or version_of(item) > known.version or _uid(item) != known.uid:
            metadata = {field: value for field, value in item["metadata"].items() if field != "managedFields"}
            self._objects[key] = _known({**item, "metadata": metadata})


def digest(item: JsonObject) -> bytes:
    """Of all of an object but its version and what nobody reads."""
    return hashlib.sha256(json.dumps(content_of(item), sort_keys=True).encode()).digest()


def _known(item: JsonObject) -> _Known:
    return _Known(version_of(item), _uid(item), digest(item), pack(item))


def _uid(item: JsonObject) -> str:
    return str(item["metadata"].get("uid"))

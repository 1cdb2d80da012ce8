"""Keeps the objects of one resource in memory by list and watch, so that observing costs no request.

Made by `KubernetesCluster`, one for each resource and watched namespace. A resource that does not exist (KubeRay's
CRD), or that may not be read, is a state that is reported and tried again, not an error that ends the watch. Nor does
an object that a projection or the listener fails on: it is logged, counted and passed over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from conclave.kubernetes.failures import ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave.visible_text import one_line
from conclave_cluster.client import Client, RequestError
from conclave_cluster.resources import Resource

logger = logging.getLogger(__name__)

PAGE, SMALL_PAGE = "500", "50"
"""Objects of one answer; the small one is for what anybody may make as large as the API server takes it."""
LONGEST_VERSION = 20
"""Digits of a resource version, which is a number of 64 bits."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 5.0
WATCH_LENGTH_S = "290"
MOST_COMPLAINTS = 1000
"""Objects of which it is remembered that they were complained of."""
FASTEST = 1
"""zlib's level: nearly as small as with the best one, at a fraction of its time."""
MOST_UNPACKED = 16
"""Objects that a pass or two read several times."""
LONGEST_LOGGED = 200
"""Characters of what an object's failure says: they may be anybody's."""


LARGEST_BYTES = 2**19
"""Of an object that is kept whole: ours have some ten thousand, and annotations may have half of it."""
MOST_SHARED = 2**14
"""Texts of which one copy serves all objects that have them."""
_TOLD_BY = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp", "labels", "ownerReferences")


class Bound(NamedTuple):
    """How many objects are kept, the newest: of one group of a namespace, and of one namespace."""

    group: Callable[[JsonObject], str]
    most_of_group: int
    most_of_namespace: int


Key = tuple[str, str]
"""Namespace and name."""
Projection = Callable[[JsonObject], JsonObject | None]
"""What of an object is kept, None for an object that is of no interest."""
Listener = Callable[[Resource, JsonObject], None]
"""Called with an object that appeared, changed in what is kept of it, or went."""


def unheard(_: Resource, __: JsonObject) -> None:
    """The listener of who asks again anyway."""


def whole(item: JsonObject) -> JsonObject:
    """The projection that keeps everything."""
    return item


def pack(item: JsonObject) -> bytes:
    """Compressed JSON: a twentieth of what an object takes as Python's dictionaries."""
    return zlib.compress(json.dumps(item, separators=(",", ":")).encode(), FASTEST)


def unpack(packed: bytes) -> JsonObject:
    item: JsonObject = json.loads(zlib.decompress(packed))
    return item


class Whole:
    """Whole objects, packed, and the last few unpacked.

    What `get` gives is shared with whoever asks next: to be read, never changed.
    """

    def __init__(self) -> None:
        self._packed: dict[Key, bytes] = {}
        self._unpacked: OrderedDict[Key, JsonObject] = OrderedDict()

    def put(self, key: Key, item: JsonObject, otherwise: JsonObject) -> None:
        """The object, or the other one where it takes more than LARGEST_BYTES."""
        text = json.dumps(item, separators=(",", ":"))
        if len(text) > LARGEST_BYTES:
            item = otherwise
            text = json.dumps(item)
        self._packed[key] = zlib.compress(text.encode(), FASTEST)
        self._remember(key, item)

    def get(self, key: Key) -> JsonObject:
        item = self._unpacked.get(key)
        if item is None:
            item = unpack(self._packed[key])
            self._remember(key, item)
        return item

    def drop(self, key: Key) -> None:
        self._packed.pop(key, None)
        self._unpacked.pop(key, None)

    def clear(self) -> None:
        self._packed.clear()
        self._unpacked.clear()

    def _remember(self, key: Key, item: JsonObject) -> None:
        self._unpacked[key] = item
        if len(self._unpacked) > MOST_UNPACKED:
            self._unpacked.popitem(last=False)


def keep_owner(item: JsonObject) -> JsonObject:
    """Of an object that nobody reads, whose it is."""
    return {"metadata": {key: _shared(value) for key, value in item["metadata"].items() if key in _TOLD_BY}}


def _shared(value: Any) -> Any:
    """The same, with each text of the last MOST_SHARED once in memory: a thousand objects have the same labels."""
    if isinstance(value, dict):
        return {_text(key): _shared(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_shared(below) for below in value]
    return _text(value) if type(value) is str else value


@lru_cache(MOST_SHARED)
def _text(text: str) -> str:
    """Not `sys.intern`: Python 3.12 keeps what it interns for ever, and tenants write labels."""
    return text


def version_of(item: JsonObject) -> int:
    """Resource versions of one resource are ordered (Kubernetes 1.35 and later promise what etcd always gave)."""
    version = str(_metadata(item).get("resourceVersion", "0"))
    return int(version) if version.isdecimal() and len(version) <= LONGEST_VERSION else 0


class Cache:
    """The objects of one resource in one namespace, or in all of them where the namespace is empty."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str,
        listener: Listener,
        projection: Projection = whole,
        selectors: dict[str, str] | None = None,
        bound: Bound | None = None,
        indexed: Iterable[str] = (),
        is_packed: bool = False,
    ) -> None:
        """`indexed` labels are selected by without a look at all objects; a packed cache is for objects that are kept
        whole and seldom read.
        """
        self.resource = resource
        self.namespace = namespace
        self.synced = asyncio.Event()
        """Set once the first list succeeded or failed: from then on the answer is known."""
        self.failure: ApiFailure | None = None
        """Why the objects are unknown, None while list and watch work."""
        self.skipped = 0
        """Versions of objects that the projection failed on, so that they count as absent, or the listener."""
        self._client = client
        self._listener = listener
        self._project = projection
        self._selectors = selectors or {}
        self._objects: dict[Key, JsonObject] = {}
        """In a packed cache only whose each object is."""
        self._whole = Whole() if is_packed else None
        self._bound = bound
        self._indexed = tuple(indexed)
        self._groups: defaultdict[tuple[str, ...], dict[Key, None]] = defaultdict(dict)
        """Keys by what they are selected or bounded by, in the order in which they came."""
        self._told_until = 0
        """The newest resource version that list or watch has told; what they tell comes in the order of versions."""
        self._heard_at = time.monotonic()
        self._all: tuple[JsonObject, ...] | None = None
        self._complained_of: dict[str, str] = {}

    @property
    def age_s(self) -> float:
        """Seconds since the API server was last heard from on this resource."""
        return time.monotonic() - self._heard_at

    def get(self, namespace: str, name: str) -> JsonObject | None:
        return self._kept((namespace, name))

    def __iter__(self) -> Iterator[JsonObject]:
        return self.select()

    def all(self) -> tuple[JsonObject, ...]:
        """The same tuple until an object has come, gone, or changed in what is kept of it."""
        if self._all is None:
            self._all = tuple(self.select())
        return self._all

    def select(self, namespace: str = "", labels: Mapping[str, str] | None = None) -> Iterator[JsonObject]:
        """Objects of a namespace, or of all, that carry these labels."""
        wanted = (labels or {}).items()
        label = next((label for label in self._indexed if namespace and label in (labels or {})), "")
        keys: Iterable[Key] = self._objects
        if labels and label:
            keys = self._groups.get((namespace, label, labels[label]), ())
        elif namespace and not self.namespace:
            keys = self._groups.get((namespace,), ())
        for key in tuple(keys):
            head = self._objects.get(key)
            if head is not None and wanted <= labels_of(head).items():
                yield self._kept(key) or head

    def _kept(self, key: Key) -> JsonObject | None:
        head = self._objects.get(key)
        return head if head is None or self._whole is None else self._whole.get(key)

    async def run(self) -> None:
        """Lists and watches for ever."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                version = await self._list()
                self.failure = None
                self.synced.set()
                retry_s = FIRST_RETRY_S
                await self._watch(version)
                await asyncio.sleep(FIRST_RETRY_S)
            except RequestError as error:
                if error.failure.code == 410:
                    await asyncio.sleep(FIRST_RETRY_S)
                    continue
                self._fail(error.failure)
                await asyncio.sleep(retry_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads retries, guards nothing
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)

    def learn(self, item: JsonObject) -> None:
        """Takes over an object that a write of ours has just answered, so that the next comparison sees it.

        Not where the watch was faster: it may have told of the object's deletion already, and tells that only once.
        """
        if version_of(item) > self._told_until:
            self._put(item, announce=False)

    def _hear(self) -> None:
        self._heard_at = time.monotonic()

    def _fail(self, failure: ApiFailure) -> None:
        """Absent and forbidden are known states; an API server that does not answer leaves the view as it was."""
        if failure.code == 0 or failure.code >= 429:
            logger.warning("cannot read %s: %s %s", self.resource.plural, failure.reason, failure.message)
            return
        self._hear()
        gone = list(self._objects.values())
        if self._whole is not None:
            self._whole.clear()
        first = self.failure is None or not self.synced.is_set()
        self._objects.clear()
        self._groups.clear()
        self._all = None
        self.failure = failure
        self.synced.set()
        if first:
            logger.warning("cannot read %s: %s %s", self.resource.plural, failure.reason, failure.message)
            self._tell({"metadata": {}})
        for item in gone:
            self._tell(item)

    async def _list(self) -> str:
        seen: set[Key] = set()
        query = {"limit": PAGE if self._bound is None else SMALL_PAGE, **self._selectors}
        was_failing = self.failure is not None
        while True:
            page = await self._client.list(self.resource, self.namespace, **query)
            self._hear()
            for item in page["items"]:
                if self._take(item):
                    seen.add(_key(item))
            token = page["metadata"].get("continue")
            if not token:
                break
            query["continue"] = token
        for key in [key for key in self._objects if key not in seen]:
            self._drop(key)
        if was_failing:
            self._tell({"metadata": {}})
        version: str = page["metadata"]["resourceVersion"]
        self._told_until = version_of(page)
        return version

    async def _watch(self, version: str) -> None:
        """Follows changes from a version on until the server says that it is too old."""
        while True:
            query = {"resourceVersion": version, "timeoutSeconds": WATCH_LENGTH_S, **self._selectors}
            try:
                async for event in self._client.watch(self.resource, self.namespace, self._hear, **query):
                    self._hear()
                    item, kind = event.get("object", {}), event.get("type")
                    if kind == "ERROR":
                        return  # nearly always 410: list again
                    if kind != "BOOKMARK":
                        self._take(item, is_gone=kind == "DELETED")
                    version = _metadata(item).get("resourceVersion", version)
                    self._told_until = version_of(item) or self._told_until
            except RequestError as error:
                if error.failure.code != 0:
                    raise
                await asyncio.sleep(FIRST_RETRY_S)

    def _take(self, item: JsonObject, *, is_gone: bool = False) -> bool:
        """Whether an object that the API server told of could be read; else it counts as absent."""
        try:
            if is_gone:
                self._drop(_key(item))
            else:
                self._put(item, announce=True)
        except Exception as error:  # noqa: BLE001 - anybody may have made it: it must not end the watch of all others
            self._skip(_metadata(item), error)
            with suppress(ValueError):
                self._drop(_key(item))
            return False
        return True

    def _tell(self, item: JsonObject) -> None:
        """To the listener. Where it fails, the next resync finds what it missed."""
        try:
            self._listener(self.resource, item)
        except Exception as error:  # noqa: BLE001 - as above
            self._skip(item["metadata"], error)

    def _skip(self, metadata: JsonObject, error: Exception) -> None:
        """Counted each time, logged once for a version of an object."""
        self.skipped += 1
        name = one_line(f"{metadata.get('namespace', '')}/{metadata.get('name', '')}", LONGEST_LOGGED)
        version = str(metadata.get("resourceVersion", ""))[:LONGEST_VERSION]
        if self._complained_of.get(name) == version:
            return
        if len(self._complained_of) >= MOST_COMPLAINTS:
            self._complained_of.clear()
        self._complained_of[name] = version
        words = one_line(f"{type(error).__name__}: {error}", LONGEST_LOGGED)
        logger.error("%s %s at version %s is passed over: %s", self.resource.plural, name, version or "none", words)

    def _put(self, item: JsonObject, *, announce: bool) -> None:
        key = _key(item)
        known = self._objects.get(key)
        is_same = known is not None and known["metadata"].get("uid") == item["metadata"].get("uid")
        if known is not None and is_same and version_of(item) <= version_of(known) and version_of(known):
            return  # older, or what a write of ours has answered already
        kept = self._project(item)
        if kept is None:
            self._drop(key)
            return
        # Items of a list carry neither.
        head = {"apiVersion": self.resource.api_version, "kind": self.resource.kind}
        kept |= head
        is_changed = known is None or content_of(self._kept(key) or known) != content_of(kept)
        all_before = self._all
        self._forget(key)
        if self._whole is not None:
            owner = {**head, **keep_owner(kept)}
            self._whole.put(key, kept, otherwise=owner)
            kept = owner
        self._objects[key] = kept
        self._all = None if is_changed else all_before
        for group, most in self._groups_of(kept):
            self._groups[group][key] = None
            if most and len(self._groups[group]) > most + most // 10:  # a tenth at once, so that a flood costs little
                oldest = sorted(self._groups[group], key=lambda known: version_of(self._objects[known]))
                for surplus in oldest[:-most]:
                    self._forget(surplus)
        if announce and is_changed:
            self._tell(kept)

    def _drop(self, key: Key) -> None:
        gone = self._forget(key)
        if gone is not None:
            self._tell(gone)

    def _forget(self, key: Key) -> JsonObject | None:
        gone = self._objects.pop(key, None)
        self._all = None
        if self._whole is not None:
            self._whole.drop(key)
        for group, _ in self._groups_of(gone) if gone is not None else ():
            self._groups[group].pop(key, None)
            if not self._groups[group]:
                del self._groups[group]
        return gone

    def _groups_of(self, kept: JsonObject) -> Iterator[tuple[tuple[str, ...], int]]:
        """Each with the number of objects that it is bounded to, 0 where it is not."""
        namespace, _ = _key(kept)
        labels = labels_of(kept) if self._indexed else {}
        for label in self._indexed:
            if label in labels:
                yield (namespace, label, labels[label]), 0
        if self._bound is not None:
            yield (namespace, self._bound.group(kept)), self._bound.most_of_group
        yield (namespace,), 0 if self._bound is None else self._bound.most_of_namespace


def labels_of(item: JsonObject) -> dict[str, str]:
    """Empty where they are no labels."""
    labels = _metadata(item).get("labels")
    return labels if isinstance(labels, dict) else {}


def _key(item: JsonObject) -> Key:
    """Raises ValueError where an object has none."""
    metadata = _metadata(item)
    namespace, name = metadata.get("namespace", ""), metadata.get("name")
    if not isinstance(namespace, str) or not isinstance(name, str) or not name:
        raise ValueError("it has no metadata.name and metadata.namespace that are text")
    return namespace, name


def _metadata(item: Any) -> JsonObject:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def content_of(item: JsonObject) -> JsonObject:
    """Without what differs between two versions in which nothing else does."""
    metadata = {
        key: value for key, value in item["metadata"].items() if key not in ("resourceVersion", "managedFields")
    }
    return {**item, "metadata": metadata}

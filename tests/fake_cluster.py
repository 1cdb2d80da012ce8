"""`Cluster` in memory, for tests and simulations; the contract suite holds it to what a real API server does.

It knows ownership, generations, refusals and absent kinds. It has no schema, no defaulting and no admission.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

from conclave.kubernetes.failures import FOREIGN_OWNER, ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave_cluster.cache import labels_of
from conclave_cluster.cluster import Reading, Written
from conclave_cluster.comparison import has_same_controller
from conclave_cluster.resources import Resource, resource_of

Key = tuple[Resource, str, str]


def nothing(_: str) -> None:
    """No fault is injected."""


class FakeCluster:
    """Objects by resource, namespace and name."""

    def __init__(self, *kinds: Resource) -> None:
        self._kinds = {(kind.api_version, kind.kind): kind for kind in kinds}
        """Kinds that the operator's own table does not have."""
        self.objects: dict[Key, JsonObject] = {}
        self.writes: list[str] = []
        """`verb Kind/name` of every write that reached the store."""
        self.schemas: dict[Resource, JsonObject] = {}
        self.absent: set[Resource] = set()
        """Kinds that this cluster does not have."""
        self.forbidden: set[tuple[str, Resource]] = set()
        """(verb, resource) that RBAC does not grant."""
        self.before_write: Callable[[str], None] = nothing
        self.after_write: Callable[[str], None] = nothing
        """Called with `verb Kind/name`; what they raise is the crash of the operator."""
        self._applied: dict[Key, JsonObject] = {}
        self._serial = itertools.count(1)

    def put(self, manifest: JsonObject) -> JsonObject:
        """An object that somebody else makes or edits; returns it as stored."""
        key = self._key_of(manifest)
        known = self.objects.get(key)
        item = copy.deepcopy(manifest)
        item["metadata"].setdefault("uid", known["metadata"]["uid"] if known else f"uid-{next(self._serial)}")
        item["metadata"]["resourceVersion"] = str(next(self._serial))
        changed = known is None or known.get("spec") != item.get("spec")
        generation = known["metadata"]["generation"] if known else 0
        item["metadata"]["generation"] = generation + int(changed)
        self.objects[key] = item
        return item

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Somebody else deletes an object; what it owns goes with it, as the garbage collector would do it."""
        gone = self.objects.pop((resource, namespace, name), None)
        self._applied.pop((resource, namespace, name), None)
        for kind, space, owned in [key for key, item in self.objects.items() if gone and _is_child(item, gone)]:
            self.remove(kind, space, owned)

    async def get(self, resource: Resource, namespace: str, name: str) -> Reading:
        item = self.objects.get((resource, namespace, name))
        failure = self._refusal("get", resource, namespace, name)
        return Reading((copy.deepcopy(item),) if item and not failure else (), failure)

    async def list(self, resource: Resource, namespace: str = "", labels: dict[str, str] | None = None) -> Reading:
        failure = self._refusal("list", resource, namespace)
        wanted = (labels or {}).items()
        found = tuple(
            copy.deepcopy(item)
            for (kind, space, _), item in self.objects.items()
            if kind == resource and namespace in ("", space) and wanted <= labels_of(item).items() and not failure
        )
        return Reading(found, failure)

    async def schema(self, resource: Resource) -> Reading:
        found = None if resource in self.absent else self.schemas.get(resource)
        return Reading((found,) if found else ())

    async def create_once(self, desired: JsonObject) -> Written:
        refusal = self._refusal("create", *self._key_of(desired))
        if refusal:
            return Written(failure=refusal)
        if self._key_of(desired) in self.objects:
            return Written()
        return self._write("create", desired, lambda: self.put(desired))

    async def apply(self, desired: JsonObject) -> Written:
        key = self._key_of(desired)
        live = self.objects.get(key)
        refusal = self._refusal("patch", *key)
        if live is not None and not has_same_controller(live, desired):
            return Written(failure=_foreign(key))
        merged = _merge(live, desired, self._applied.get(key, {}))
        if live is not None and merged == live and self._applied.get(key) == desired:
            return Written()
        if refusal:
            return Written(failure=refusal)

        def store() -> None:
            self.put(merged)
            self._applied[key] = copy.deepcopy(desired)

        return self._write("patch" if live else "create", desired, store)

    async def delete(self, owned: JsonObject) -> Written:
        key = self._key_of(owned)
        live = self.objects.get(key)
        refusal = self._refusal("delete", *key)
        if live is None:
            return Written(failure=refusal if refusal and refusal.code == 403 else None)
        if not has_same_controller(live, owned):
            return Written(failure=_foreign(key))
        if refusal:
            return Written(failure=refusal)
        return self._write("delete", owned, lambda: self.remove(*key))

    async def patch_status(self, resource: Resource, item: JsonObject, status: JsonObject) -> Written:
        metadata = item["metadata"]
        key = resource, metadata["namespace"], metadata["name"]
        refusal = self._refusal("patch", *key)
        live = self.objects.get(key)
        if live is None or item.get("status") == status:
            return Written()
        if refusal:
            return Written(failure=refusal)
        return self._write("patch", item, lambda: self.put({**live, "status": copy.deepcopy(status)}))

    async def record_event(self, event: JsonObject) -> Written:
        return await self.create_once(event)

    def _key_of(self, manifest: JsonObject) -> Key:
        metadata = manifest["metadata"]
        own = self._kinds.get((manifest["apiVersion"], manifest["kind"]))
        return own or resource_of(manifest), metadata.get("namespace", ""), metadata["name"]

    def _refusal(self, verb: str, resource: Resource, namespace: str = "", name: str = "") -> ApiFailure | None:
        request = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "namespace": namespace,
            "name": name,
        }
        if resource in self.absent:
            message = "the server could not find the requested resource"
            return ApiFailure(**request, code=404, reason="NotFound", message=message)
        if (verb, resource) in self.forbidden:
            message = f'{resource.plural} is forbidden: User "fake" cannot {verb} resource "{resource.plural}"'
            return ApiFailure(**request, code=403, reason="Forbidden", message=message)
        return None

    def _write(self, verb: str, manifest: JsonObject, change: Callable[[], object]) -> Written:
        what = f"{verb} {manifest['kind']}/{manifest['metadata']['name']}"
        self.before_write(what)
        change()
        self.writes.append(what)
        self.after_write(what)
        return Written(verb)


def _merge(live: JsonObject | None, desired: JsonObject, applied: JsonObject) -> JsonObject:
    """Metadata of others and status stay; everything else is the desired object's."""
    if live is None:
        return desired
    found, wanted, before = live["metadata"], desired["metadata"], applied.get("metadata", {})
    metadata = {**found, **wanted}
    for field in ("labels", "annotations"):
        kept = {key: value for key, value in found.get(field, {}).items() if key not in before.get(field, {})}
        if kept or wanted.get(field):
            metadata[field] = kept | wanted.get(field, {})
    kept_status = {"status": live["status"]} if "status" in live else {}
    return {**desired, "metadata": metadata, **kept_status}


def _is_child(item: JsonObject, owner: JsonObject) -> bool:
    owners = item["metadata"].get("ownerReferences", [])
    return any(reference["uid"] == owner["metadata"]["uid"] for reference in owners)


def _foreign(key: Key) -> ApiFailure:
    resource, namespace, name = key
    return ApiFailure(
        verb="patch",
        group=resource.group,
        resource=resource.plural,
        namespace=namespace,
        name=name,
        code=409,
        reason=FOREIGN_OWNER,
        message="it belongs to somebody else",
    )

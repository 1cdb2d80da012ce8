"""`Cluster` on a real API server: cached reads, compare before server-side apply, every write behind the fence.

Made by `conclave_operator` and by `conclave status`. It decides nothing: what should exist comes in as whole objects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from conclave.kubernetes.failures import FOREIGN_OWNER, ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave.names import FIELD_MANAGER
from conclave_cluster.cache import Bound, Cache, Listener, Projection, unheard, whole
from conclave_cluster.client import APPLY, JSON_PATCH, Client, RequestError
from conclave_cluster.cluster import Reading, Written
from conclave_cluster.comparison import has_foreign_spec, has_same_controller, needs_apply
from conclave_cluster.resources import CLAIM, Resource, resource_of

logger = logging.getLogger(__name__)

COMPLETED_BY_OTHERS = (CLAIM,)
"""Whose spec gets fields of the cluster's own, the volume's name and the default class, and is otherwise immutable."""
ATTEMPTS = 3
"""Of an apply whose object changed between the comparison and the write."""


def unfenced() -> None:
    """The fence of a client that only reads, or of a test."""


class KubernetesCluster:
    """Objects of the watched namespaces; all of them where none is named."""

    def __init__(
        self,
        client: Client,
        namespaces: Iterable[str] = (),
        fence: Callable[[], None] = unfenced,
    ) -> None:
        self._client = client
        self._namespaces = tuple(namespaces) or ("",)
        self._fence = fence
        self._caches: dict[Resource, tuple[Cache, ...]] = {}
        self._schemas: dict[Resource, JsonObject] = {}

    def watch(
        self,
        resource: Resource,
        listener: Listener = unheard,
        projection: Projection = whole,
        selectors: dict[str, str] | None = None,
        bound: Bound | None = None,
        indexed: Iterable[str] = (),
        is_packed: bool = False,
    ) -> tuple[Cache, ...]:
        """Reads of this resource are answered from memory from now on; the caller runs the caches.

        A second call adds what other selectors find, none of it twice: it is for resources that are only listed.
        """
        scopes = self._namespaces if resource.namespaced else ("",)
        caches = tuple(
            Cache(self._client, resource, scope, listener, projection, selectors, bound, tuple(indexed), is_packed)
            for scope in scopes
        )
        self._caches[resource] = (*self._caches.get(resource, ()), *caches)
        return caches

    @property
    def caches(self) -> tuple[Cache, ...]:
        return tuple(cache for caches in self._caches.values() for cache in caches)

    async def synced(self) -> None:
        """Returns once every cache knows its answer, be it that the resource is absent."""
        await asyncio.gather(*(cache.synced.wait() for cache in self.caches))

    async def get(self, resource: Resource, namespace: str, name: str) -> Reading:
        cache = self._cache(resource, namespace)
        if cache is not None:
            item = cache.get(namespace, name)
            return Reading((item,) if item else (), cache.failure)
        try:
            return Reading((await self._client.get(resource, namespace, name),))
        except RequestError as error:
            return Reading((), None if error.failure.code == 404 else error.failure)

    async def list(self, resource: Resource, namespace: str = "", labels: dict[str, str] | None = None) -> Reading:
        if resource in self._caches:
            caches = [cache for cache in self._caches[resource] if cache.namespace in ("", namespace) or not namespace]
            if len(caches) == 1 and not namespace and not labels:
                return Reading(caches[0].all(), caches[0].failure)
            items = tuple(item for cache in caches for item in cache.select(namespace, labels))
            return Reading(items, next((cache.failure for cache in caches if cache.failure), None))
        selector = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())} if labels else {}
        try:
            answer = await self._client.list(resource, namespace, **selector)
        except RequestError as error:
            return Reading((), error.failure)
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        return Reading(tuple({**head, **item} for item in answer["items"]))

    async def schema(self, resource: Resource) -> Reading:
        """Kept until the resource is gone: the document is large and changes only with its CRD."""
        caches = self._caches.get(resource, ())
        if any(cache.failure is not None and cache.failure.code == 404 for cache in caches):
            self._schemas.pop(resource, None)
            return Reading()
        if resource not in self._schemas:
            try:
                document = await self._client.open_api(resource.group, resource.version)
            except RequestError as error:
                return Reading((), None if error.failure.code == 404 else error.failure)
            for schema in document.get("components", {}).get("schemas", {}).values():
                kinds = [known.get("kind") for known in schema.get("x-kubernetes-group-version-kind", [])]
                if resource.kind in kinds:
                    self._schemas[resource] = schema
        found = self._schemas.get(resource)
        return Reading((found,) if found else ())

    async def create_once(self, desired: JsonObject) -> Written:
        try:
            self._fence()
            await self._client.create(desired, resource_of(desired))
        except RequestError as error:
            return Written() if error.failure.reason == "AlreadyExists" else Written(failure=error.failure)
        return Written("create")

    async def apply(self, desired: JsonObject) -> Written:
        resource = resource_of(desired)
        metadata = desired["metadata"]
        cache = self._cache(resource, metadata["namespace"])
        live = cache.get(metadata["namespace"], metadata["name"]) if cache else None
        attempts = ATTEMPTS
        while True:
            try:
                if live is None or attempts < ATTEMPTS:
                    live = await self._read(resource, metadata["namespace"], metadata["name"])
                return await self._apply_to(live, desired, resource, cache)
            except RequestError as error:
                attempts -= 1
                if error.failure.reason != "Conflict" or not attempts:
                    return Written(failure=error.failure)

    async def delete(self, owned: JsonObject) -> Written:
        resource = resource_of(owned)
        namespace, name = owned["metadata"]["namespace"], owned["metadata"]["name"]
        try:
            live = await self._read(resource, namespace, name)
            if live is None or live["metadata"].get("deletionTimestamp"):
                return Written()
            if not has_same_controller(live, owned):
                return Written(failure=_foreign(resource, live))
            self._fence()
            await self._client.delete(resource, namespace, name, live["metadata"]["uid"])
        except RequestError as error:
            return Written() if error.failure.code == 404 else Written(failure=error.failure)
        return Written("delete")

    async def patch_status(self, resource: Resource, item: JsonObject, status: JsonObject) -> Written:
        if item.get("status") == status:
            return Written()
        metadata = item["metadata"]
        patch = [
            {"op": "add", "path": "/metadata/uid", "value": metadata["uid"]},
            {"op": "add", "path": "/status", "value": status},
        ]
        try:
            self._fence()
            await self._client.patch(
                resource,
                metadata["namespace"],
                metadata["name"],
                patch,
                JSON_PATCH,
                subresource="status",
                fieldManager=FIELD_MANAGER,
            )
        except RequestError as error:
            return Written() if error.failure.code == 404 else Written(failure=error.failure)
        return Written("patch")

    async def record_event(self, event: JsonObject) -> Written:
        return await self.create_once(event)

    def _cache(self, resource: Resource, namespace: str) -> Cache | None:
        return next((cache for cache in self._caches.get(resource, ()) if cache.namespace in ("", namespace)), None)

    async def _read(self, resource: Resource, namespace: str, name: str) -> JsonObject | None:
        try:
            return await self._client.get(resource, namespace, name)
        except RequestError as error:
            if error.failure.code == 404:
                return None
            raise

    async def _apply_to(
        self, live: JsonObject | None, desired: JsonObject, resource: Resource, cache: Cache | None
    ) -> Written:
        """One comparison and, where it differs, the writes; a stale view is refused by its resource version."""
        if live is not None:
            if not has_same_controller(live, desired):
                return Written(failure=_foreign(resource, live))
            if live["metadata"].get("deletionTimestamp"):
                return Written()  # its deletion is an event, after which it is made again
        verb = ""
        if live is None or needs_apply(desired, live):
            verb = "create" if live is None else "patch"
            live = await self._patch(resource, desired, _expecting(desired, live), APPLY, force="true")
        if resource not in COMPLETED_BY_OTHERS and has_foreign_spec(desired, live):
            verb = verb or "patch"
            patch = [
                {"op": "add", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
                {"op": "replace", "path": "/spec", "value": desired["spec"]},
            ]
            live = await self._patch(resource, desired, patch, JSON_PATCH)
        if verb and cache is not None:
            cache.learn(live)
        return Written(verb)

    async def _patch(
        self, resource: Resource, desired: JsonObject, body: object, content_type: str, **query: str
    ) -> JsonObject:
        self._fence()
        metadata = desired["metadata"]
        return await self._client.patch(
            resource, metadata["namespace"], metadata["name"], body, content_type, fieldManager=FIELD_MANAGER, **query
        )


def _expecting(desired: JsonObject, live: JsonObject | None) -> JsonObject:
    """The desired object, valid only against the version that it was compared with."""
    if live is None:
        return desired
    expected = {key: live["metadata"][key] for key in ("uid", "resourceVersion")}
    return {**desired, "metadata": {**desired["metadata"], **expected}}


def _foreign(resource: Resource, live: JsonObject) -> ApiFailure:
    metadata = live["metadata"]
    owners = ", ".join(f"{owner['kind']}/{owner['name']}" for owner in metadata.get("ownerReferences", []))
    return ApiFailure(
        verb="patch",
        group=resource.group,
        resource=resource.plural,
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        code=409,
        reason=FOREIGN_OWNER,
        message=f"it belongs to {owners or 'nobody'}",
    )

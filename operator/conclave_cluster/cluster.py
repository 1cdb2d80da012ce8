"""The seam between decisions and Kubernetes: what the operator may ask of a cluster and do to it.

Implemented by `KubernetesCluster` and, in tests, by a fake; one contract suite holds both to it. No method
raises for what the API server refuses: failures are data, since a condition has to tell them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from conclave.kubernetes.failures import ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave_cluster.resources import Resource


class Reading(NamedTuple):
    """What was found; with a failure the objects are unknown, not absent."""

    objects: tuple[JsonObject, ...] = ()
    failure: ApiFailure | None = None


class Written(NamedTuple):
    """What one write did."""

    verb: str = ""
    """`create`, `patch` or `delete`; empty where nothing had to change."""
    failure: ApiFailure | None = None


class Cluster(Protocol):
    """Reads are of the kinds in resources.py; writes are fenced by the Lease where there is one."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Reading:
        """One object, or none."""
        ...

    async def list(self, resource: Resource, namespace: str = "", labels: dict[str, str] | None = None) -> Reading:
        """All objects of a namespace (of the whole watched scope where it is empty) that carry these labels."""
        ...

    async def schema(self, resource: Resource) -> Reading:
        """The OpenAPI schema of a custom resource, or none where the cluster does not have it."""
        ...

    async def create_once(self, desired: JsonObject) -> Written:
        """Creates; an object of that name is left as it is, unread, and is no failure."""
        ...

    async def apply(self, desired: JsonObject) -> Written:
        """Makes the live object what is wanted; writes nothing where it is, and never touches another owner's."""
        ...

    async def delete(self, owned: JsonObject) -> Written:
        """Deletes an object (apiVersion, kind, metadata with namespace, name and ownerReferences) of this owner."""
        ...

    async def patch_status(self, resource: Resource, item: JsonObject, status: JsonObject) -> Written:
        """Replaces the status of an object of ours as read; writes nothing where it is that already."""
        ...

    async def record_event(self, event: JsonObject) -> Written:
        """Creates a v1 Event."""
        ...

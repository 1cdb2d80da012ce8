"""What the controller knows of a kind: a record with its resource, how to look at one object, and what to want then.

The table of them is made by `process`. A second kind is one more record, and rooms of its own in the core; nothing in
`controller`, `fleet`, `handlers` or `process` names a kind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from conclave.api.reasons import ConditionType
from conclave.kubernetes.desired import Desired, SeenT
from conclave.kubernetes.objects import JsonObject
from conclave_cluster.cache import Bound, Projection
from conclave_cluster.cluster import Cluster
from conclave_cluster.resources import Resource


class Key(NamedTuple):
    """One object of ours."""

    kind: str
    namespace: str
    name: str


Parent = TypeVar("Parent", bound=BaseModel)


class Watch(NamedTuple):
    """Objects of others that a kind reads: they are kept in memory, and changes of them are heard."""

    resource: Resource
    projection: Projection
    selections: tuple[dict[str, str], ...] = ({},)
    bound: Bound | None = None
    indexed: tuple[str, ...] = ()
    is_packed: bool = False


class Known(NamedTuple):
    """What is known of a kind's objects when something else is heard to have changed."""

    by_name: Callable[[str, str], tuple[Key, ...]]
    """The object of this namespace and name: one or none."""
    waiting_for_nodes: Collection[Key]


@dataclass(frozen=True)
class Kind(Generic[Parent, SeenT]):
    """One record of the table."""

    resource: Resource
    model: type[Parent]
    parse: Callable[[JsonObject], Parent]
    """Raises pydantic's ValidationError where the object is none that the model can hold."""
    observe: Callable[[Cluster, Parent], Awaitable[SeenT]]
    sync: Callable[[Parent, SeenT], Desired[SeenT]]
    concerned: Callable[[Resource, JsonObject, Known], Iterable[Key]]
    """Whom a change of an object of others concerns."""
    watches: tuple[Watch, ...] = ()
    reported: tuple[ConditionType, ...] = (ConditionType.READY,)
    """Conditions that a Kubernetes event tells of when they change."""
    informs: tuple[ConditionType, ...] = ()
    """Of those, the ones that are no part of Ready; an event tells only that they are false."""
    unread: tuple[ConditionType, ...] = (ConditionType.READY,)
    """Conditions that are false while the object cannot be read."""

    @property
    def name(self) -> str:
        return self.resource.kind


AnyKind = Kind[Any, Any]
Kinds = tuple[AnyKind, ...]


def watches_of(kinds: Kinds) -> tuple[Watch, ...]:
    """Each once, however many kinds read it. Raises ValueError where two kinds watch a resource in two ways: one cache
    would be cut to what the other kind reads.
    """
    watches: dict[Resource, Watch] = {}
    for kind in kinds:
        for watch in kind.watches:
            if watches.setdefault(watch.resource, watch) != watch:
                raise ValueError(
                    f"kind {kind.name} watches {watch.resource.plural} in another way than a kind before it"
                )
    return tuple(watches.values())


def key_of(item: JsonObject) -> Key:
    """Kind, namespace and name of an object."""
    return Key(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])

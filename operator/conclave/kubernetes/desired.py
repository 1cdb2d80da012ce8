"""The contract of a kind: `sync(parent, observed) -> Desired`, whatever the kind is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from conclave.kubernetes.failures import ApiFailure, Outcome
from conclave.kubernetes.objects import JsonObject


class Seen(Protocol):
    """What surrounds one object, in whatever shape its kind reads it."""

    @property
    def failures(self) -> tuple[ApiFailure, ...]:
        """Reads that failed; what they would have shown is unknown, not absent."""
        ...


SeenT = TypeVar("SeenT", bound=Seen)
SeenLater = TypeVar("SeenLater", bound=Seen, contravariant=True)


class StatusOf(Protocol[SeenLater]):
    """The whole status as the API server gets it, from what is seen after the writes and from what the writes did.

    A write that the API server refused has to show in the status of the same pass.
    """

    def __call__(self, observed: SeenLater, outcome: Outcome, now: datetime) -> JsonObject: ...


def never_the_same(_: object) -> None:
    """For a kind whose every look is a full pass."""


@dataclass(frozen=True)
class Desired(Generic[SeenT]):
    """What should exist for one object of a kind. The writer creates, applies and deletes in this order.

    A first failure ends the writes: what comes later depends on what comes before.
    """

    status: StatusOf[SeenT]
    create: tuple[JsonObject, ...] = ()
    """Created once and never patched or read; 409 means that the object exists."""
    apply: tuple[JsonObject, ...] = ()
    """Compared with what was observed, then server-side applied."""
    delete: tuple[JsonObject, ...] = ()
    """Owned objects (apiVersion, kind, metadata.name) that nothing needs any more."""
    resync_after_s: float | None = None
    """Look again at growing intervals of at most so long, since no watch tells of a change; None: only when told."""
    is_refused: bool = False
    """Whether nothing can be made of the spec; for metrics and the log."""
    is_waiting_for_nodes: bool = False
    """Whether a new node, or a pod of others that frees accelerators, may change the result."""
    inputs_of: Callable[[SeenT], object] = never_the_same
    """All that the result came from, the object itself excepted, of what is seen. While the inputs stay equal, another
    pass would give the same result; None where time alone can change the result. The controller keeps the inputs in
    memory, so they must hold no object.
    """

"""The contract of a kind: `sync(parent, observed) -> Desired`, whatever the kind is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject


class Desired(NamedTuple):
    """What should exist for one object of a kind. The writer creates, applies and deletes in this order.

    A first failure ends the writes: what comes later depends on what comes before.
    """

    status: Callable[[Outcome], JsonObject]
    """The whole status, from what the writes did: a refused write has to show in the same pass."""
    create: tuple[JsonObject, ...] = ()
    """Created once and never patched or read; 409 means that the object exists."""
    apply: tuple[JsonObject, ...] = ()
    """Compared with what was observed, then server-side applied."""
    delete: tuple[JsonObject, ...] = ()
    """Owned objects (apiVersion, kind, metadata.name) that nothing needs any more."""
    resync_after_s: float | None = None
    """Look again at growing intervals of at most so long, since nobody tells of a change; None: only when told."""
    waits_for_hardware: bool = False
    """Whether a new node, or a pod of others that frees accelerators, may change the result."""
    result: str = "ok"
    """For metrics and the log: `ok`, or `refused` where the spec cannot be had."""

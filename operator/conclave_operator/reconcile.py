"""What the operator does for one object of ours, whatever triggered it: create, edit, drift, child, clock.

Level-based: it reads what is, not what happened. `carry_out` is the only writer besides the status.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from conclave.kubernetes.desired import Desired, Seen
from conclave.kubernetes.failures import ApiFailure, Outcome
from conclave.kubernetes.objects import JsonObject
from conclave_cluster.cluster import Cluster, Written
from conclave_operator.kinds import AnyKind
from conclave_operator.tracing import span

MOST_ROUNDS = 3
"""Of one reconcile: what is still not as it should be is tried again later."""


class Pass(NamedTuple):
    """One full pass: what it saw, wanted and did."""

    observed: Seen
    desired: Desired[Any]
    outcome: Outcome
    duration_s: float

    @property
    def failures(self) -> tuple[ApiFailure, ...]:
        """Reads and writes that failed and are worth another try soon."""
        return (*self.observed.failures, *self.outcome.failures)


class Reconciled(NamedTuple):
    """What all passes of a reconcile came to."""

    observed: Seen
    """At its end."""
    desired: Desired[Any]
    outcome: Outcome
    is_settled: bool
    """Whether its last pass had nothing to write."""

    @property
    def failures(self) -> tuple[ApiFailure, ...]:
        return (*self.observed.failures, *self.outcome.failures)


async def observe(kind: AnyKind, parent: BaseModel, cluster: Cluster) -> Seen:
    """What surrounds the object now."""
    with span("observe"):
        observed: Seen = await kind.observe(cluster, parent)
        return observed


async def reconcile(
    kind: AnyKind, parent: BaseModel, observed: Seen, cluster: Cluster, passed: Callable[[Pass], None]
) -> Reconciled:
    """Passes until one writes nothing, so that the status tells of what there is then, and is written once.

    Failures of the cluster are data, not exceptions; the first one ends it.
    """
    written: tuple[str, ...] = ()
    for _ in range(MOST_ROUNDS):
        began = time.monotonic()
        desired = kind.sync(parent, observed)
        with span("apply"):
            outcome = await carry_out(desired, cluster)
        passed(Pass(observed, desired, outcome, time.monotonic() - began))
        written += outcome.written
        if outcome.failures or not outcome.written:
            break
        observed = await observe(kind, parent, cluster)
    return Reconciled(observed, desired, Outcome(written=written, failures=outcome.failures), not outcome.written)


async def carry_out(desired: Desired[Any], cluster: Cluster) -> Outcome:
    """Writes in this order, and stops at the first failure: what comes later leans on what comes before."""
    written: list[str] = []
    steps = (
        *((cluster.create_once, manifest) for manifest in desired.create),
        *((cluster.apply, manifest) for manifest in desired.apply),
        *((cluster.delete, manifest) for manifest in desired.delete),
    )
    for write, manifest in steps:
        result: Written = await write(manifest)
        if result.failure is not None:
            return Outcome(written=tuple(written), failures=(result.failure,))
        if result.verb:
            written.append(_name(result.verb, manifest))
    return Outcome(written=tuple(written))


def _name(verb: str, manifest: JsonObject) -> str:
    return f"{verb} {manifest['kind']}/{manifest['metadata']['name']}"

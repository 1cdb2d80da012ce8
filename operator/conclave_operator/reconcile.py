"""What the operator does for one ModelDeployment, whatever triggered it: create, edit, drift, child, clock.

Level-based: it reads what is, not what happened. `carry_out` is the only writer besides the status.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import NamedTuple

from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.desired import Desired
from conclave.kubernetes.failures import ApiFailure, Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.sync import sync
from conclave.settings import OperatorSettings
from conclave_cluster.cluster import Cluster, Written
from conclave_cluster.observe import observe
from conclave_operator.tracing import span

TOKEN_BYTES = 32


class Reconciled(NamedTuple):
    """What one pass found, wanted, did and will report."""

    observed: Observed
    desired: Desired
    outcome: Outcome
    status: JsonObject


async def reconcile(
    deployment: ModelDeployment, cluster: Cluster, settings: OperatorSettings, now: datetime
) -> Reconciled:
    """Observe, sync, write, report. Failures of the cluster are data, not exceptions."""
    with span("observe"):
        observed = await observe(cluster, deployment)
    with span("decide"):
        desired = sync(deployment, observed, settings, token=secrets.token_urlsafe(TOKEN_BYTES), now=now)
    with span("apply"):
        outcome = await carry_out(desired, cluster)
    return Reconciled(observed, desired, outcome, desired.status(outcome))


async def carry_out(desired: Desired, cluster: Cluster) -> Outcome:
    """Writes in the order of `Desired` and stops at the first failure."""
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


def failures_of(reconciled: Reconciled) -> tuple[ApiFailure, ...]:
    """Reads and writes that failed and are worth another try soon."""
    return (*reconciled.observed.failures, *reconciled.outcome.failures)


def _name(verb: str, manifest: JsonObject) -> str:
    return f"{verb} {manifest['kind']}/{manifest['metadata']['name']}"

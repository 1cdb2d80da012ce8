"""What the operator does for one ModelDeployment, whatever triggered it: create, edit, drift, child, clock.

Level-based: it reads what is, not what happened. `carry_out` is the only writer besides the status.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import NamedTuple

from conclave.api.modeldeployment import ModelDeployment, ModelDeploymentStatus
from conclave.kubernetes.failures import ApiFailure, Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.sync import decide
from conclave.settings import OperatorSettings
from conclave_cluster.cluster import Cluster, Written
from conclave_cluster.observe import observe
from conclave_operator.tracing import span

TOKEN_BYTES = 32


class Reconciled(NamedTuple):
    """What one pass found, wanted, did and will report."""

    observed: Observed
    decision: Decision
    outcome: Outcome
    status: ModelDeploymentStatus


async def reconcile(
    deployment: ModelDeployment, cluster: Cluster, settings: OperatorSettings, now: datetime
) -> Reconciled:
    """Observe, decide, carry out, derive the status; failures of the cluster are data, not exceptions."""
    with span("observe"):
        observed = await observe(cluster, deployment)
    with span("decide"):
        decision = decide(deployment, observed, settings, secrets.token_urlsafe(TOKEN_BYTES))
    with span("apply"):
        outcome = await carry_out(decision, cluster)
    status = derive_status(deployment, observed, decision, outcome, now)
    return Reconciled(observed, decision, outcome, status)


async def carry_out(decision: Decision, cluster: Cluster) -> Outcome:
    """Writes in the decision's order and stops at the first failure: what comes later leans on what comes before."""
    written: list[str] = []
    steps = (
        *((cluster.create_once, manifest) for manifest in decision.create),
        *((cluster.apply, manifest) for manifest in decision.apply),
        *((cluster.delete, manifest) for manifest in decision.delete),
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

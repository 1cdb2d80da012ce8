"""The ordered chain of checks: what comes first is the cause of what comes after.

Used by `status` for conditions and by `conclave explain` for the whole chain.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import REFUSALS, ConditionType
from conclave.finding import Finding, reported
from conclave.modeldeployment import claim_causes, dependencies, pod_causes
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.inspection.causes import not_inspected
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.scene import Scene, StatusScene
from conclave.modeldeployment.serving import ended_pods, engine_causes, head_causes
from conclave.modeldeployment.serving.replicas import has_enough
from conclave.modeldeployment.weights.causes import not_downloaded
from conclave.planning.roles import Plan

Check = Callable[[StatusScene], Finding | None]

_BEFORE_PODS: tuple[Check, ...] = (
    dependencies.request_refused,
    dependencies.kuberay_missing,
    dependencies.kuberay_outdated,
    dependencies.plan_refused,
    claim_causes.claim_unusable,
    dependencies.waits_for_download,
    dependencies.waits_for_inspection,
    dependencies.cluster_rejected,
)
_PODS: tuple[Check, ...] = (
    dependencies.pods_rejected,
    pod_causes.volume_not_mounted,
    pod_causes.runtime_missing,
    pod_causes.image_not_pulled,
    pod_causes.container_not_created,
    ended_pods.weights_unfit,
    ended_pods.evicted,
    ended_pods.out_of_memory,
    ended_pods.container_crashed,
    pod_causes.unschedulable,
    head_causes.head_replaced,
    head_causes.head_unreachable,
    engine_causes.replica_failed,
    claim_causes.claim_pending,
    engine_causes.pods_missing,
    engine_causes.pods_starting,
)
_AFTER_PODS: tuple[Check, ...] = (
    engine_causes.not_acted_upon,
    engine_causes.rolling_out,
    engine_causes.engine_starting,
)
"""A pod that died is a cause of one that waits for it; both are causes of an engine that does not answer."""


def find_causes(scene: StatusScene) -> tuple[Finding, ...]:
    """Root cause first."""
    return tuple(finding for check in _chain(scene) if (finding := check(scene)) is not None)


def find_pod_causes(scene: StatusScene) -> tuple[Finding, ...]:
    """What keeps single pods, also of a deployment whose least replicas answer."""
    return tuple(finding for check in _PODS if (finding := check(scene)) is not None)


def _chain(scene: StatusScene) -> tuple[Check, ...]:
    if scene.deployment.spec.suspend or scene.decision.waits_for:
        return _BEFORE_PODS  # no pods are wanted, or none yet
    if has_enough(scene):
        return _BEFORE_PODS + _AFTER_PODS
    return _BEFORE_PODS + _PODS + _AFTER_PODS


def explain(deployment: ModelDeployment, observed: Observed, now: datetime) -> tuple[Finding, ...]:
    """For the command line, which decides and writes nothing: the operator's refusal is taken from the status."""
    scene = Scene(deployment=deployment, observed=observed)
    decision = _decided(scene)
    return find_causes(StatusScene(deployment=deployment, observed=observed, decision=decision, now=now))


def _decided(scene: Scene) -> Decision:
    """What the operator decided, as far as the status and the Jobs show it."""
    status = scene.deployment.status
    told = status.conditions if status else ()
    unplanned = next((each for each in told if each.type == ConditionType.PLAN_READY and each.status == "False"), None)
    plan = Plan.of_flat(status.plan) if status and status.plan else None
    if unplanned is not None and unplanned.reason in REFUSALS:  # a newer operator may have other reasons
        return Decision(
            plan=plan, refusal=reported(ConditionType.PLAN_READY, unplanned.reason, scene.subject, unplanned.message)
        )
    waits = []
    if scene.observed.weights.jobs:
        waits.append(not_downloaded(scene))
    if scene.needs_inspection and (status is None or unplanned is not None):
        waits.append(not_inspected(scene))
    return Decision(plan=plan, waits_for=tuple(filter(None, waits)))

"""The ordered chain of checks: what comes first is the cause of what comes after.

Used by `derive` for conditions and by `conclave explain` for the whole chain.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import REFUSALS, ConditionType
from conclave.manifests.inspection import needs_inspection
from conclave.manifests.weights_job import is_complete
from conclave.observation import Decision, Observed, Outcome, Refusal
from conclave.status import dependencies, engine_causes, inspection_causes, pod_causes, weights_causes
from conclave.status.finding import Finding, Scene

Check = Callable[[Scene], Finding | None]

_BEFORE_PODS: tuple[Check, ...] = (
    dependencies.request_refused,
    dependencies.kuberay_missing,
    dependencies.kuberay_outdated,
    dependencies.plan_refused,
    dependencies.claim_unusable,
    weights_causes.not_downloaded,
    inspection_causes.not_inspected,
    dependencies.cluster_rejected,
)
_PODS: tuple[Check, ...] = (
    dependencies.pods_rejected,
    pod_causes.volume_not_mounted,
    pod_causes.image_not_pulled,
    pod_causes.container_not_created,
    pod_causes.weights_unfit,
    pod_causes.evicted,
    pod_causes.out_of_memory,
    pod_causes.container_crashed,
    pod_causes.unschedulable,
    engine_causes.head_replaced,
    pod_causes.head_unreachable,
    engine_causes.replica_failed,
    dependencies.claim_pending,
    engine_causes.pods_missing,
    engine_causes.pods_starting,
)
_AFTER_PODS: tuple[Check, ...] = (
    engine_causes.not_acted_upon,
    engine_causes.rolling_out,
    engine_causes.engine_starting,
)
"""A pod that died is a cause of one that waits for it; both are causes of an engine that does not answer."""


def find_causes(scene: Scene) -> tuple[Finding, ...]:
    """Root cause first."""
    return tuple(finding for check in _chain(scene) if (finding := check(scene)) is not None)


def find_pod_causes(scene: Scene) -> tuple[Finding, ...]:
    """What keeps single pods, also of a deployment whose least replicas answer."""
    return tuple(finding for check in _PODS if (finding := check(scene)) is not None)


def _chain(scene: Scene) -> tuple[Check, ...]:
    if scene.deployment.spec.suspend or scene.decision.is_downloaded is False or scene.decision.is_inspecting:
        return _BEFORE_PODS  # no pods are wanted, or none yet
    if engine_causes.has_enough(scene):
        return _BEFORE_PODS + _AFTER_PODS
    return _BEFORE_PODS + _PODS + _AFTER_PODS


def explain(
    deployment: ModelDeployment,
    observed: Observed,
    now: datetime,
    decision: Decision | None = None,
    outcome: Outcome | None = None,
) -> tuple[Finding, ...]:
    """For the command line, which decides and applies nothing: the plan's refusal is then taken from the status."""
    scene = Scene(
        deployment=deployment,
        observed=observed,
        decision=decision or _decision_from_status(deployment, observed),
        outcome=outcome or Outcome(),
        now=now,
    )
    return find_causes(scene)


def _decision_from_status(deployment: ModelDeployment, observed: Observed) -> Decision:
    is_downloaded = all(map(is_complete, observed.jobs)) if observed.jobs else None
    if deployment.status is None:
        return Decision(is_downloaded=is_downloaded, is_inspecting=needs_inspection(deployment))
    is_inspecting = False
    prefix = f"ModelDeployment {deployment.metadata.namespace}/{deployment.metadata.name}: "
    for condition in deployment.status.conditions:
        if condition.type != ConditionType.PLAN_READY or condition.status != "False":
            continue
        is_inspecting = needs_inspection(deployment)
        if condition.reason in REFUSALS:  # a newer operator may have others
            refusal = Refusal(reason=condition.reason, message=condition.message.removeprefix(prefix))
            return Decision(plan=deployment.status.plan, refusal=refusal)
    return Decision(plan=deployment.status.plan, is_downloaded=is_downloaded, is_inspecting=is_inspecting)

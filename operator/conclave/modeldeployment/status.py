"""Derives the whole status from what was observed, decided and done. The operator writes it once, at the end of a pass.

Only the transition times of the old status are reused.
"""

from __future__ import annotations

from datetime import UTC, datetime

from conclave import names
from conclave.api.modeldeployment import Condition, ModelDeployment, ModelDeploymentStatus
from conclave.api.plan import Plan, RejectedOption
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding, Status, Verdict
from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import count_running, has_verified, in_trouble, is_running, is_worker
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.root_cause import find_causes
from conclave.modeldeployment.scene import StatusScene
from conclave.modeldeployment.serving.egress import egress_enforced
from conclave.modeldeployment.serving.replicas import is_serving
from conclave.modeldeployment.serving.scaling import count_replicas, scaled
from conclave.visible_text import one_line

_LONGEST_MESSAGE = 4096


def derive_status(
    deployment: ModelDeployment, observed: Observed, decision: Decision, outcome: Outcome, now: datetime
) -> ModelDeploymentStatus:
    """The new status. Pure and idempotent: without a change, the result equals the present status."""
    if decision.refusal is not None and decision.refusal.reason is Reason.RECORD_TOO_NEW:
        return _unread(deployment, decision.refusal, now)
    scene = StatusScene(deployment=deployment, observed=observed, decision=decision, outcome=outcome, now=now)
    causes = find_causes(scene)
    parts = {
        ConditionType.PLAN_READY: _plan_ready(scene, causes),
        ConditionType.WEIGHTS_READY: _weights_ready(scene, causes),
        ConditionType.PROVISIONED: _provisioned(scene, causes),
        ConditionType.SERVING: _serving(scene, causes),
    }
    ready, replicas = _ready(scene, causes, parts), count_replicas(scene)
    verdicts = {
        ConditionType.READY: ready,
        **parts,
        ConditionType.SCALED: scaled(scene, replicas, causes),
        ConditionType.EGRESS_ENFORCED: egress_enforced(scene),
        ConditionType.WITHIN_POLICY: _within_policy(scene, causes),
        ConditionType.UPDATE_AVAILABLE: _update_available(scene),
        ConditionType.RECONCILING: _reconciling(scene, causes, ready),
        ConditionType.STALLED: _stalled(causes),
    }
    return ModelDeploymentStatus(
        observed_generation=deployment.metadata.generation,
        conditions=tuple(_condition(deployment, kind, verdict, now) for kind, verdict in verdicts.items()),
        plan=decision.plan and _visible(decision.plan.flat()),
        replicas=replicas.wanted,
        ready_replicas=replicas.answering,
        selector=names.selector_string(names.worker_selector(deployment.metadata.name)),
        endpoint=decision.endpoint,
    )


def _unread(deployment: ModelDeployment, refusal: Finding, now: datetime) -> ModelDeploymentStatus:
    """For records of a newer version: the old status, with conditions that say that this operator does not act."""
    verdicts = {
        ConditionType.READY: Verdict("Unknown", refusal.reason, refusal.message),
        ConditionType.PLAN_READY: Verdict("False", refusal.reason, refusal.message),
        ConditionType.RECONCILING: Verdict("False", refusal.reason, refusal.message),
        ConditionType.STALLED: Verdict("True", refusal.reason, refusal.message),
    }
    before = deployment.status or ModelDeploymentStatus()
    told = tuple(_condition(deployment, kind, verdict, now) for kind, verdict in verdicts.items())
    kept = tuple(condition for condition in before.conditions if condition.type not in verdicts)
    generation = deployment.metadata.generation
    return before.model_copy(update={"observed_generation": generation, "conditions": (*told, *kept)})


def _ready(scene: StatusScene, causes: tuple[Finding, ...], parts: dict[ConditionType, Verdict]) -> Verdict:
    """The root cause if there is one. Without a root cause, Ready is not better than its parts."""
    if causes:
        return Verdict("False", causes[0].reason, causes[0].message)
    if scene.deployment.spec.suspend:
        return _suspended()
    for kind in (ConditionType.PLAN_READY, ConditionType.PROVISIONED, ConditionType.SERVING):
        if parts[kind].status != "True":
            return parts[kind]._replace(status="False")
    url = scene.decision.endpoint.url if scene.decision.endpoint else "its endpoint"
    return Verdict("True", Reason.AS_WANTED, f"model {scene.deployment.served_name} answers at {url}")


def _plan_ready(scene: StatusScene, causes: tuple[Finding, ...]) -> Verdict:
    refused = _first(causes, ConditionType.PLAN_READY)
    if refused is not None:
        return Verdict("False", refused.reason, refused.message)
    if scene.decision.plan is None or scene.decision.waits(ConditionType.PLAN_READY):
        if scene.deployment.spec.suspend and not causes:
            return Verdict("Unknown", Reason.SUSPENDED, "spec.suspend is true: the weights are not inspected")
        return _unknown(causes, "no plan has been made yet")
    return Verdict("True", Reason.PLANNED, summary(scene.decision.plan.flat()))


def _visible(plan: Plan) -> Plan:
    """The planner's sentences quote config.json and node labels."""
    rejected = (
        RejectedOption(option=one_line(option.option, 256), reason=one_line(option.reason, 1024))
        for option in plan.rejected
    )
    because = (one_line(reason, 1024) for reason in plan.because)
    return plan.model_copy(update={"because": tuple(because), "rejected": tuple(rejected)})


def summary(plan: Plan) -> str:
    """One line: the layout of a replica."""
    nodes = plan.nodes_per_replica
    spread = "one node" if nodes == 1 else f"{nodes} nodes, {plan.gpus_per_node} on each"
    return (
        f"{plan.parallelism} on {plan.gpus_per_replica} {plan.accelerator} of {spread}: {plan.max_model_len} tokens of "
        f"context, {plan.max_concurrency} requests of that length at once"
    )


def _weights_ready(scene: StatusScene, causes: tuple[Finding, ...]) -> Verdict:
    found = _first(causes, ConditionType.WEIGHTS_READY)
    if found is not None:
        return Verdict("False", found.reason, found.message)
    if scene.deployment.spec.suspend:
        return Verdict("Unknown", Reason.SUSPENDED, "spec.suspend is true: no pod mounts the weights")
    is_stored = scene.deployment.spec.model.source.downloaded is not None
    if not scene.is_downloaded:
        return _unknown(causes, "the weights have not been downloaded yet")
    workers = [pod for pod in scene.observed.pods if is_worker(pod) and is_running(pod)]
    if not is_stored and not workers:
        return _unknown(causes, "no worker pod has mounted the weights yet")
    where, reason = "the pods mount the weights read-only", Reason.MOUNTED
    if is_stored:
        claim = scene.name_of("PersistentVolumeClaim", names.cache_claim(scene.name))
        where, reason = f"the weights are downloaded into {claim}", Reason.DOWNLOADED
    verified, compared = _compared(scene.deployment.spec.model.digest, workers)
    return Verdict("True", Reason.VERIFIED if verified else reason, f"{where}; {compared}")


def _compared(digest: str | None, workers: list[JsonObject]) -> tuple[bool, str]:
    """Whether every worker pod has compared the files itself, and a sentence about the comparison.

    The comparison of the download does not count: somebody may have written to the volume since then.
    """
    if digest is None:
        return False, "nothing was compared, since spec.model.digest is not set"
    if not workers:
        return False, f"each pod will compare the weights with {digest} before its engine starts"
    blind = sum(not has_verified(pod, digest) for pod in workers)
    if blind:
        return False, (
            f"{blind} of {len(workers)} worker pods have not compared the weights with {digest}: they belong to an "
            "earlier spec or version; condition UpdateAvailable says how to replace these pods"
        )
    return True, f"each worker pod has compared the weights with {digest} before its engine started"


def _provisioned(scene: StatusScene, causes: tuple[Finding, ...]) -> Verdict:
    found = _first(causes, ConditionType.PROVISIONED)
    if found is not None:
        return Verdict("False", found.reason, found.message)
    if scene.deployment.spec.suspend:
        return _suspended()
    heads, workers = count_running(scene.observed.pods)
    counted = f"{heads} head and {workers} worker pods run"
    if not heads or workers < scene.least_workers:
        return _unknown(
            causes, f"{counted}; expected 1 head and at least {scene.least_workers} worker pods", status="False"
        )
    waiting = sum(1 for _ in in_trouble(scene.pods))
    return Verdict("True", Reason.PODS_READY, counted + (f"; {waiting} more pods are starting" if waiting else ""))


def _serving(scene: StatusScene, causes: tuple[Finding, ...]) -> Verdict:
    if is_serving(scene) and not scene.deployment.spec.suspend:
        return Verdict("True", Reason.SERVING, "KubeRay reports healthy endpoints")
    found = _first(causes, ConditionType.SERVING)
    if found is not None:
        return Verdict("False", found.reason, found.message)
    if scene.deployment.spec.suspend:
        return _suspended()
    return _unknown(causes, "no replica answers", status="False")


def _within_policy(scene: StatusScene, causes: tuple[Finding, ...]) -> Verdict:
    objections = scene.decision.objections
    if objections:
        return Verdict("False", objections[0].reason, "; ".join(objection.message for objection in objections))
    if any(failure.resource in ("controllerrevisions", "rayservices") for failure in scene.observed.failures):
        return _unknown(causes, "the operator could not read its records (ControllerRevisions) or the RayService")
    allowed = "the operator's lists allow all images and service accounts of the spec and of its records"
    return Verdict("True", Reason.AS_WANTED, allowed)


def _update_available(scene: StatusScene) -> Verdict:
    if scene.decision.update_available:
        return Verdict("True", Reason.BUILDER_CHANGED, scene.decision.update_available)
    return Verdict("False", Reason.UP_TO_DATE, "no update is available")


def _reconciling(scene: StatusScene, causes: tuple[Finding, ...], ready: Verdict) -> Verdict:
    is_suspended = scene.deployment.spec.suspend
    if is_suspended and not causes and scene.observed.pods:
        return Verdict("True", Reason.SUSPENDED, f"{len(scene.observed.pods)} pods are ending")
    if ready.status != "True" and not is_suspended and not (causes and causes[0].is_stalled):
        return ready._replace(status="True")
    return Verdict("False", Reason.AS_WANTED, "no change is in progress")


def _stalled(causes: tuple[Finding, ...]) -> Verdict:
    if causes and causes[0].is_stalled:
        return Verdict("True", causes[0].reason, causes[0].message)
    return Verdict("False", Reason.AS_WANTED, "nobody has to act")


def _suspended() -> Verdict:
    return Verdict("False", Reason.SUSPENDED, "spec.suspend is true: no pods run; set it to false to serve again")


def _unknown(causes: tuple[Finding, ...], message: str, status: Status = "Unknown") -> Verdict:
    """A condition that follows from the root cause has the reason of the root cause, and refers to Ready."""
    if causes:
        return Verdict(status, causes[0].reason, f"{message}; condition Ready has the reason")
    return Verdict(status, Reason.PODS_STARTING, message)


def _first(causes: tuple[Finding, ...], kind: ConditionType) -> Finding | None:
    return next((cause for cause in causes if cause.condition is kind), None)


def _condition(deployment: ModelDeployment, kind: ConditionType, verdict: Verdict, now: datetime) -> Condition:
    conditions = deployment.status.conditions if deployment.status else ()
    before = next((condition for condition in conditions if condition.type == kind), None)
    since = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if before is not None and before.status == verdict.status:
        since = before.last_transition_time
    return Condition(
        type=kind,
        status=verdict.status,
        reason=verdict.reason,
        message=one_line(verdict.message, _LONGEST_MESSAGE),
        observed_generation=deployment.metadata.generation,
        last_transition_time=since,
    )

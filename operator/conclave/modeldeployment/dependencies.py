"""Checks of what the cluster must have and allow before pods can be: the API server, KubeRay, the plan, the claim."""

from __future__ import annotations

from conclave import names
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding
from conclave.kubernetes import kuberay
from conclave.kubernetes.events import INVALID_OBJECTS, POD_REFUSALS
from conclave.kubernetes.failures import FOREIGN_OWNER, ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import events_about
from conclave.modeldeployment.pod_causes import rejection
from conclave.modeldeployment.scene import StatusScene

_EVENTS = "events"


def request_refused(scene: StatusScene) -> Finding | None:
    """A request of the operator failed. A failed read of events is ignored: it only leaves less to explain."""
    failures = (*scene.outcome.failures, *scene.observed.failures)
    failure = next((failure for failure in failures if failure.resource != _EVENTS), None)
    if failure is None:
        return None
    reason, seen, remedy = _explained(failure)
    resource = _resource(failure)
    return Finding(
        condition=ConditionType.PROVISIONED,
        reason=reason,
        subject=scene.name_of(resource, failure.name).rstrip("/"),
        seen=seen,
        remedy=remedy,
        evidence=(f"{failure.verb} {resource}: {failure.code} {failure.reason}: {failure.message}",),
        is_stalled=reason is not Reason.API_SERVER_UNREACHABLE,
    )


def _explained(failure: ApiFailure) -> tuple[Reason, str, str]:
    resource = _resource(failure)
    if failure.reason == FOREIGN_OWNER:
        return (
            Reason.FOREIGN_OWNER,
            f"an object of this name exists, and {failure.message}; the operator does not change it",
            "rename the ModelDeployment, or delete the other object",
        )
    if failure.code == 403:
        return (
            Reason.FORBIDDEN,
            f"the API server forbids the operator to {failure.verb} {resource}: {failure.message}",
            f"grant the verb {failure.verb} on {resource} to the operator's service account, as the chart does",
        )
    if failure.code == 0 or failure.code >= 429:
        return (
            Reason.API_SERVER_UNREACHABLE,
            f"the API server did not answer the operator's {failure.verb} "
            f"({failure.code} {failure.reason}) {failure.message}".rstrip(),
            "the operator tries again",
        )
    return (
        Reason.WRITE_REJECTED,
        f"the API server refused the operator's {failure.verb} with {failure.code} {failure.reason}: {failure.message}",
        "correct the field that the API server names",
    )


def _resource(failure: ApiFailure) -> str:
    return f"{failure.resource}.{failure.group}" if failure.group else failure.resource


def kuberay_missing(scene: StatusScene) -> Finding | None:
    if scene.observed.kuberay.installed:
        return None
    return Finding(
        condition=ConditionType.PROVISIONED,
        reason=Reason.DEPENDENCY_MISSING,
        subject="CustomResourceDefinition rayservices.ray.io",
        seen="not installed: without KubeRay nothing can run the model",
        remedy=f"install KubeRay (tested with {kuberay.TRIED_VERSION}); then the operator continues by itself",
    )


def kuberay_outdated(scene: StatusScene) -> Finding | None:
    missing = scene.observed.kuberay.missing_fields
    if not missing:
        return None
    return Finding(
        condition=ConditionType.PROVISIONED,
        reason=Reason.DEPENDENCY_OUTDATED,
        subject="CustomResourceDefinition rayservices.ray.io",
        seen=f"the installed version lacks the fields {', '.join(missing)}",
        remedy=f"update KubeRay's operator and its CRDs (tested with {kuberay.TRIED_VERSION})",
    )


def plan_refused(scene: StatusScene) -> Finding | None:
    return scene.decision.refusal


def waits_for_download(scene: StatusScene) -> Finding | None:
    return _waits(scene, ConditionType.WEIGHTS_READY)


def waits_for_inspection(scene: StatusScene) -> Finding | None:
    return _waits(scene, ConditionType.PLAN_READY)


def _waits(scene: StatusScene, condition: ConditionType) -> Finding | None:
    """A suspended deployment waits for nothing."""
    found = scene.decision.waits(condition)
    return None if found is None or found.reason is Reason.SUSPENDED else found


def cluster_rejected(scene: StatusScene) -> Finding | None:
    """KubeRay found the RayService or a RayCluster invalid."""
    for item in filter(None, (scene.observed.rayservice, *scene.observed.rayclusters)):
        condition = _condition(item, "Ready")
        invalid = condition is not None and condition.get("reason") == "ValidationFailed"
        events = events_about(scene.observed.events, item, *INVALID_OBJECTS)
        if not invalid and not (events and not item.get("status")):
            continue
        words = condition.get("message", "") if invalid and condition else events[0].get("message", "")
        return Finding(
            condition=ConditionType.PROVISIONED,
            reason=Reason.CLUSTER_REJECTED,
            subject=scene.name_of(item.get("kind", "object"), item["metadata"]["name"]),
            seen=f"KubeRay refuses this object: {words}",
            remedy=f"check KubeRay's version: Conclave builds this object for KubeRay {kuberay.TRIED_VERSION}",
        )
    return None


def pods_rejected(scene: StatusScene) -> Finding | None:
    """The API server refused the pods that KubeRay wanted to create: quota, admission, a missing service account."""
    for cluster in scene.observed.rayclusters:
        condition = _condition(cluster, "ReplicaFailure")
        failed = condition is not None and condition.get("status") == "True"
        events = events_about(scene.observed.events, cluster, *POD_REFUSALS)
        has_pods = any(
            pod["metadata"].get("labels", {}).get(names.RAY_CLUSTER) == cluster["metadata"]["name"]
            for pod in scene.observed.pods
        )
        if not failed and (has_pods or not events):
            continue
        words = condition.get("message", "") if failed and condition else events[0].get("message", "")
        reason, remedy = rejection(
            words,
            quota="raise the namespace's quota or lower scaling.minReplicas",
            other="correct what the message names: admission policy, service account, priority class or RuntimeClass",
        )
        return Finding(
            condition=ConditionType.PROVISIONED,
            reason=reason,
            subject=scene.name_of("RayCluster", cluster["metadata"]["name"]),
            seen=f"the API server refuses its pods: {words}",
            remedy=remedy,
        )
    return None


def _condition(item: JsonObject, kind: str) -> JsonObject | None:
    conditions: list[JsonObject] = item.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition.get("type") == kind), None)

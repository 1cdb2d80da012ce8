"""Checks of Ray Serve inside the pods: applications, their replicas, and steps that only need more time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from conclave import names
from conclave.api.reasons import ConditionType, Reason
from conclave.engine.exceptions import find_cause
from conclave.finding import Finding
from conclave.kubernetes.pods import (
    in_trouble,
    is_running,
    is_verifying,
    is_worker,
)
from conclave.modeldeployment.scene import StatusScene
from conclave.modeldeployment.serving.replicas import answers_enough, count_engines, is_serving, serve_condition

MOST_REPORTS = 32
"""Messages of Serve that are looked through for an exception; an application of ours has three."""
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_CONDITIONS = {
    Reason.WEIGHTS_MISSING: ConditionType.WEIGHTS_READY,
    Reason.WEIGHTS_CORRUPT: ConditionType.WEIGHTS_READY,
    Reason.WEIGHTS_UNREADABLE: ConditionType.WEIGHTS_READY,
    Reason.OUT_OF_MEMORY: ConditionType.PROVISIONED,
}
"""Of engines that fail for what they were given; others make Serving false."""


class _Report(NamedTuple):
    """One status with its message, of an application or of one of its deployments."""

    cluster: str
    application: str
    deployment: str
    status: str
    message: str

    @property
    def path(self) -> str:
        return f"Serve application {self.application}" + (f", deployment {self.deployment}" if self.deployment else "")


def replica_failed(scene: StatusScene) -> Finding | None:
    """The exception in Ray Serve's messages that ended an engine or prevented its start."""
    reports = list(islice(_reports(scene), MOST_REPORTS))
    for report in reports:
        cause = find_cause(report.message)
        if cause is None:
            continue
        return _engine_finding(
            scene,
            report,
            reason=cause.reason,
            seen=f"{report.path} is {report.status}: {cause.line}",
            remedy=cause.remedy or _logs_hint(scene),
            evidence=(*cause.passed_on_by, cause.line),
            is_stalled=report.status in _FAILED or cause.reason is not Reason.ENGINE_FAILED,
        )
    for report in reports:
        if report.status in _FAILED:
            words = " ".join(report.message.split()) or "no message"
            return _engine_finding(
                scene,
                report,
                reason=Reason.ENGINE_FAILED,
                seen=f"{report.path} is {report.status}: {words}",
                remedy=_logs_hint(scene),
                evidence=(),
                is_stalled=True,
            )
    return None


def _engine_finding(
    scene: StatusScene,
    report: _Report,
    *,
    reason: Reason,
    seen: str,
    remedy: str,
    evidence: tuple[str, ...],
    is_stalled: bool,
) -> Finding:
    subject = scene.name_of("RayService", names.rayservice(scene.deployment.metadata.name))
    return Finding(
        condition=_CONDITIONS.get(reason, ConditionType.SERVING),
        reason=reason,
        subject=subject,
        seen=seen,
        remedy=remedy,
        evidence=(subject, scene.name_of("RayCluster", report.cluster), report.path, *evidence),
        is_stalled=is_stalled,
    )


def _reports(scene: StatusScene) -> Iterator[_Report]:
    """Deployments before applications, the pending cluster before the active one: it is what was asked for last."""
    status = (scene.observed.rayservice or {}).get("status", {})
    for part in ("pendingServiceStatus", "activeServiceStatus"):
        service = status.get(part, {})
        cluster = service.get("rayClusterName", "")
        for application, app in sorted(service.get("applicationStatuses", {}).items()):
            for deployment, serving in sorted(app.get("serveDeploymentStatuses", {}).items()):
                yield _Report(cluster, application, deployment, serving.get("status", ""), serving.get("message", ""))
            yield _Report(cluster, application, "", app.get("status", ""), app.get("message", ""))


def _logs_hint(scene: StatusScene) -> str:
    """Ray keeps the output of its processes in files: `kubectl logs` has only that of `ray start`."""
    running = sorted(filter(is_running, scene.observed.pods), key=is_worker, reverse=True)
    pod = running[0]["metadata"]["name"] if running else "POD"
    command = f"kubectl -n {scene.deployment.metadata.namespace} exec {pod} -c {names.RAY_CONTAINER} -- "
    return f"`{command}sh -c 'grep -rhE \"Error|ERROR\" /tmp/ray/session_latest/logs | tail -n 40'` shows Ray's errors"


def pods_missing(scene: StatusScene) -> Finding | None:
    """The RayService exists, and KubeRay has created no pods."""
    rayservice = scene.observed.rayservice
    if rayservice is None or scene.observed.pods:
        return None
    told, done = rayservice["metadata"].get("generation", 0), rayservice.get("status", {}).get("observedGeneration", 0)
    return Finding(
        condition=ConditionType.PROVISIONED,
        reason=Reason.PODS_MISSING,
        subject=scene.name_of("RayService", rayservice["metadata"]["name"]),
        seen=f"KubeRay has created no pods (the RayService has generation {told}, KubeRay has observed {done})",
        remedy="if this does not change, check that KubeRay's operator runs and watches this namespace",
        is_stalled=False,
    )


def pods_starting(scene: StatusScene) -> Finding | None:
    starting = list(in_trouble(scene.pods))
    if not starting:
        return None
    verifying = [pod for pod in starting if is_verifying(pod)]
    pod = (verifying or starting)[0]
    return Finding(
        condition=ConditionType.WEIGHTS_READY if verifying else ConditionType.PROVISIONED,
        reason=Reason.VERIFYING if verifying else Reason.PODS_STARTING,
        subject=scene.name_of("Pod", pod["metadata"]["name"]),
        seen="an init container is comparing the weights with spec.model.digest"
        if verifying
        else f"is starting; {len(starting)} pods do not run yet",
        is_stalled=False,
    )


def not_acted_upon(scene: StatusScene) -> Finding | None:
    """KubeRay has not observed the newest generation. A change of metadata makes no new generation."""
    if scene.decision.refusal is not None or not scene.observed.kuberay.installed:
        return None
    is_new = not (scene.observed.rayservice or {}).get("status")
    if not is_new and not _is_behind(scene):
        return None
    return Finding(
        condition=ConditionType.READY,
        reason=Reason.ROLLING_OUT,
        subject=scene.name_of("RayService", names.rayservice(scene.deployment.metadata.name)),
        seen="KubeRay has not acted on the last change yet",
        is_stalled=False,
    )


def _is_behind(scene: StatusScene) -> bool:
    """KubeRay 1.6.2 brings observedGeneration up to date only while endpoints are there."""
    rayservice = scene.observed.rayservice or {}
    seen, asked = rayservice.get("status", {}).get("observedGeneration", 0), rayservice["metadata"].get("generation", 0)
    return is_serving(scene) and bool(seen < asked)


def rolling_out(scene: StatusScene) -> Finding | None:
    """The RayCluster of an older generation answers while the new RayCluster starts."""
    condition = serve_condition(scene, "UpgradeInProgress")
    if condition is None or condition.get("status") != "True":
        return None
    status = (scene.observed.rayservice or {}).get("status", {})
    pending = status.get("pendingServiceStatus", {}).get("rayClusterName", "")
    return Finding(
        condition=ConditionType.READY,
        reason=Reason.ROLLING_OUT,
        subject=scene.name_of("RayCluster", pending),
        seen="is starting, and will replace the RayCluster of an older generation",
        is_stalled=False,
    )


def engine_starting(scene: StatusScene) -> Finding | None:
    running = sum(is_running(pod) for pod in scene.observed.pods)
    if not running or (is_serving(scene) and answers_enough(scene)):
        return None
    engines, least = count_engines(scene), scene.deployment.spec.scaling.min_replicas
    answers = f"{engines} of {least} replicas are ready" if is_serving(scene) else "the model does not answer yet"
    reports = [report for report in islice(_reports(scene), MOST_REPORTS) if report.status]
    words = ", ".join(f"{report.deployment or report.application} {report.status}" for report in reports)
    return Finding(
        condition=ConditionType.SERVING,
        reason=Reason.ENGINE_STARTING,
        subject=scene.name_of("RayService", names.rayservice(scene.deployment.metadata.name)),
        seen=f"{running} of its pods run, and {answers} ({words or 'Ray Serve has reported nothing yet'})",
        is_stalled=False,
    )

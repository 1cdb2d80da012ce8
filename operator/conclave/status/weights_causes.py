"""Why the weights are not in the cache yet: what the download Job's pod waits for, died of, or has reached.

The pod's own words are in the termination messages of its containers, as JSON of `conclave_weights download --report`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conclave.api.reasons import ConditionType, Reason
from conclave.kubernetes.events import JOB_FAILURE
from conclave.manifests import names
from conclave.manifests.weights_job import is_complete
from conclave.observation import JsonObject
from conclave.status import pod_causes
from conclave.status.finding import Finding, Scene
from conclave.status.pods import events_about, has_begun, is_leaving, read_report

_POD_CHECKS = (
    pod_causes.volume_not_mounted,
    pod_causes.image_not_pulled,
    pod_causes.container_not_created,
    pod_causes.unschedulable,
)
_REMEDIES = {
    Reason.DOWNLOAD_FAILED: "it is tried again, at the latest after five minutes",
    Reason.DIGEST_MISMATCH: "the objects are compared again, at the latest after five minutes",
    Reason.WEIGHTS_UNREADABLE: "look at the cache's volume; it is tried again, at the latest after five minutes",
    Reason.WEIGHTS_CORRUPT: "upload whole weights; they are looked at again, at the latest after five minutes",
    Reason.OUT_OF_MEMORY: "it is tried again; report this, since a download needs little memory",
}


def not_downloaded(scene: Scene) -> Finding | None:
    """The first thing that keeps the weights from the cache, be it only time."""
    if scene.decision.is_downloaded is not False or scene.deployment.spec.suspend:
        return None
    return job_rejected(scene) or pod_waits(scene) or _container_failed(scene) or _downloading(scene)


def job_rejected(scene: Scene) -> Finding | None:
    """The API server refused the Job's pod: quota, admission, priority class."""
    for job in scene.observed.jobs:
        events = events_about(scene.observed, job, JOB_FAILURE)
        if events and not scene.observed.weights_pods:
            words = events[0].get("message", "")
            is_quota = "exceeded quota" in words
            return _finding(
                scene,
                reason=Reason.QUOTA_EXCEEDED if is_quota else Reason.POD_REJECTED,
                subject=scene.name_of("Job", job["metadata"]["name"]),
                seen=f"its pod cannot be created: {words}",
                remedy="raise the namespace's quota" if is_quota else "change what the message names",
            )
    return None


def pod_waits(scene: Scene) -> Finding | None:
    """The checks of the model's pods, on these."""
    pods = tuple(undone_pods(scene))
    on_these = scene.model_copy(update={"observed": scene.observed.model_copy(update={"pods": pods})})
    found = next((finding for check in _POD_CHECKS if (finding := check(on_these)) is not None), None)
    return found and found.model_copy(update={"condition": ConditionType.WEIGHTS_READY})


def _container_failed(scene: Scene) -> Finding | None:
    for pod in undone_pods(scene):
        for status in _statuses(pod):
            end = _failure(status)
            if end is None:
                continue
            report = read_report(end.get("message", ""))
            if end.get("reason") == "OOMKilled":
                reason, words = Reason.OUT_OF_MEMORY, "it used more than its memory limit"
            else:
                reason = pod_causes.REASONS_OF_WEIGHTS.get(str(report.get("error")), Reason.DOWNLOAD_FAILED)
                words = str(report.get("message") or end.get("message") or f"exit code {end['exitCode']}").strip()
            first, *rest = words.splitlines() or [f"exit code {end['exitCode']}"]
            return _finding(
                scene,
                reason=reason,
                subject=scene.name_of("Pod", pod["metadata"]["name"]),
                seen=f"container {status['name']} ended: {first}",
                remedy=_REMEDIES[reason],
                evidence=tuple(rest),
            )
    return None


def _downloading(scene: Scene) -> Finding:
    claim = scene.name_of("PersistentVolumeClaim", names.cache_claim(scene.name))
    if scene.observed.cache is None:
        seen = "it is being made"
    else:
        reports = [report for pod in undone_pods(scene) for report in _progress(pod)]
        has_pod = any(map(has_begun, undone_pods(scene)))
        seen = _amount(reports[-1]) if reports else "the download has begun" if has_pod else "the download is to begin"
        phase = scene.observed.cache.get("status", {}).get("phase")
        seen += f" (the claim's phase is {phase}, expected Bound)" if phase != "Bound" else ""
    return _finding(scene, reason=Reason.DOWNLOADING, subject=claim, seen=seen, remedy="", is_stalled=False)


def _amount(report: dict[str, Any]) -> str:
    done_bytes, total_bytes = report["doneBytes"], report["totalBytes"]
    percent = done_bytes * 100 // total_bytes if total_bytes else 100
    return f"{done_bytes / 2**30:.1f} of {total_bytes / 2**30:.1f} GiB ({percent} %) are downloaded"


def _progress(pod: JsonObject) -> Iterator[dict[str, Any]]:
    """Of the steps that ended well, in their order."""
    for status in _statuses(pod):
        end = status.get("state", {}).get("terminated")
        if end and not end.get("exitCode"):
            report = read_report(end.get("message", ""))
            if all(_is_size(report.get(key)) for key in ("doneBytes", "totalBytes")):
                yield report


def _is_size(value: object) -> bool:
    """Whether it may be a number of bytes: a pod may report any."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _failure(status: JsonObject) -> JsonObject | None:
    """How a container's last try ended, where it ended badly and the next one has not begun."""
    state = status.get("state", {})
    end = state.get("terminated") or ("waiting" in state and status.get("lastState", {}).get("terminated"))
    return end if end and end.get("exitCode") else None


def undone_pods(scene: Scene) -> Iterator[JsonObject]:
    """Those of Jobs that are not done."""
    undone = {job["metadata"].get("uid") for job in scene.observed.jobs if not is_complete(job)}
    for pod in scene.observed.weights_pods:
        owners = {owner["uid"] for owner in pod["metadata"].get("ownerReferences", [])}
        if owners & undone and not is_leaving(pod):
            yield pod


def _statuses(pod: JsonObject) -> Iterator[JsonObject]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", [])
    yield from status.get("containerStatuses", [])


def _finding(
    scene: Scene,
    *,
    reason: Reason,
    subject: str,
    seen: str,
    remedy: str,
    evidence: tuple[str, ...] = (),
    is_stalled: bool = True,
) -> Finding:
    jobs = tuple(scene.name_of("Job", job["metadata"]["name"]) for job in scene.observed.jobs if not is_complete(job))
    return Finding(
        condition=ConditionType.WEIGHTS_READY,
        reason=reason,
        subject=subject,
        seen=seen,
        remedy=remedy,
        evidence=(*jobs, subject, *evidence),
        is_stalled=is_stalled,
    )

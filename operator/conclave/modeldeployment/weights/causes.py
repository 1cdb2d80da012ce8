"""Why the weights are not in the cache yet: what the download pod waits for, how it failed, or how far it is.

The pod's reports are in the termination messages of its containers, as JSON of `conclave_weights download --report`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conclave import names
from conclave.api.modeldeployment import HuggingFaceSource
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import container_statuses, has_begun
from conclave.kubernetes.reports import read_report
from conclave.modeldeployment.job_causes import job_waits, names_of_undone_jobs, undone_pods
from conclave.modeldeployment.scene import Scene
from conclave.modeldeployment.weights.keys import cached_files
from conclave.modeldeployment.weights.reasons import REASONS_OF_WEIGHTS

_REMEDIES = {
    Reason.DOWNLOAD_FAILED: "the Job tries again within five minutes",
    Reason.DIGEST_MISMATCH: "the Job compares the objects again within five minutes",
    Reason.WEIGHTS_UNREADABLE: "check the volume of the cache; the Job tries again within five minutes",
    Reason.WEIGHTS_CORRUPT: "upload complete weights; the Job reads them again within five minutes",
    Reason.OUT_OF_MEMORY: "the Job tries again; please report this, since a download needs little memory",
}


def not_downloaded(scene: Scene) -> Finding | None:
    """The first reason why the weights are not in the cache yet; None if the pods can mount them."""
    if scene.is_downloaded:
        return None
    if scene.deployment.spec.suspend:
        claim = scene.name_of("PersistentVolumeClaim", names.cache_claim(scene.name))
        return _finding(
            scene,
            reason=Reason.SUSPENDED,
            subject=claim,
            seen="spec.suspend is true: nothing is downloaded",
            remedy="",
            is_stalled=False,
        )
    return (
        job_waits(scene, scene.observed.weights, ConditionType.WEIGHTS_READY)
        or _container_failed(scene)
        or _downloading(scene)
    )


def _container_failed(scene: Scene) -> Finding | None:
    for pod in undone_pods(scene.observed.weights):
        for status in container_statuses(pod):
            end = _failure(status)
            if end is None:
                continue
            report = read_report(end.get("message", ""))
            if end.get("reason") == "OOMKilled":
                reason, words = Reason.OUT_OF_MEMORY, "it used more than its memory limit"
            else:
                reason = REASONS_OF_WEIGHTS.get(str(report.get("error")), Reason.DOWNLOAD_FAILED)
                words = str(report.get("message") or end.get("message") or f"exit code {end['exitCode']}").strip()
            first, *rest = words.splitlines() or [f"exit code {end['exitCode']}"]
            return _finding(
                scene,
                reason=reason,
                subject=scene.name_of("Pod", pod["metadata"]["name"]),
                seen=f"container {status['name']} ended: {first}",
                remedy=_remedy(scene, reason, status["name"]),
                evidence=tuple(rest),
            )
    return None


def _remedy(scene: Scene, reason: Reason, container: str) -> str:
    """Nobody can upload to a commit of the hub."""
    of_adapter = container.startswith(names.DOWNLOAD_ADAPTER_CONTAINER)
    sources = (files.source for files in cached_files(scene.deployment) if bool(files.adapter) == of_adapter)
    if reason is Reason.WEIGHTS_CORRUPT and any(isinstance(source, HuggingFaceSource) for source in sources):
        return "name a revision with complete weights, or correct allowPatterns and ignorePatterns"
    return _REMEDIES[reason]


def _downloading(scene: Scene) -> Finding:
    claim = scene.name_of("PersistentVolumeClaim", names.cache_claim(scene.name))
    if scene.observed.cache is None:
        seen = "the claim is being created"
    else:
        reports = [report for pod in undone_pods(scene.observed.weights) for report in _progress(pod)]
        has_pod = any(map(has_begun, undone_pods(scene.observed.weights)))
        began = "the download has begun" if has_pod else "the download has not begun yet"
        seen = _amount(scene, reports) if reports else began
        phase = scene.observed.cache.get("status", {}).get("phase")
        seen += f" (the claim's phase is {phase}, expected Bound)" if phase != "Bound" else ""
    return _finding(scene, reason=Reason.DOWNLOADING, subject=claim, seen=seen, remedy="", is_stalled=False)


def _amount(scene: Scene, reports: list[tuple[str, dict[str, Any]]]) -> str:
    container, report = reports[-1]
    if container.startswith(names.DOWNLOAD_ADAPTER_CONTAINER):
        adapters = sum(bool(files.adapter) for files in cached_files(scene.deployment))
        return f"{len(reports)} of {adapters} adapters are downloaded"
    done_bytes, total_bytes = report["doneBytes"], report["totalBytes"]
    percent = done_bytes * 100 // total_bytes if total_bytes else 100
    return f"{done_bytes / 2**30:.1f} of {total_bytes / 2**30:.1f} GiB ({percent} %) are downloaded"


def _progress(pod: JsonObject) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of the containers that ended well, in their order: the adapters', then the model's steps."""
    for status in container_statuses(pod):
        end = status.get("state", {}).get("terminated")
        if end and not end.get("exitCode"):
            report = read_report(end.get("message", ""))
            if all(_is_size(report.get(key)) for key in ("doneBytes", "totalBytes")):
                yield str(status["name"]), report


def _is_size(value: object) -> bool:
    """Whether it may be a number of bytes: a pod may report any."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _failure(status: JsonObject) -> JsonObject | None:
    """How a container's last try failed, if the next try has not begun."""
    state = status.get("state", {})
    end = state.get("terminated") or ("waiting" in state and status.get("lastState", {}).get("terminated"))
    return end if end and end.get("exitCode") else None


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
    jobs = names_of_undone_jobs(scene, scene.observed.weights)
    return Finding(
        condition=ConditionType.WEIGHTS_READY,
        reason=reason,
        subject=subject,
        seen=seen,
        remedy=remedy,
        evidence=(*jobs, subject, *evidence),
        is_stalled=is_stalled,
    )

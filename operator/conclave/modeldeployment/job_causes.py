"""What keeps a Job's pod from running: checks that the parts with Jobs share."""

from __future__ import annotations

from collections.abc import Iterator

from conclave.api.reasons import ConditionType
from conclave.finding import Finding
from conclave.kubernetes.events import JOB_FAILURE
from conclave.kubernetes.jobs import is_complete
from conclave.kubernetes.objects import JsonObject, is_owned_by
from conclave.kubernetes.pods import events_about, is_leaving
from conclave.modeldeployment import pod_causes
from conclave.modeldeployment.observed import Work
from conclave.modeldeployment.scene import Scene

_POD_CHECKS = (
    pod_causes.volume_not_mounted,
    pod_causes.image_not_pulled,
    pod_causes.container_not_created,
    pod_causes.unschedulable,
)


def job_waits(scene: Scene, work: Work, condition: ConditionType) -> Finding | None:
    """What the Job waits for, as a finding of this condition; None if its pod runs or has run."""
    found = _job_rejected(scene, work, condition) or _pod_waits(scene, work)
    return found and found.model_copy(update={"condition": condition})


def undone_pods(work: Work) -> Iterator[JsonObject]:
    """Pods of Jobs that have not succeeded yet."""
    undone = [job["metadata"].get("uid") for job in work.jobs if not is_complete(job)]
    for pod in work.pods:
        if any(is_owned_by(pod, uid) for uid in undone) and not is_leaving(pod):
            yield pod


def _job_rejected(scene: Scene, work: Work, condition: ConditionType) -> Finding | None:
    """The API server refused the Job's pod: quota, admission, priority class."""
    for job in work.jobs:
        events = events_about(scene.observed.events, job, JOB_FAILURE)
        if events and not work.pods:
            words = events[0].get("message", "")
            reason, remedy = pod_causes.rejection(
                words,
                quota="raise the namespace's quota",
                other="correct the setting that the message names",
            )
            subject = scene.name_of("Job", job["metadata"]["name"])
            return Finding(
                condition=condition,
                reason=reason,
                subject=subject,
                seen=f"the API server refuses its pod: {words}",
                remedy=remedy,
                evidence=(*names_of_undone_jobs(scene, work), subject),
            )
    return None


def _pod_waits(scene: Scene, work: Work) -> Finding | None:
    """The checks of the model's pods, on the Job's pods."""
    on_these = scene.model_copy(update={"pods": tuple(undone_pods(work))})
    return next((finding for check in _POD_CHECKS if (finding := check(on_these)) is not None), None)


def names_of_undone_jobs(scene: Scene, work: Work) -> tuple[str, ...]:
    """The names of Jobs that have not succeeded, as evidence of a finding."""
    return tuple(scene.name_of("Job", job["metadata"]["name"]) for job in work.jobs if not is_complete(job))

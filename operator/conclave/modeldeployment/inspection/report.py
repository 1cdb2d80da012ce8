"""Reads what the pod of an inspection Job reported: the model's config.json, or what is wrong with the files."""

from __future__ import annotations

from collections.abc import Iterator

from conclave import names
from conclave.api.reasons import Reason
from conclave.catalogue.inspected import read_report
from conclave.errors import InvalidInput
from conclave.finding import Finding
from conclave.kubernetes import reports
from conclave.kubernetes.jobs import is_complete
from conclave.kubernetes.objects import JsonObject, is_owned_by
from conclave.kubernetes.pods import ContainerState, ended_containers
from conclave.modeldeployment.inspection.job import inspection_key
from conclave.modeldeployment.inspection.source import files_of
from conclave.modeldeployment.part import Inspected, PartScene
from conclave.visible_text import one_line

_LONGEST_WORDS = 1500
_AGAIN = "the Job reads the weights again within five minutes"
_FAULTS = {
    "ConfigMissing": Reason.CONFIG_MISSING,
    "ConfigInvalid": Reason.CONFIG_INVALID,
    "ArchitectureUnknown": Reason.MODEL_REFUSED,
    "WeightsUnfit": Reason.WEIGHTS_CORRUPT,
    "WeightsUnreadable": Reason.WEIGHTS_UNREADABLE,
}
"""What is wrong with the files, by the kind that the report gives; all else is a trouble of the pod's."""


def inspect(scene: PartScene) -> Inspected:
    """What the Jobs of this deployment's weights have reported. Nothing is known of a model that is still read."""
    if not scene.needs_inspection or not scene.is_downloaded:
        return Inspected()
    jobs = jobs_of(scene)
    done = next(filter(is_complete, jobs), None)
    if done is None:
        return Inspected(refusal=next(filter(None, (_fault_of(scene, job) for job in jobs)), None))
    pods = _pods(scene, done)
    report = next((end.message for end in _ends(pods) if not end.exit_code), None)
    if report is None:
        is_over = all(pod.get("status", {}).get("phase") in ("Succeeded", "Failed") for pod in pods)
        return Inspected(job=done, is_lost=is_over)
    try:
        return Inspected(weights=read_report(report), job=done)
    except InvalidInput as error:
        where = scene.name_of("Job", done["metadata"]["name"])
        remedy = "delete the Job, and the operator inspects the weights again"
        return Inspected(refusal=_refusal(scene, Reason.CONFIG_INVALID, where, str(error), remedy), job=done)


def jobs_of(scene: PartScene) -> list[JsonObject]:
    """The Jobs that inspect these weights, whichever builder made them."""
    key = inspection_key(scene.deployment, scene.observed.cache)
    jobs = scene.observed.inspection.jobs
    return [job for job in jobs if job["metadata"]["labels"].get(names.INSPECTION_KEY) == key]


def _fault_of(scene: PartScene, job: JsonObject) -> Finding | None:
    """What the last try found wrong with the files; it counts until a try finds them right."""
    for end in _ends(_pods(scene, job)):
        report = reports.read_report(end.message) if end.exit_code else {}
        reason = _FAULTS.get(str(report.get("error")))
        if reason is not None:
            return _refusal(scene, reason, files_of(scene.deployment), str(report.get("message", "")), _AGAIN)
    return None


def _refusal(scene: PartScene, reason: Reason, where: str, words: str, remedy: str) -> Finding:
    """A pod's words are cut and cleaned: they end up in a status."""
    return scene.refuse(reason, f"{where}: {one_line(words, _LONGEST_WORDS).strip()}", remedy)


def _pods(scene: PartScene, job: JsonObject) -> list[JsonObject]:
    """The Job's pods, without those of an earlier Job of the same name."""
    return [pod for pod in scene.observed.inspection.pods if is_owned_by(pod, job["metadata"].get("uid"))]


def _ends(pods: list[JsonObject]) -> Iterator[ContainerState]:
    """How the containers that inspect ended, now or before their last restart."""
    for pod in pods:
        yield from (end for end in ended_containers(pod) if end.name == names.INSPECTION_CONTAINER)

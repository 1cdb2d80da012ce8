"""What is known of the weights of a model that the catalogue does not know, and what has to exist to know it.

Called by `decision`; `status` takes from it where the weights are. A Job that is done for these weights counts,
whichever builder made it; what its pod wrote is believed as far as `catalogue.inspected` and the readers let it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import Reason
from conclave.catalogue.inspected import LONGEST_REPORT_BYTES, InspectedWeights, read_report
from conclave.catalogue.models import find_model
from conclave.errors import InvalidInput
from conclave.kubernetes.text import one_line
from conclave.manifests import names
from conclave.manifests.inspection_job import build_inspection_job, build_inspection_policy, inspection_key
from conclave.manifests.settings import OperatorSettings
from conclave.manifests.weights import find_download
from conclave.manifests.weights_job import is_complete, keep_working
from conclave.observation import JsonObject, Observed, Refusal

_LONGEST_WORDS = 1500
_AGAIN = "it is looked at again, at the latest after five minutes"
_FAULTS = {
    "ConfigMissing": Reason.CONFIG_MISSING,
    "ConfigInvalid": Reason.CONFIG_INVALID,
    "ArchitectureUnknown": Reason.MODEL_REFUSED,
    "WeightsUnfit": Reason.WEIGHTS_CORRUPT,
    "WeightsUnreadable": Reason.WEIGHTS_UNREADABLE,
}
"""What is wrong with the files, by the kind that the report gives; all else is a trouble of the pod's."""


class InspectionPlan(NamedTuple):
    """Without weights and without refusal, a plan has to wait."""

    weights: InspectedWeights | None = None
    refusal: Refusal | None = None
    create: tuple[JsonObject, ...] = ()
    apply: tuple[JsonObject, ...] = ()
    delete: tuple[JsonObject, ...] = ()


def needs_inspection(deployment: ModelDeployment) -> bool:
    """Whether only the weights themselves say what the model is."""
    model = deployment.spec.model
    return model.config_ref is None and find_model(model.id) is None


def plan_inspection(deployment: ModelDeployment, observed: Observed, settings: OperatorSettings) -> InspectionPlan:
    """The Job waits for its policy, so that no pod of it can reach anybody, and for what is downloaded first."""
    if not needs_inspection(deployment) or not _is_there(deployment, observed):
        return InspectionPlan(delete=observed.inspection_jobs)
    policy, key = build_inspection_policy(deployment), inspection_key(deployment, observed.cache)
    ours = [job for job in observed.inspection_jobs if job["metadata"]["labels"].get(names.INSPECTION_KEY) == key]
    done = next((job for job in ours if is_complete(job)), None)
    if done is not None:
        found = _read(deployment, observed, done)
        return found._replace(apply=(policy,), delete=(*_others(observed, done), *found.delete))
    if deployment.spec.suspend:
        return InspectionPlan(apply=(policy,), delete=observed.inspection_jobs)
    job = keep_working(ours, observed.inspection_pods, lambda of: build_inspection_job(deployment, of, key), settings)
    made = next((other for other in ours if other["metadata"]["name"] == job["metadata"]["name"]), None)
    is_closed = any(item["metadata"]["name"] == policy["metadata"]["name"] for item in observed.network_policies)
    return InspectionPlan(
        refusal=_fault(deployment, observed, made) if made else None,
        create=(job,) if is_closed and not made else (),
        apply=(policy,),
        delete=_others(observed, job),
    )


def files_of(deployment: ModelDeployment) -> str:
    """Where the weights are, for messages."""
    source, namespace = deployment.spec.model.source, deployment.metadata.namespace
    if source.object_store is not None:
        claim = names.cache_claim(deployment.metadata.name)
        return f"PersistentVolumeClaim {namespace}/{claim}, filled from {source.object_store.uri}"
    if source.image is not None:
        where, path = f"image {source.image.reference}", source.image.path
    else:
        claimed = source.persistent_volume_claim
        name, path = (claimed.claim_name, claimed.path) if claimed else ("", "")
        where = f"PersistentVolumeClaim {namespace}/{name}"
    return f"{where}, path {path}" if path else where


def _is_there(deployment: ModelDeployment, observed: Observed) -> bool:
    """Whether pods can mount the weights."""
    return deployment.spec.model.source.object_store is None or find_download(deployment, observed) is not None


def _others(observed: Observed, wanted: JsonObject) -> tuple[JsonObject, ...]:
    return tuple(job for job in observed.inspection_jobs if job["metadata"]["name"] != wanted["metadata"]["name"])


def _read(deployment: ModelDeployment, observed: Observed, job: JsonObject) -> InspectionPlan:
    """Of a Job that is done. A pod that went, as its node did, took the report along: then it is made again."""
    pods = _pods(observed, job)
    report = next((message for end, message in _ends(pods) if not end.get("exitCode")), None)
    if report is None:
        is_over = all(pod.get("status", {}).get("phase") in ("Succeeded", "Failed") for pod in pods)
        return InspectionPlan(delete=(job,) if is_over else ())
    try:
        return InspectionPlan(weights=read_report(report))
    except InvalidInput as error:
        where = f"Job {deployment.metadata.namespace}/{job['metadata']['name']}"
        remedy = "delete the Job, and the weights are inspected again"
        return InspectionPlan(refusal=_refusal(Reason.CONFIG_INVALID, where, str(error), remedy))


def _fault(deployment: ModelDeployment, observed: Observed, job: JsonObject) -> Refusal | None:
    """What the last try found wrong with the files; it stays until one finds them right."""
    for end, message in _ends(_pods(observed, job)):
        report = _read_fault(message) if end.get("exitCode") else {}
        reason = _FAULTS.get(str(report.get("error")))
        if reason is not None:
            return _refusal(reason, files_of(deployment), str(report.get("message", "")), _AGAIN)
    return None


def _read_fault(message: str) -> dict[str, object]:
    try:
        report = json.loads(message[:LONGEST_REPORT_BYTES])
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _refusal(reason: Reason, where: str, words: str, remedy: str) -> Refusal:
    """A pod's words are cut and cleaned: they end up in a status."""
    shown = one_line(words, _LONGEST_WORDS).strip()
    return Refusal(reason=reason, message=f"{where}: {shown}; {remedy}")


def _pods(observed: Observed, job: JsonObject) -> list[JsonObject]:
    """Not those of an earlier Job of the same name."""
    uid = job["metadata"].get("uid")
    return [
        pod
        for pod in observed.inspection_pods
        if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences", []))
    ]


def _ends(pods: list[JsonObject]) -> Iterator[tuple[JsonObject, str]]:
    """How the containers ended, now or before they were started again, and their messages."""
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses", []):
            ends = (status.get(state, {}).get("terminated") for state in ("state", "lastState"))
            end = next(filter(None, ends), None)
            if end and status.get("name") == names.INSPECTION_CONTAINER:
                yield end, end.get("message", "")

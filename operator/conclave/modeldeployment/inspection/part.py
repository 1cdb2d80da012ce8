"""The part that reads the config.json of a model that the catalogue does not know, from the model's own weights.

A Job that has succeeded for these weights counts, whichever builder made it. The operator believes what the Job's pod
wrote only as far as `catalogue.inspected` and the readers allow.
"""

from __future__ import annotations

from typing import NamedTuple

from conclave import names
from conclave.catalogue.inspected import InspectedWeights
from conclave.finding import Finding
from conclave.kubernetes.jobs import is_complete
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.inspection.causes import not_inspected
from conclave.modeldeployment.inspection.job import build_inspection_job, build_inspection_policy, inspection_key
from conclave.modeldeployment.inspection.report import fault_of, read_weights
from conclave.modeldeployment.inspection.source import needs_inspection
from conclave.modeldeployment.jobs import keep_working
from conclave.modeldeployment.part import PartResult, PartScene


class Inspection(NamedTuple):
    """What the weights themselves say of the model. Without weights and without refusal, the plan has to wait."""

    result: PartResult = PartResult()
    weights: InspectedWeights | None = None
    refusal: Finding | None = None
    """The files are there and no model can be planned from them."""


def needs(scene: PartScene) -> Inspection:
    """The Job and its policy. The Job waits for the policy, so that its pod reaches nobody, and for a download."""
    deployment, work = scene.deployment, scene.observed.inspection
    if not needs_inspection(deployment):
        return Inspection(PartResult(delete=work.jobs))
    if not scene.is_downloaded:
        return Inspection(PartResult(blocked_by=not_inspected(scene), delete=work.jobs))
    policy, key = build_inspection_policy(deployment), inspection_key(deployment, scene.observed.cache)
    ours = [job for job in work.jobs if job["metadata"]["labels"].get(names.INSPECTION_KEY) == key]
    done = next((job for job in ours if is_complete(job)), None)
    if done is not None:
        return _read(scene, done, policy)
    result = PartResult(blocked_by=not_inspected(scene), apply=(policy,))
    if deployment.spec.suspend:
        return Inspection(result._replace(delete=work.jobs))
    job = keep_working(ours, work.pods, lambda of: build_inspection_job(deployment, of, key), scene.settings)
    made = next((other for other in ours if other["metadata"]["name"] == job["metadata"]["name"]), None)
    is_closed = any(item["metadata"]["name"] == policy["metadata"]["name"] for item in scene.observed.network_policies)
    create = (job,) if is_closed and not made else ()
    refusal = fault_of(scene, made) if made else None
    return Inspection(result._replace(create=create, delete=work.others(job)), refusal=refusal)


def _read(scene: PartScene, done: JsonObject, policy: JsonObject) -> Inspection:
    """Of a Job that has succeeded. A pod that is gone took the report along: then the Job is made again."""
    others = scene.observed.inspection.others(done)
    read = read_weights(scene, done)
    if read.is_lost:
        others = (*others, done)
    blocked_by = None if read.weights or read.refusal else not_inspected(scene)
    return Inspection(PartResult(blocked_by, apply=(policy,), delete=others), read.weights, read.refusal)

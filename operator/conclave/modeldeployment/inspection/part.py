"""The part that reads the config.json of a model that the catalogue does not know, from the model's own weights.

A Job that has succeeded for these weights counts, whichever builder made it.
"""

from __future__ import annotations

from conclave.modeldeployment.inspection.causes import not_inspected
from conclave.modeldeployment.inspection.job import build_inspection_job, build_inspection_policy, inspection_key
from conclave.modeldeployment.inspection.report import jobs_of
from conclave.modeldeployment.jobs import keep_working
from conclave.modeldeployment.part import PartResult, PartScene


def needs(scene: PartScene) -> PartResult:
    """The Job and its policy. The Job waits for the download, and for the policy, so that its pod can reach nobody."""
    deployment, work, inspected = scene.deployment, scene.observed.inspection, scene.inspected
    if not scene.needs_inspection:
        return PartResult(delete=work.jobs)
    is_waiting = scene.plan is None and scene.refusal is None
    blocked_by = not_inspected(scene) if is_waiting else None
    if not scene.is_downloaded:
        return PartResult(blocked_by, delete=work.jobs)
    policy = build_inspection_policy(deployment)
    if inspected.job is not None:
        lost = (inspected.job,) if inspected.is_lost else ()
        return PartResult(blocked_by, apply=(policy,), delete=(*work.others(inspected.job), *lost))
    if deployment.spec.suspend:
        return PartResult(blocked_by, apply=(policy,), delete=work.jobs)
    key, ours = inspection_key(deployment, scene.observed.cache), jobs_of(scene)
    job = keep_working(ours, work.pods, lambda of: build_inspection_job(deployment, of, key), scene.settings)
    is_made = any(other["metadata"]["name"] == job["metadata"]["name"] for other in ours)
    is_closed = any(item["metadata"]["name"] == policy["metadata"]["name"] for item in scene.observed.network_policies)
    create = (job,) if is_waiting and is_closed and not is_made else ()
    return PartResult(blocked_by, create=create, apply=(policy,), delete=work.others(job))

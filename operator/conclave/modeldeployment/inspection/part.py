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
    is_known = scene.plan is not None or inspected.weights is not None or inspected.refusal is not None
    blocked_by = None if is_known else not_inspected(scene)
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
    create = (job,) if is_closed and not is_made and not is_known else ()
    return PartResult(blocked_by, create=create, apply=(policy,), delete=work.others(job))

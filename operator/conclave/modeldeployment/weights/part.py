"""The part that fetches weights and adapters of stores and hubs into the deployment's cache, once for all replicas.

A download Job that has succeeded for these weights and this claim counts, whichever builder made the Job.
"""

from __future__ import annotations

from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.jobs import keep_working
from conclave.modeldeployment.part import PartResult, PartScene
from conclave.modeldeployment.weights.cache import build_cache_claim, build_download_policy
from conclave.modeldeployment.weights.causes import not_downloaded
from conclave.modeldeployment.weights.job import build_download_job
from conclave.modeldeployment.weights.keys import download_key, is_for
from conclave.settings import OperatorSettings


def needs(scene: PartScene) -> PartResult:
    """The claim, the policy and the Job. A volume of one node has to be where the accelerators of the plan are; before
    there is a plan, where the deployment's own selector puts it.

    The Job waits for the claim, whose UID is part of the Job's name: a claim made anew is empty.
    """
    deployment, work, settings = scene.deployment, scene.observed.weights, scene.settings
    cache = deployment.spec.model.cache
    if cache is None:
        return PartResult(delete=work.jobs)
    result = PartResult(
        blocked_by=not_downloaded(scene),
        apply=(build_download_policy(deployment, settings), build_cache_claim(deployment, cache)),
    )
    if scene.observed.cache is None:
        return result
    done = scene.download
    if done is not None:
        return result._replace(delete=work.others(done))
    if deployment.spec.suspend:
        return result._replace(delete=work.jobs)
    key, claim_uid = download_key(deployment), scene.observed.cache["metadata"]["uid"]
    own_keys = {"", scene.keys.weights_key, *scene.keys.adapter_keys}
    used_keys = (scene.current.weights_key, *scene.current.adapter_keys) if scene.current else ()
    kept = tuple(used for used in used_keys if used not in own_keys)
    roles = scene.plan.roles if scene.plan else ()

    def build(of: OperatorSettings) -> JsonObject:
        return build_download_job(deployment, cache, roles, of, claim_uid=claim_uid, kept_keys=kept)

    job = keep_working(work.jobs, work.pods, build, settings)
    is_there = any(
        other["metadata"]["name"] == job["metadata"]["name"] and is_for(other, key, claim_uid) for other in work.jobs
    )
    return result._replace(create=() if is_there else (job,), delete=work.others(job))

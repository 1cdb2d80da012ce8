"""Whether an object store's weights are in the cache, and what has to exist so that they get there.

Called by `decision`. A download Job that is done for these weights and this claim counts, whichever builder made it.
"""

from __future__ import annotations

from typing import NamedTuple

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.plan import Plan
from conclave.manifests.settings import OperatorSettings
from conclave.manifests.weights_cache import build_cache_claim, build_download_policy, weights_key
from conclave.manifests.weights_job import build_download_job, is_complete, is_for, keep_working
from conclave.observation import JsonObject, Observed


class WeightsPlan(NamedTuple):
    """Ready means that pods may mount them; where nothing is downloaded they are."""

    is_ready: bool
    create: tuple[JsonObject, ...] = ()
    apply: tuple[JsonObject, ...] = ()
    delete: tuple[JsonObject, ...] = ()


def plan_weights(
    deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, plan: Plan | None, used_key: str
) -> WeightsPlan:
    """`used_key` is the directory that the pods of the recorded build mount, empty where there is none.

    The Job waits for the claim, which its name is made of: a claim made anew is empty.
    """
    store, cache = deployment.spec.model.source.object_store, deployment.spec.model.cache
    if store is None or cache is None:
        return WeightsPlan(is_ready=True, delete=observed.jobs)
    objects = (build_download_policy(deployment, store, settings), build_cache_claim(deployment, cache))
    if observed.cache is None:
        return WeightsPlan(is_ready=False, apply=objects)
    key, claim_uid = weights_key(deployment), observed.cache["metadata"]["uid"]
    done = find_download(deployment, observed)
    if done is not None:
        return WeightsPlan(is_ready=True, apply=objects, delete=_others(observed, done))
    if deployment.spec.suspend:
        return WeightsPlan(is_ready=False, apply=objects, delete=observed.jobs)
    kept = (used_key,) if used_key not in ("", key) else ()

    def build(of: OperatorSettings) -> JsonObject:
        return build_download_job(deployment, store, cache, plan, of, claim_uid=claim_uid, kept_keys=kept)

    job = keep_working(observed.jobs, observed.weights_pods, build, settings)
    is_there = any(
        other["metadata"]["name"] == job["metadata"]["name"] and is_for(other, key, claim_uid)
        for other in observed.jobs
    )
    return WeightsPlan(is_ready=False, create=() if is_there else (job,), apply=objects, delete=_others(observed, job))


def find_download(deployment: ModelDeployment, observed: Observed) -> JsonObject | None:
    """The Job that has put these weights into this claim, once it is done."""
    if observed.cache is None:
        return None
    key, claim_uid = weights_key(deployment), observed.cache["metadata"]["uid"]
    return next((job for job in observed.jobs if is_for(job, key, claim_uid) and is_complete(job)), None)


def _others(observed: Observed, wanted: JsonObject) -> tuple[JsonObject, ...]:
    return tuple(job for job in observed.jobs if job["metadata"]["name"] != wanted["metadata"]["name"])

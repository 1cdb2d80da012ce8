"""Which directory of the cache holds a deployment's weights: a hash of what the store is asked for.

Another address or another digest never meets the old files.
"""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import ModelDeployment, PersistentVolumeClaimSource
from conclave.kubernetes.jobs import is_complete
from conclave.kubernetes.objects import JsonObject, content_hash
from conclave.modeldeployment.observed import Observed


def weights_key(deployment: ModelDeployment) -> str:
    """Of what the store is asked for; credentials and region are no part of it. Empty where nothing is downloaded."""
    store = deployment.spec.model.source.object_store
    if store is None:
        return ""
    return content_hash([store.uri, store.endpoint, deployment.spec.model.digest])[:16]


def cached_source(deployment: ModelDeployment) -> PersistentVolumeClaimSource | None:
    """The weights as the model's pods mount them, None where they are not downloaded."""
    key = weights_key(deployment)
    if not key:
        return None
    return PersistentVolumeClaimSource(claim_name=names.cache_claim(deployment.metadata.name), path=key)


def is_for(job: JsonObject, key: str, claim_uid: str) -> bool:
    """Whether the Job fetches these weights into this claim."""
    found = job["metadata"]
    return bool(
        found.get("labels", {}).get(names.WEIGHTS_KEY) == key
        and found.get("annotations", {}).get(names.CLAIM_UID) == claim_uid
    )


def find_download(deployment: ModelDeployment, observed: Observed) -> JsonObject | None:
    """The Job that has put these weights into this claim, once it has succeeded, whichever builder made it."""
    if observed.cache is None:
        return None
    key, claim_uid = weights_key(deployment), observed.cache["metadata"]["uid"]
    return next((job for job in observed.weights.jobs if is_for(job, key, claim_uid) and is_complete(job)), None)

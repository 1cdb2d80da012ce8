"""What is downloaded into the cache, and which directory holds it: a hash of what the store or the hub is asked for.

Another address, another commit or another digest never meets the old files.
"""

from __future__ import annotations

from typing import NamedTuple

from conclave import names
from conclave.api.modeldeployment import (
    AdapterSource,
    Downloaded,
    HuggingFaceSource,
    ModelDeployment,
    PersistentVolumeClaimSource,
)
from conclave.kubernetes.jobs import is_complete
from conclave.kubernetes.objects import JsonObject, content_hash
from conclave.modeldeployment.observed import Observed


class CachedFiles(NamedTuple):
    """A directory of the cache."""

    key: str
    """Its name."""
    source: Downloaded
    digest: str | None
    adapter: str = ""
    """The adapter's name; empty for the model."""


def cached_files(deployment: ModelDeployment) -> tuple[CachedFiles, ...]:
    """What the download Job fetches, each directory once: of the adapters in their order, then of the model."""
    model = deployment.spec.model
    wanted = [(adapter.source.downloaded, adapter.digest, adapter.name) for adapter in model.adapters]
    wanted.append((model.source.downloaded, model.digest, ""))
    found: dict[str, CachedFiles] = {}
    for source, digest, adapter in wanted:
        if source is not None:
            key = _key(source, digest)
            found[key] = CachedFiles(key, source, digest, adapter)
    return tuple(found.values())


def _key(source: Downloaded, digest: str | None) -> str:
    """Of what is asked for; credentials and region are no part of it."""
    asked: list[object] = [source.uri, source.endpoint, digest]
    if isinstance(source, HuggingFaceSource):
        asked += [source.allow_patterns, source.ignore_patterns]
    return content_hash(asked)[:16]


def weights_key(deployment: ModelDeployment) -> str:
    """The directory of the model's weights. Empty where they are not downloaded."""
    model = deployment.spec.model
    return _key(model.source.downloaded, model.digest) if model.source.downloaded else ""


def adapter_keys(deployment: ModelDeployment) -> tuple[str, ...]:
    """The directories of the adapters that are downloaded."""
    adapters = deployment.spec.model.adapters
    found = (_key(each.source.downloaded, each.digest) for each in adapters if each.source.downloaded)
    return tuple(dict.fromkeys(found))


def download_key(deployment: ModelDeployment) -> str:
    """Of everything that is downloaded: the label of the Job. The model's own key where that is all."""
    adapters = adapter_keys(deployment)
    return content_hash([weights_key(deployment), *adapters])[:16] if adapters else weights_key(deployment)


def cached_source(
    deployment: ModelDeployment, source: AdapterSource, digest: str | None
) -> PersistentVolumeClaimSource | None:
    """Downloaded files as the model's pods mount them, None where they are not downloaded."""
    if source.downloaded is None:
        return None
    claim = names.cache_claim(deployment.metadata.name)
    return PersistentVolumeClaimSource(claim_name=claim, path=_key(source.downloaded, digest))


def is_for(job: JsonObject, key: str, claim_uid: str) -> bool:
    """Whether the Job fetches what this key stands for into this claim."""
    found = job["metadata"]
    return bool(
        found.get("labels", {}).get(names.WEIGHTS_KEY) == key
        and found.get("annotations", {}).get(names.CLAIM_UID) == claim_uid
    )


def find_download(deployment: ModelDeployment, observed: Observed) -> JsonObject | None:
    """The Job that has put everything into this claim, once it has succeeded, whichever builder made it."""
    if observed.cache is None:
        return None
    key, claim_uid = download_key(deployment), observed.cache["metadata"]["uid"]
    return next((job for job in observed.weights.jobs if is_for(job, key, claim_uid) and is_complete(job)), None)

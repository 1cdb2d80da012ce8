"""The Job that downloads weights and adapters into the cache claim, once for all replicas, before any engine starts.

Its pod holds no Kubernetes token, so the pod reports progress by ending containers: the model's download is cut into
init containers, each of which ends at so many percent (docs/adr/0009). A Job that was deleted is made again; the new
one compares the files with the digest and fetches only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from conclave import names
from conclave.api.modeldeployment import (
    Cache,
    Downloaded,
    HuggingFaceSource,
    ModelDeployment,
    ObjectStoreSource,
)
from conclave.kubernetes.job_builder import build_job, job_pod, job_spec, reporting_container
from conclave.kubernetes.objects import JsonObject, content_hash, without_empty
from conclave.kubernetes.reports import REPORT_PATH
from conclave.modeldeployment.objects import metadata
from conclave.modeldeployment.outside import certificate_mounts, certificate_volumes, outside_environment
from conclave.modeldeployment.pods import SCRATCH_MOUNTS, for_job, image, job_placement, pull_secrets
from conclave.modeldeployment.weights.cache import size_gib, source_url
from conclave.modeldeployment.weights.keys import CachedFiles, cached_files, download_key
from conclave.planning.roles import Role
from conclave.settings import OperatorSettings

STEP_GIB, MOST_STEPS = 8, 10
"""Progress is reported in tenths; for small caches in fewer steps, since a step takes a second of its own."""
_STORE_CREDENTIALS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
_HUB_CREDENTIALS = {"HF_TOKEN": False}
"""Keys of the Secret, and whether the key may be absent."""


def build_download_job(
    deployment: ModelDeployment,
    cache: Cache,
    roles: Sequence[Role],
    settings: OperatorSettings,
    *,
    claim_uid: str,
    kept_keys: tuple[str, ...],
) -> JsonObject:
    """`roles` are those of the plan, for a volume of one node; `claim_uid` is the cache claim's; `kept_keys` are
    the directories that running pods still need.
    """
    spec = job_spec(
        names.weights_pod_labels(deployment.metadata.name),
        _pod(deployment, cache, roles, settings, kept_keys),
    )
    name = names.weights_job(deployment.metadata.name, content_hash([spec, claim_uid]))
    described = metadata(deployment, name, "weights", {names.CLAIM_UID: claim_uid})
    return build_job(described, {names.WEIGHTS_KEY: download_key(deployment)}, for_job(deployment, spec))


def _pod(
    deployment: ModelDeployment,
    cache: Cache,
    roles: Sequence[Role],
    settings: OperatorSettings,
    kept_keys: tuple[str, ...],
) -> JsonObject:
    is_on_one_node = cache.access_mode == "ReadWriteOnce"
    claim = {"claimName": names.cache_claim(deployment.metadata.name)}
    return job_pod(
        list(_containers(deployment, cache, settings, kept_keys)),
        [
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": names.CACHE_VOLUME, "persistentVolumeClaim": claim},
            *certificate_volumes(settings),
        ],
        # A volume of one node, or of one zone, has to be where the accelerators are.
        job_placement(deployment, roles if is_on_one_node else ()),
        has_fixed_ids=settings.fixed_user_ids,
        imagePullSecrets=pull_secrets(deployment, settings),
        priorityClassName=deployment.spec.runtime.priority_class_name,
    )


def download_steps(cache_size: str) -> tuple[int, ...]:
    """The percents at which a container ends; the last one is 100."""
    count = min(max(int(size_gib(cache_size) / STEP_GIB), 1), MOST_STEPS)
    return tuple(100 * step // count for step in range(1, count + 1))


def _containers(
    deployment: ModelDeployment, cache: Cache, settings: OperatorSettings, kept_keys: tuple[str, ...]
) -> Iterator[JsonObject]:
    """One for each adapter, which is small, and then one for each step of the model."""
    everything = cached_files(deployment)
    own_keys = tuple(files.key for files in reversed(everything))
    for number, files in enumerate(everything, 1):
        for percent in (100,) if files.adapter else download_steps(cache.size):
            name = f"{names.DOWNLOAD_CONTAINER}-{percent}" if percent < 100 else names.DOWNLOAD_CONTAINER
            if files.adapter:
                name = f"{names.DOWNLOAD_ADAPTER_CONTAINER}-{number}"
            yield _container(name, deployment, files, settings, (*own_keys, *kept_keys), percent)


def _container(
    name: str,
    deployment: ModelDeployment,
    files: CachedFiles,
    settings: OperatorSettings,
    keys: tuple[str, ...],
    percent: int,
) -> JsonObject:
    source = files.source
    options = {
        "--until-percent": str(percent),
        "--report": REPORT_PATH,
        "--endpoint": source.endpoint,
        "--region": source.region if isinstance(source, ObjectStoreSource) else None,
        "--digest": files.digest,
    }
    arguments = [part for option, value in options.items() if value for part in (option, value)]
    if isinstance(source, HuggingFaceSource):
        arguments += [part for pattern in source.allow_patterns for part in ("--include", pattern)]
        arguments += [part for pattern in source.ignore_patterns for part in ("--exclude", pattern)]
    arguments += [part for key in keys for part in ("--keep", key)]
    return reporting_container(
        name,
        image(deployment, settings),
        ["python", "-m", "conclave_weights", "download", *arguments, source.uri, f"{names.CACHE_PATH}/{files.key}"],
        **without_empty(
            {
                "env": [
                    *_credentials(source),
                    *outside_environment(source_url(source), deployment.metadata.namespace, settings),
                ]
            }
        ),
        resources={"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "4", "memory": "2Gi"}},
        volumeMounts=[
            SCRATCH_MOUNTS[0],
            {"name": names.CACHE_VOLUME, "mountPath": names.CACHE_PATH},
            *certificate_mounts(settings),
        ],
    )


def _credentials(source: Downloaded) -> list[JsonObject]:
    if source.secret_name is None:
        return []
    keys = _STORE_CREDENTIALS if isinstance(source, ObjectStoreSource) else _HUB_CREDENTIALS
    return [_credential(source.secret_name, key, is_optional) for key, is_optional in keys.items()]


def _credential(secret: str, key: str, is_optional: bool) -> JsonObject:
    reference: JsonObject = {"name": secret, "key": key}
    return {"name": key, "valueFrom": {"secretKeyRef": reference | ({"optional": True} if is_optional else {})}}

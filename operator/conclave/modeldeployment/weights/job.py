"""The Job that downloads weights into the cache claim, once for all replicas, before any engine starts.

Its pod holds no Kubernetes token, so the pod reports progress by ending containers: the download is cut into init
containers, each of which ends at so many percent (docs/adr/0009). A Job that was deleted is made again; the new one
compares the files with the digest and fetches only what is missing.
"""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import Cache, ModelDeployment, ObjectStoreSource
from conclave.kubernetes.job_builder import build_job, job_pod, job_spec, reporting_container
from conclave.kubernetes.objects import JsonObject, content_hash
from conclave.kubernetes.reports import REPORT_PATH
from conclave.modeldeployment.objects import metadata
from conclave.modeldeployment.pods import SCRATCH_MOUNTS, for_job, image, job_placement, pull_secrets
from conclave.modeldeployment.weights.cache import size_gib
from conclave.modeldeployment.weights.keys import weights_key
from conclave.settings import OperatorSettings

STEP_GIB, MOST_STEPS = 8, 10
"""Progress is reported in tenths; for small caches in fewer steps, since a step takes a second of its own."""
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
"""Keys of the Secret, and whether the key may be absent."""


def build_download_job(
    deployment: ModelDeployment,
    store: ObjectStoreSource,
    cache: Cache,
    accelerators: tuple[str, ...],
    settings: OperatorSettings,
    *,
    claim_uid: str,
    kept_keys: tuple[str, ...],
) -> JsonObject:
    """`accelerators` are those of the plan, for a volume of one node; `claim_uid` is the cache claim's; `kept_keys` are
    the weights that running pods still need.
    """
    spec = job_spec(
        names.weights_pod_labels(deployment.metadata.name),
        _pod(deployment, store, cache, accelerators, settings, kept_keys),
    )
    name = names.weights_job(deployment.metadata.name, content_hash([spec, claim_uid]))
    described = metadata(deployment, name, "weights", {names.CLAIM_UID: claim_uid})
    return build_job(described, {names.WEIGHTS_KEY: weights_key(deployment)}, for_job(deployment, spec))


def _pod(
    deployment: ModelDeployment,
    store: ObjectStoreSource,
    cache: Cache,
    accelerators: tuple[str, ...],
    settings: OperatorSettings,
    kept_keys: tuple[str, ...],
) -> JsonObject:
    is_on_one_node = cache.access_mode == "ReadWriteOnce"
    claim = {"claimName": names.cache_claim(deployment.metadata.name)}
    return job_pod(
        [_container(deployment, store, settings, kept_keys, percent) for percent in download_steps(cache.size)],
        [
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": names.CACHE_VOLUME, "persistentVolumeClaim": claim},
        ],
        # A volume of one node, or of one zone, has to be where the accelerators are.
        job_placement(deployment, accelerators if is_on_one_node else ()),
        imagePullSecrets=pull_secrets(deployment, settings),
        priorityClassName=deployment.spec.runtime.priority_class_name,
    )


def download_steps(cache_size: str) -> tuple[int, ...]:
    """The percents at which a container ends; the last one is 100."""
    count = min(max(int(size_gib(cache_size) / STEP_GIB), 1), MOST_STEPS)
    return tuple(100 * step // count for step in range(1, count + 1))


def _container(
    deployment: ModelDeployment,
    store: ObjectStoreSource,
    settings: OperatorSettings,
    kept_keys: tuple[str, ...],
    percent: int,
) -> JsonObject:
    name = names.DOWNLOAD_CONTAINER
    options = {
        "--until-percent": str(percent),
        "--report": REPORT_PATH,
        "--endpoint": store.endpoint,
        "--region": store.region,
        "--digest": deployment.spec.model.digest,
    }
    key = weights_key(deployment)
    arguments = [part for option, value in options.items() if value for part in (option, value)]
    arguments += [part for kept in (key, *kept_keys) for part in ("--keep", kept)]
    return reporting_container(
        name if percent == 100 else f"{name}-{percent}",
        image(deployment, settings),
        ["python", "-m", "conclave_weights", "download", *arguments, store.uri, f"{names.CACHE_PATH}/{key}"],
        env=[_credential(store.secret_name, key, is_optional) for key, is_optional in _CREDENTIALS.items()],
        resources={"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "4", "memory": "2Gi"}},
        volumeMounts=[SCRATCH_MOUNTS[0], {"name": names.CACHE_VOLUME, "mountPath": names.CACHE_PATH}],
    )


def _credential(secret: str, key: str, is_optional: bool) -> JsonObject:
    reference: JsonObject = {"name": secret, "key": key}
    return {"name": key, "valueFrom": {"secretKeyRef": reference | ({"optional": True} if is_optional else {})}}

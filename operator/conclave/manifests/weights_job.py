"""The Job that downloads weights into the cache claim, once for all replicas, before an engine is thought of.

Its pod holds no Kubernetes token, so it tells how far it is by ending: the download is cut into init containers, each
of which ends at so many percent (docs/adr/0009). It is created once under a name made of its content, and kept: a Job
that is gone is made again, compares what is there with the digest, and fetches nothing where that is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from conclave.api.modeldeployment import Cache, ModelDeployment, ObjectStoreSource
from conclave.api.plan import Plan
from conclave.manifests import names
from conclave.manifests.objects import content_hash, metadata, without_empty
from conclave.manifests.pods import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    SCRATCH_MOUNTS,
    image,
    placement,
    pull_secrets,
)
from conclave.manifests.settings import OperatorSettings
from conclave.manifests.weights_cache import size_gib, weights_key
from conclave.observation import JsonObject

FOREVER = 2**31 - 1
"""Tries: the kubelet waits longer and longer between them, up to five minutes, and goes on once the cause is gone."""
STEP_GIB, MOST_STEPS = 8, 10
"""Progress is told in tenths, but for small caches: a step takes a second of its own."""
_BEFORE_A_START = ("", "PodInitializing", "ContainerCreating")
"""Why a container waits that nothing is wrong with."""
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}
"""Keys of the Secret, and whether one may be absent."""


def build_download_job(
    deployment: ModelDeployment,
    store: ObjectStoreSource,
    cache: Cache,
    plan: Plan | None,
    settings: OperatorSettings,
    *,
    claim_uid: str,
    kept_keys: tuple[str, ...],
) -> JsonObject:
    """`claim_uid` is the cache claim's; `kept_keys` are the weights that running pods still need."""
    key = weights_key(deployment)
    spec: JsonObject = {
        "backoffLimit": FOREVER,
        "podReplacementPolicy": "Failed",
        "template": {
            "metadata": {"labels": names.weights_pod_labels(deployment.metadata.name)},
            "spec": _pod(deployment, store, cache, plan, settings, kept_keys),
        },
    }
    name = names.weights_job(deployment.metadata.name, content_hash([spec, claim_uid]))
    annotations = {names.CLAIM_UID: claim_uid}
    described = metadata(deployment, name, "weights", annotations)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": described | {"labels": described["labels"] | {names.WEIGHTS_KEY: key}},
        "spec": spec,
    }


def keep_working(
    jobs: Iterable[JsonObject],
    pods: Iterable[JsonObject],
    build: Callable[[OperatorSettings], JsonObject],
    settings: OperatorSettings,
) -> JsonObject:
    """The Job as it is built now; or as it was built for an earlier serving image, while that Job's pod is at work.

    An upgrade of the operator, which brings another image, interrupts no pod that makes progress. A Job whose pod fails
    is built anew: the newer image may be the remedy.
    """
    found = list(pods)
    for job in jobs:
        for working in _working_images(job, found):
            made = build(settings.model_copy(update={"image": working}))
            if made["metadata"]["name"] == job["metadata"]["name"]:
                return made
    return build(settings)


def _working_images(job: JsonObject, pods: list[JsonObject]) -> Iterator[str]:
    """Of the Job's pods that neither leave nor fail."""
    uid = job["metadata"].get("uid")
    for pod in pods:
        metadata = pod["metadata"]
        is_its = any(owner["uid"] == uid for owner in metadata.get("ownerReferences", []))
        if is_its and "deletionTimestamp" not in metadata and not _is_failing(pod):
            containers = pod.get("spec", {}).get("containers", [])
            yield from (container["image"] for container in containers if "image" in container)


def _is_failing(pod: JsonObject) -> bool:
    status = pod.get("status", {})
    states = [
        container.get("state", {})
        for part in ("initContainerStatuses", "containerStatuses")
        for container in status.get(part, [])
    ]
    return status.get("phase") == "Failed" or any(
        state.get("waiting", {}).get("reason", "") not in _BEFORE_A_START
        or state.get("terminated", {}).get("exitCode", 0) != 0
        for state in states
    )


def is_complete(job: JsonObject) -> bool:
    """Whether its pod has ended well."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Complete" and condition["status"] == "True" for condition in conditions)


def is_for(job: JsonObject, key: str, claim_uid: str) -> bool:
    """Whether it fetches these weights into this claim."""
    found = job["metadata"]
    return bool(
        found.get("labels", {}).get(names.WEIGHTS_KEY) == key
        and found.get("annotations", {}).get(names.CLAIM_UID) == claim_uid
    )


def _pod(
    deployment: ModelDeployment,
    store: ObjectStoreSource,
    cache: Cache,
    plan: Plan | None,
    settings: OperatorSettings,
    kept_keys: tuple[str, ...],
) -> JsonObject:
    is_on_one_node = cache.access_mode == "ReadWriteOnce"
    steps = download_steps(cache.size)
    containers = [_container(deployment, store, settings, kept_keys, percent) for percent in steps]
    spec = without_empty(
        {
            # A volume of one node, or of one zone, has to be where the accelerators are.
            **placement(deployment, plan if is_on_one_node else None),
            "containers": containers[-1:],
            "imagePullSecrets": pull_secrets(deployment, settings),
            "initContainers": containers[:-1],
            "priorityClassName": deployment.spec.runtime.priority_class_name,
            "restartPolicy": "OnFailure",
            "securityContext": POD_SECURITY,
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                {
                    "name": names.CACHE_VOLUME,
                    "persistentVolumeClaim": {"claimName": names.cache_claim(deployment.metadata.name)},
                },
            ],
        }
    )
    spec["automountServiceAccountToken"] = False
    return spec


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
    digest = deployment.spec.model.digest
    name = names.DOWNLOAD_CONTAINER
    options = {
        "--until-percent": str(percent),
        "--report": names.TERMINATION_MESSAGE_PATH,
        "--endpoint": store.endpoint,
        "--region": store.region,
        "--digest": digest,
    }
    key = weights_key(deployment)
    arguments = [part for option, value in options.items() if value for part in (option, value)]
    arguments += [part for kept in (key, *kept_keys) for part in ("--keep", kept)]
    return {
        "name": name if percent == 100 else f"{name}-{percent}",
        "image": image(deployment, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "conclave_weights", "download", *arguments, store.uri, f"{names.CACHE_PATH}/{key}"],
        "env": [_credential(store.secret_name, key, is_optional) for key, is_optional in _CREDENTIALS.items()],
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "4", "memory": "2Gi"}},
        "volumeMounts": [SCRATCH_MOUNTS[0], {"name": names.CACHE_VOLUME, "mountPath": names.CACHE_PATH}],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": names.TERMINATION_MESSAGE_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _credential(secret: str, key: str, is_optional: bool) -> JsonObject:
    reference: JsonObject = {"name": secret, "key": key}
    return {"name": key, "valueFrom": {"secretKeyRef": reference | ({"optional": True} if is_optional else {})}}

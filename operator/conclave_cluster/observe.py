"""Gathers everything about one ModelDeployment's surroundings into one `Observed`.

Called by the operator at every reconcile and by `conclave explain`. It reads no Secret and decides nothing.
"""

from __future__ import annotations

from conclave.api.modeldeployment import ModelDeployment
from conclave.manifests import names
from conclave.manifests.kuberay import FAILED_POD_EVENTS, missing_fields
from conclave.observation import EVICTED, ApiFailure, JsonObject, KubeRay, Observed
from conclave_cluster.cluster import Cluster, Reading
from conclave_cluster.inventory import make_inventory
from conclave_cluster.resources import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    JOB,
    NETWORK_POLICY,
    NODE,
    POD,
    RAY_CLUSTER,
    RAY_SERVICE,
    REVISION,
)

_EXPLAINED = ("Pod", "RayService", "RayCluster", "Job", "PersistentVolumeClaim")
GPU_RESOURCES = (names.NVIDIA.resource, names.AMD.resource)


async def observe(cluster: Cluster, deployment: ModelDeployment) -> Observed:
    """Failed reads are listed in `failures`; an absent KubeRay is no failure but `kuberay.installed`."""
    name, namespace = deployment.metadata.name, deployment.metadata.namespace
    failures: list[ApiFailure] = []

    def found(reading: Reading) -> tuple[JsonObject, ...]:
        if reading.failure is not None:
            failures.append(reading.failure)
        return reading.objects

    services = await cluster.get(RAY_SERVICE, namespace, names.rayservice(name))
    schema = found(await cluster.schema(RAY_SERVICE))
    kuberay = KubeRay(installed=bool(schema), missing_fields=missing_fields(schema[0]) if schema else ())
    rayservice = next(iter(services.objects if _is_absent(services) else found(services)), None)
    clusters = await cluster.list(RAY_CLUSTER, namespace)
    rayclusters = [
        item for item in (() if _is_absent(clusters) else found(clusters)) if rayservice and _is_child(item, rayservice)
    ]
    pods = found(await cluster.list(POD, namespace, names.pod_selector(name)))
    jobs = found(await cluster.list(JOB, namespace, {names.MODEL_DEPLOYMENT: name}))
    weights_pods = found(await cluster.list(POD, namespace, names.weights_selector(name)))
    inspection_pods = found(await cluster.list(POD, namespace, names.inspection_selector(name)))
    is_cached = deployment.spec.model.cache is not None
    caches = found(await cluster.get(CLAIM, namespace, names.cache_claim(name))) if is_cached else ()
    about = {
        item["metadata"]["uid"]
        for item in (
            *(*pods, *rayclusters, *jobs, *weights_pods, *inspection_pods, *caches),
            *([rayservice] if rayservice else []),
        )
    }
    pod_prefixes = tuple(f"{cluster['metadata']['name']}-" for cluster in rayclusters)
    own_pods = frozenset(pod["metadata"]["uid"] for pod in pods)
    events = found(await cluster.list(EVENT, namespace))
    revisions = found(await cluster.list(REVISION, namespace, {names.MODEL_DEPLOYMENT: name}))
    policies = found(await cluster.list(NETWORK_POLICY, namespace, {names.MODEL_DEPLOYMENT: name}))
    model = deployment.spec.model
    claims = [item for claim in model.claims for item in found(await cluster.get(CLAIM, namespace, claim))]
    config = model.config_ref
    config_maps = found(await cluster.get(CONFIG_MAP, namespace, config.name)) if config else ()
    return Observed(
        inventory=make_inventory(
            found(await cluster.list(NODE)),
            found(await cluster.list(POD)),
            own_pods,
            deployment.spec.hardware.tolerations,
        ),
        kuberay=kuberay,
        rayservice=rayservice,
        rayclusters=tuple(rayclusters),
        pods=pods,
        events=tuple(
            event
            for event in events
            if event.get("involvedObject", {}).get("uid") in about or _tells_an_eviction(event, pod_prefixes)
        ),
        revisions=tuple(item for item in revisions if _is_owned(item, deployment)),
        network_policies=tuple(item for item in policies if _is_owned(item, deployment)),
        jobs=tuple(item for item in jobs if _is_owned(item, deployment) and not _is_inspection(item)),
        weights_pods=weights_pods,
        inspection_jobs=tuple(item for item in jobs if _is_owned(item, deployment) and _is_inspection(item)),
        inspection_pods=inspection_pods,
        cache=next((item for item in caches if _is_owned(item, deployment)), None),
        claims={item["metadata"]["name"]: item.get("status", {}).get("phase", "") for item in claims},
        config_maps={item["metadata"]["name"]: item.get("data", {}) for item in config_maps},
        failures=tuple(dict.fromkeys(failures)),
    )


def keep_pod(pod: JsonObject) -> JsonObject | None:
    """Of pods, ours whole, of others those that hold GPUs, and only that; nothing of the rest."""
    metadata = {key: value for key, value in pod["metadata"].items() if key != "managedFields"}
    if set(names.POD_OWNERS) & metadata.get("labels", {}).keys():
        return {**pod, "metadata": metadata}
    spec = pod.get("spec", {})
    containers = {
        part: [{"resources": container.get("resources", {})} for container in spec.get(part, [])]
        for part in ("containers", "initContainers")
    }
    limits = [container["resources"].get("limits", {}) for part in containers.values() for container in part]
    if not any(resource in limit for limit in limits for resource in GPU_RESOURCES):
        return None
    kept = ("name", "namespace", "uid", "resourceVersion")
    return {
        "metadata": {key: metadata[key] for key in kept},
        "spec": {"nodeName": spec.get("nodeName", ""), **containers},
        "status": {"phase": pod.get("status", {}).get("phase")},
    }


def keep_node(node: JsonObject) -> JsonObject:
    """Of nodes, what the inventory reads: not the heartbeat."""
    metadata, spec, status = node["metadata"], node.get("spec", {}), node.get("status", {})
    conditions = [
        {"type": condition["type"], "status": condition["status"]}
        for condition in status.get("conditions", [])
        if condition["type"] == "Ready"
    ]
    allocatable = {key: value for key, value in status.get("allocatable", {}).items() if key in GPU_RESOURCES}
    return {
        "metadata": {key: metadata[key] for key in ("name", "uid", "resourceVersion", "labels") if key in metadata},
        "spec": {key: spec[key] for key in ("unschedulable", "taints") if key in spec},
        "status": {"allocatable": allocatable, "conditions": conditions},
    }


EVENT_SELECTIONS = ({"fieldSelector": "type=Warning"}, {"fieldSelector": "type=Normal,involvedObject.kind=RayCluster"})
"""What is watched of events, so that not all of a cluster's arrive here."""


def keep_event(event: JsonObject) -> JsonObject | None:
    """Of those, warnings about what may be ours and how pods ended that KubeRay deleted."""
    if event.get("involvedObject", {}).get("kind") not in _EXPLAINED:
        return None
    if event.get("type") != "Warning" and event.get("reason") not in FAILED_POD_EVENTS:
        return None
    return {**event, "metadata": {key: value for key, value in event["metadata"].items() if key != "managedFields"}}


def _tells_an_eviction(event: JsonObject, pod_prefixes: tuple[str, ...]) -> bool:
    """Of a RayCluster's pod that may be gone: KubeRay deletes it at once, and does not say why it had failed."""
    pod = event.get("involvedObject", {})
    return event.get("reason") == EVICTED and pod.get("kind") == "Pod" and pod.get("name", "").startswith(pod_prefixes)


def _is_absent(reading: Reading) -> bool:
    return reading.failure is not None and reading.failure.code == 404


def _is_child(item: JsonObject, owner: JsonObject) -> bool:
    owners = item["metadata"].get("ownerReferences", [])
    return any(reference["uid"] == owner["metadata"]["uid"] for reference in owners)


def _is_inspection(job: JsonObject) -> bool:
    return names.INSPECTION_KEY in job["metadata"].get("labels", {})


def _is_owned(item: JsonObject, deployment: ModelDeployment) -> bool:
    owners = item["metadata"].get("ownerReferences", [])
    return any(reference["uid"] == deployment.metadata.uid and reference.get("controller") for reference in owners)

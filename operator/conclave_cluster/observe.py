"""Gathers everything about one ModelDeployment's surroundings into one `Observed`.

Called by the operator at every reconcile and by `conclave explain`. It reads no Secret and decides nothing.
"""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.catalogue.device_resources import is_accelerator, is_planned
from conclave.kubernetes import events
from conclave.kubernetes.failures import ApiFailure
from conclave.kubernetes.kuberay import missing_fields
from conclave.kubernetes.objects import JsonObject, controller, controller_uid, is_owned_by
from conclave.kubernetes.shapes import (
    Read,
    read_claim,
    read_config_map,
    read_event,
    read_job,
    read_network_policy,
    read_node,
    read_pod,
    read_raycluster,
    read_rayservice,
    read_resource_slice,
    read_revision,
)
from conclave.modeldeployment.observed import KubeRay, Observed, Work
from conclave_cluster.cache import Bound, Projection, keep_owner, whole
from conclave_cluster.cluster import Cluster, Reading
from conclave_cluster.inventory import LastCapacity
from conclave_cluster.resource_slices import is_of_gpus
from conclave_cluster.resources import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    JOB,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    NODE,
    POD,
    RAY_CLUSTER,
    RAY_SERVICE,
    RESOURCE_SLICE,
    REVISION,
)

_EXPLAINED = ("Pod", "RayService", "RayCluster", "Job", "PersistentVolumeClaim")


async def observe(cluster: Cluster, deployment: ModelDeployment, last: LastCapacity | None = None) -> Observed:
    """Failed reads are listed in `failures`; an absent KubeRay is no failure but `kuberay.installed`."""
    name, namespace = deployment.metadata.name, deployment.metadata.namespace
    failures: list[ApiFailure] = []

    def found(reading: Reading, read: Projection) -> tuple[JsonObject, ...]:
        if reading.failure is not None:
            failures.append(reading.failure)
        return reading.objects if read is whole else tuple(filter(None, map(read, reading.objects)))

    services = await cluster.get(RAY_SERVICE, namespace, names.rayservice(name))
    schema = found(await cluster.schema(RAY_SERVICE), whole)
    kuberay = KubeRay(installed=bool(schema), missing_fields=missing_fields(schema[0]) if schema else ())
    rayservice = next(iter(() if _is_absent(services) else found(services, read_rayservice)), None)
    clusters = await cluster.list(RAY_CLUSTER, namespace)
    rayclusters = [
        item
        for item in (() if _is_absent(clusters) else found(clusters, read_raycluster))
        if rayservice and is_owned_by(item, rayservice["metadata"].get("uid"))
    ]
    pods = found(await cluster.list(POD, namespace, names.pod_selector(name)), read_pod)
    jobs = found(await cluster.list(JOB, namespace, {names.MODEL_DEPLOYMENT: name}), read_job)
    weights_pods = found(await cluster.list(POD, namespace, names.weights_selector(name)), read_pod)
    inspection_pods = found(await cluster.list(POD, namespace, names.inspection_selector(name)), read_pod)
    is_cached = deployment.spec.model.cache is not None
    caches = found(await cluster.get(CLAIM, namespace, names.cache_claim(name)), read_claim) if is_cached else ()
    about = {
        item["metadata"].get("uid")
        for item in (
            *(*pods, *rayclusters, *jobs, *weights_pods, *inspection_pods, *caches),
            *([rayservice] if rayservice else []),
        )
    }
    pod_prefixes = tuple(f"{cluster['metadata']['name']}-" for cluster in rayclusters)
    own_uids = [pod["metadata"].get("uid", "") for pod in pods]
    relevant = [
        event
        for event in found(await cluster.list(EVENT, namespace), read_event)
        if event["involvedObject"].get("uid", "") in about or _tells_an_eviction(event, pod_prefixes)
    ]
    revisions = found(await cluster.list(REVISION, namespace, {names.MODEL_DEPLOYMENT: name}), read_revision)
    policies = found(await cluster.list(NETWORK_POLICY, namespace, {names.MODEL_DEPLOYMENT: name}), read_network_policy)
    own_jobs = [job for job in jobs if _is_owned(job, deployment)]
    wanted = deployment.spec.claims
    claims = [item for claim in wanted for item in found(await cluster.get(CLAIM, namespace, claim), read_claim)]
    config = deployment.spec.model.config_ref
    config_maps = found(await cluster.get(CONFIG_MAP, namespace, config.name), read_config_map) if config else ()
    # ResourceSlices only explain why a node has nothing for pods. Before Kubernetes 1.34 clusters have none; whoever
    # may not read them misses that explanation.
    slices = await cluster.list(RESOURCE_SLICE)
    capacity = (last or LastCapacity()).of(
        found(await cluster.list(NODE), whole), found(await cluster.list(POD), whole), slices.objects
    )
    return Observed(
        inventory=capacity.inventory(own_uids, deployment.spec.hardware.tolerations),
        kuberay=kuberay,
        rayservice=rayservice,
        rayclusters=tuple(rayclusters),
        pods=pods,
        events=tuple(sorted(relevant, key=events.told_at, reverse=True)[: events.MOST_OF_A_PASS]),
        revisions=tuple(item for item in revisions if _is_owned(item, deployment)),
        network_policies=tuple(item for item in policies if _is_owned(item, deployment)),
        weights=Work(
            jobs=_labelled(own_jobs, names.WEIGHTS_KEY),
            pods=weights_pods,
        ),
        inspection=Work(jobs=_labelled(own_jobs, names.INSPECTION_KEY), pods=inspection_pods),
        cache=next((item for item in caches if _is_owned(item, deployment) and "uid" in item["metadata"]), None),
        claims={item["metadata"]["name"]: item.get("status", {}).get("phase", "") for item in claims},
        config_maps={item["metadata"]["name"]: item.get("data", {}) for item in config_maps},
        failures=tuple(dict.fromkeys(failures)),
    )


def keep_ours(item: JsonObject) -> JsonObject:
    """Of RayServices and NetworkPolicies, ours whole, for an apply compares them; of all others whose they are.

    Otherwise a tenant who may write NetworkPolicies could fill the operator's memory with them. The garbage collector
    of Kubernetes deletes those that name an owner which does not exist.
    """
    owner = controller(item)
    is_given = names.is_given(item["metadata"]["name"], owner.get("name", ""))
    return item if is_given and owner.get("kind") == MODEL_DEPLOYMENT.kind else keep_owner(item)


def keep_record(item: JsonObject) -> JsonObject:
    """Of ControllerRevisions, those of ModelDeployments under any name: a forged one is named in the status."""
    return item if controller(item).get("kind") == MODEL_DEPLOYMENT.kind else keep_owner(item)


def keep_pod(pod: JsonObject) -> JsonObject | None:
    """Of pods, ours as far as it is read, of others those that hold GPUs, and only that; nothing of the rest."""
    read = read_pod(pod)
    if read is None or set(names.POD_OWNERS) & read["metadata"].get("labels", {}).keys():
        return read
    spec = read.get("spec", {})
    containers = {
        part: [
            {"resources": {}, **{key: container[key] for key in ("resources", "restartPolicy") if key in container}}
            for container in spec.get(part, [])
        ]
        for part in ("containers", "initContainers")
    }
    limits = [container["resources"].get("limits", {}) for part in containers.values() for container in part]
    if not any(is_planned(resource) for limit in limits for resource in limit):
        return None
    kept = ("name", "namespace", "uid", "resourceVersion")
    return Read(
        {
            "metadata": {key: value for key, value in read["metadata"].items() if key in kept},
            "spec": {"nodeName": spec.get("nodeName", ""), **containers},
            "status": {"phase": read.get("status", {}).get("phase")},
        }
    )


def keep_node(node: JsonObject) -> JsonObject | None:
    """Of nodes, what the inventory reads: not the heartbeat."""
    read = read_node(node)
    if read is None:
        return None
    metadata, status = read["metadata"], read.get("status", {})
    conditions = [
        {"type": condition["type"], "status": condition["status"]}
        for condition in status.get("conditions", [])
        if condition["type"] == "Ready"
    ]
    allocatable = {key: value for key, value in status.get("allocatable", {}).items() if is_accelerator(key)}
    return Read(
        {
            "metadata": {key: metadata[key] for key in ("name", "uid", "resourceVersion", "labels") if key in metadata},
            "spec": read.get("spec", {}),
            "status": {"allocatable": allocatable, "conditions": conditions},
        }
    )


def keep_resource_slice(item: JsonObject) -> JsonObject | None:
    """Of ResourceSlices, the products of a node's GPUs."""
    read = read_resource_slice(item)
    if read is None or not is_of_gpus(read):
        return None
    spec = read["spec"]
    devices = [
        {"name": device["name"], "attributes": {key: attributes[key] for key in _TOLD_OF_DEVICES if key in attributes}}
        for device in spec.get("devices", [])
        for attributes in (device.get("attributes", {}),)
    ]
    kept = ("name", "uid", "resourceVersion")
    return Read(
        {
            "metadata": {key: value for key, value in read["metadata"].items() if key in kept},
            "spec": {"driver": spec["driver"], "nodeName": spec["nodeName"], "devices": devices},
        }
    )


_TOLD_OF_DEVICES = ("productName", "type")
EVENT_SELECTIONS = ({"fieldSelector": "type=Warning"}, {"fieldSelector": "type=Normal,involvedObject.kind=RayCluster"})
"""What is watched of events, so that not all of a cluster's arrive here."""


def keep_event(event: JsonObject) -> JsonObject | None:
    """Of those, warnings about what may be ours and how pods ended that KubeRay deleted."""
    read = read_event(event)
    if read is None or read["involvedObject"]["kind"] not in _EXPLAINED or read.get("reason") not in events.READ:
        return None
    return read if read.get("type") == "Warning" or read.get("reason") in events.DELETED_PODS else None


def about_whom(event: JsonObject) -> str:
    """What a flood of events is counted by."""
    involved = event["involvedObject"]
    return f"{involved['kind']} {involved['name']}"


EVENT_BOUND = Bound(about_whom, events.MOST_OF_AN_OBJECT, events.MOST_OF_A_NAMESPACE)


def _tells_an_eviction(event: JsonObject, pod_prefixes: tuple[str, ...]) -> bool:
    """Of a RayCluster's pod that may be gone: KubeRay deletes it at once, and does not say why it had failed."""
    pod = event["involvedObject"]
    return event.get("reason") == events.EVICTED and pod["kind"] == "Pod" and pod["name"].startswith(pod_prefixes)


def _is_absent(reading: Reading) -> bool:
    return reading.failure is not None and reading.failure.code == 404


def _labelled(jobs: list[JsonObject], label: str) -> tuple[JsonObject, ...]:
    return tuple(job for job in jobs if label in job["metadata"].get("labels", {}))


def _is_owned(item: JsonObject, deployment: ModelDeployment) -> bool:
    return controller_uid(item) == deployment.metadata.uid

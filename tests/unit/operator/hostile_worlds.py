"""Worlds full of objects that others made, with every field that Conclave reads, and ways to spoil one field."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.scenes import dead, make_event, make_pod, make_rayservice, merged, waiting
from tests.unit.operator.simulation import NAMESPACE, Simulation, model_deployment

from conclave.catalogue.inspected import InspectedWeights, write_report
from conclave.catalogue.models import find_model
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
    RESOURCE_SLICE,
    REVISION,
    Resource,
)

Json = dict[str, Any]
Path = tuple[str | int, ...]
FOREIGN = (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    JOB,
    NETWORK_POLICY,
    NODE,
    POD,
    RAY_CLUSTER,
    RAY_SERVICE,
    RESOURCE_SLICE,
    REVISION,
)
MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"
AT = "2026-11-23T00:00:00Z"


class Absent:
    """The field is not there."""


def deep(levels: int = 300) -> object:
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


OF_ANOTHER_TYPE: tuple[object, ...] = (None, True, -1, 2.5, "x", "", [], {}, ["x"], [None], [{}], {"x": 1}, {"name": 3})
HUGE: tuple[object, ...] = (
    "x" * 200_000,
    "9" * 5000,
    "1e999999999",
    "\n\x1b[31m\u202e\ud800" * 1000,
    10**400,
    float("inf"),
    [{"name": str(number)} for number in range(20_000)],
    {str(number): number for number in range(20_000)},
    deep(),
)
SPOILT: tuple[object, ...] = (Absent, *OF_ANOTHER_TYPE, *HUGE)


def in_trouble() -> Simulation:
    """Pods of each trouble, events about them, an engine that fails, and all that is read of a RayCluster."""
    world = _served(serving=False)
    message = "Traceback (most recent call last):\nRuntimeError: CUDA out of memory"
    report = json.dumps({"error": "DigestMismatch", "message": "another file"})
    pods = [
        make_pod("head", **waiting("CreateContainerConfigError", 'secret "x" not found')),
        make_pod("worker", name="mixtral-x7k2p-waits", **waiting("ContainerCreating")),
        make_pod("worker", name="mixtral-x7k2p-pulls", **waiting("ImagePullBackOff", "back-off")),
        make_pod("worker", name="mixtral-x7k2p-died", **dead("OOMKilled", message)),
        make_pod("worker", name="mixtral-x7k2p-crashed", **dead("Error", message)),
        make_pod("worker", name="mixtral-x7k2p-unfit", **dead("Error", report, container="verify-weights")),
        make_pod("worker", name="mixtral-x7k2p-evicted", phase="Failed", reason="Evicted", message="The node was low"),
        make_pod("worker", name="mixtral-x7k2p-pending", phase="Pending", conditions=[
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
        ]),
        make_pod("worker", name="mixtral-x7k2p-asks", phase="Pending", initContainerStatuses=[
            {"name": "egress-canary", "state": {"terminated": {
                "exitCode": 0, "message": json.dumps({"egress": "open", "target": "10.0.0.1:443"}),
            }}},
            {"name": "wait-gcs-ready", "state": {"running": {"startedAt": "2026-11-22T00:00:00Z"}}},
        ]),
    ]  # fmt: skip
    expression = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["H100"]}
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [expression]}
    ]}}  # fmt: skip
    spec: Json = {
        "affinity": {"nodeAffinity": affinity},
        "nodeSelector": {"zone": "a"},
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "wait-gcs-ready", "command": ["sh"], "args": ["--address x:6379"]},
            {"name": "egress-canary"},
            {"name": "await-weights"},
        ],
    }
    for pod in pods:
        metadata = {"creationTimestamp": AT, "ownerReferences": [{"kind": "RayCluster", "name": "x", "uid": "u"}]}
        world.put(merged(pod, {"metadata": metadata, "spec": spec}))
    for pod, reason in zip(pods, ("FailedMount", "FailedAttachVolume", "Failed", "Evicted"), strict=False):
        world.put(make_event(pod, reason, 'MountVolume.SetUp failed for volume "weights": secret "x" not found'))
    cluster = world.cluster.objects[RAY_CLUSTER, NAMESPACE, "mixtral-x7k2p"]
    state = (
        "&ContainerStateTerminated{ExitCode:1,Signal:0,Reason:Error,Message:ValueError: x,"
        "StartedAt:2026-11-23 00:00:00 +0000 UTC,FinishedAt:2026-11-23 00:00:01 +0000 UTC,ContainerID:x,}"
    )
    told = f"Deleted worker Pod llm/mixtral-x7k2p-gone; x; Ray container terminated status: {state}"
    for reason, words in (("DeletedWorkerPod", told), ("FailedToCreateWorkerPod", "exceeded quota")):
        world.put(make_event(cluster, reason, words) | {"eventTime": AT, "lastTimestamp": AT})
    return world


def serving() -> Simulation:
    """Engines that answer, one of them of another head, and a cluster that takes over."""
    world = _served(serving=True)
    for kind, name, at in (("head", "h", AT), ("worker", "w", AT), ("worker", "older", "2026-11-22T00:00:00Z")):
        pod = make_pod(kind, name=f"mixtral-x7k2p-{name}")
        conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": AT}]
        world.put(merged(pod, {"metadata": {"creationTimestamp": at}, "status": {"conditions": conditions}}))
    return world


def downloading() -> Simulation:
    """The Job of an object store's weights, its pod, and the claim."""
    world = Simulation()
    source = {"objectStore": {"uri": "s3://models/mixtral", "secretName": "store"}}
    world.put(model_deployment(model={"id": MIXTRAL, "source": source, "cache": {"size": "20Gi"}}))
    world.settle()
    progress = json.dumps({"doneBytes": 1, "totalBytes": 2})
    job = _with_pod(world, [
        {"name": "download-50", "state": {"terminated": {"exitCode": 0, "message": progress}}},
        {"name": "download", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
         "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": progress}}},
    ])  # fmt: skip
    world.put(make_event(job, "FailedCreate", "exceeded quota"))
    (claim,) = [item for (kind, _, name), item in world.cluster.objects.items() if kind == CLAIM and name != "weights"]
    claim["status"] = {"phase": "Pending"}
    return world


def inspecting() -> Simulation:
    """The Job that reads a config.json, its pod, and what that has found."""
    world = Simulation()
    source = {"persistentVolumeClaim": {"claimName": "weights"}}
    world.put(model_deployment(model={"id": "acme/own", "source": source}))
    world.settle()
    entry = find_model(MIXTRAL)
    assert entry is not None
    weights = InspectedWeights(config=entry.config, files=1, parameters=1, size_bytes=1, dtypes=("BF16",))
    end = {"exitCode": 0, "reason": "Completed", "message": write_report(weights)}
    job = _with_pod(world, [{"name": "inspect", "state": {"terminated": end}, "lastState": {"terminated": end}}])
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    return world


def configured() -> Simulation:
    """A config.json in a ConfigMap."""
    world = Simulation()
    entry = find_model(MIXTRAL)
    assert entry is not None
    metadata = {"name": "own", "namespace": NAMESPACE}
    data = {"config.json": json.dumps(entry.config)}
    world.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    source = {"persistentVolumeClaim": {"claimName": "weights"}}
    world.put(model_deployment(model={"id": "acme/own", "configRef": {"name": "own"}, "source": source}))
    return world


WORLDS: tuple[Callable[[], Simulation], ...] = (in_trouble, serving, downloading, inspecting, configured)


def _served(*, serving: bool) -> Simulation:
    world = Simulation()
    world.put(model_deployment(telemetry={"tracing": {"endpoint": "https://collector.example:443"}}))
    world.settle()
    live = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]
    failing = {"status": "DEPLOY_FAILED", "message": "Traceback (most recent call last):\nValueError: x"}
    applications = {"mixtral": {**failing, "serveDeploymentStatuses": {"Engine": failing}}}
    status = make_rayservice(serving=serving, upgrading=serving, applicationStatuses=applications)["status"]
    if serving:
        status["pendingServiceStatus"] = {"rayClusterName": "mixtral-next"}
    live["status"] = status
    group = {"replicas": 2, "template": {"spec": {"containers": [
        {"name": "ray", "resources": {"limits": {"memory": "20Gi"}}}
    ]}}}  # fmt: skip
    owner = {"apiVersion": "ray.io/v1", "kind": "RayService", "name": "mixtral", "uid": live["metadata"]["uid"]}
    world.put(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": "mixtral-x7k2p", "namespace": NAMESPACE, "ownerReferences": [owner]},
            "spec": {"headGroupSpec": group, "workerGroupSpecs": [group]},
            "status": {"state": "ready", "conditions": [
                {"type": "ReplicaFailure", "status": "True", "reason": "x", "message": "exceeded quota"},
            ]},
        }
    )  # fmt: skip
    metadata = {"name": "others", "namespace": "elsewhere"}
    container = {"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    spec = {"nodeName": "node-0", "containers": [container], "initContainers": [container]}
    status = {"phase": "Running"}
    world.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
    node = world.cluster.objects[NODE, "", "node-0"]
    node["spec"] = {"unschedulable": False, "taints": [{"key": "team", "value": "llm", "effect": "NoSchedule"}]}
    attributes = {"productName": {"string": "NVIDIA H100 80GB HBM3"}, "type": {"string": "gpu"}}
    device = {"name": "gpu-0", "attributes": attributes, "basic": {"attributes": attributes}}
    world.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bare"}, "status": {"allocatable": {}}})
    spec = {"driver": "gpu.nvidia.com", "nodeName": "bare", "devices": [device]}
    head = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "bare-gpu"}}
    world.put({**head, "spec": spec})
    return world


def _with_pod(world: Simulation, statuses: list[Json]) -> Json:
    (job,) = [item for (kind, _, _), item in world.cluster.objects.items() if kind == JOB]
    owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"], "controller": True}
    template = job["spec"]["template"]
    world.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "the-pod",
                "namespace": NAMESPACE,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": template["spec"],
            "status": {
                "phase": "Pending",
                "initContainerStatuses": statuses[:-1],
                "containerStatuses": statuses[-1:],
            },
        }
    )
    return job


def fields_of(item: object, below: Path = ()) -> Iterator[Path]:
    """Paths to each value of an object, but to what only the builders write and nobody reads back."""
    if below:
        yield below
    if isinstance(item, dict):
        for key, value in item.items():
            yield from fields_of(value, (*below, key))
    elif isinstance(item, list):
        for number, value in enumerate(item):
            yield from fields_of(value, (*below, number))


def with_field(item: Json, path: Path, value: object) -> Json:
    """A copy with one field replaced or left out."""
    spoilt = copy.deepcopy(item)
    at: Any = spoilt
    for step in path[:-1]:
        at = at[step]
    if value is Absent:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return spoilt


def foreign_objects(world: Simulation) -> Iterator[tuple[tuple[Resource, str, str], Json]]:
    for key, item in world.cluster.objects.items():
        if key[0] in FOREIGN:
            yield key, item

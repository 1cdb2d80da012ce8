"""What kubelets report of a model's pods, on a real API server with KubeRay, and the conditions that come out of it.

Nothing runs here: the tests write what a kubelet would.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.testbed.operator import model_deployment, patch_pod_status, volume_for
from tests.integration.testbed.world import World

Json = dict[str, Any]
DIGEST = "sha256:" + "ab" * 32


def the_pod(world: World, kind: str) -> Json:
    """The one that does not leave."""

    def found() -> Json | None:
        pods = [
            pod
            for pod in world.pods("mixtral")
            if pod["metadata"]["labels"]["ray.io/node-type"] == kind and "deletionTimestamp" not in pod["metadata"]
        ]
        return pods[0] if pods else None

    return eventually(found, timeout=60)


def report(world: World, pod: Json, *states: tuple[str, Json], **status: Any) -> None:
    """States of its init containers; of those that are not named nothing is known."""
    shape = {"image": "x", "imageID": "", "ready": False, "restartCount": 0}
    init = [shape | {"name": name, "state": state} for name, state in states]
    patch_pod_status(
        world.kube,
        world.namespace,
        pod["metadata"]["name"],
        {"phase": "Pending", "initContainerStatuses": init} | status,
    )


def ended(message: Json) -> Json:
    return {"terminated": {"exitCode": 0, "reason": "Completed", "message": json.dumps(message)}}


def ago(duration: timedelta) -> str:
    return (datetime.now(UTC) - duration).strftime("%Y-%m-%dT%H:%M:%SZ")


def killed_ray(reason: str, message: str) -> Json:
    """The Ray container, ended just now by signal 9."""
    now = ago(timedelta())
    end = {"exitCode": 137, "reason": reason, "message": message, "startedAt": now, "finishedAt": now}
    state = {"terminated": end}
    return {"name": "ray", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}


def test_what_the_canary_of_a_worker_found_is_a_condition(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    worker = the_pod(world, "worker")
    assert world.becomes("mixtral", "EgressEnforced", "EgressUntested")["status"] == "Unknown"
    report(world, worker, ("egress-canary", ended({"egress": "open", "target": "10.96.0.1:443", "seconds": 15.0})))
    condition = world.becomes("mixtral", "EgressEnforced", "EgressOpen")
    assert condition["status"] == "False"
    told = eventually(
        lambda: [event for event in world.kube.list("v1", "Event", world.namespace) if event["reason"] == "EgressOpen"]
    )
    assert [(event["type"], event["involvedObject"]["name"]) for event in told] == [("Warning", "mixtral")]
    pod = f"Pod {world.namespace}/{worker['metadata']['name']}"
    assert condition["message"].startswith(f"{pod}: reached the API server at 10.96.0.1:443")
    report(world, worker, ("egress-canary", ended({"egress": "closed", "target": "10.96.0.1:443", "seconds": 7.0})))
    assert world.becomes("mixtral", "EgressEnforced", "EgressClosed")["status"] == "True"


def test_a_worker_that_waits_for_a_head_that_is_ready_is_told(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    head, worker = the_pod(world, "head"), the_pod(world, "worker")
    long_ago = ago(timedelta(minutes=10))
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": long_ago}
    patch_pod_status(world.kube, world.namespace, head["metadata"]["name"], {"conditions": [ready]})
    report(world, worker, ("wait-gcs-ready", {"running": {"startedAt": long_ago}}))
    condition = world.becomes("mixtral", "Provisioned", "HeadUnreachable")
    cluster = head["metadata"]["labels"]["ray.io/cluster"]
    assert f"at {cluster}-head-svc.{world.namespace}.svc.cluster.local:6379" in condition["message"]
    assert world.condition("mixtral", "Stalled")["status"] == "False"


def test_why_a_worker_failed_is_told_after_kuberay_has_made_another(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    worker = the_pod(world, "worker")
    (ray,) = worker["spec"]["containers"]
    report(world, worker, phase="Failed", containerStatuses=[killed_ray("OOMKilled", "a\nb, c")])
    eventually(lambda: the_pod(world, "worker")["metadata"]["uid"] != worker["metadata"]["uid"], timeout=60)
    condition = world.becomes("mixtral", "Provisioned", "OutOfMemory")
    assert condition["message"] == (
        f"Pod {world.namespace}/{worker['metadata']['name']}: container ray was killed: it used more than its memory "
        f"limit of {ray['resources']['limits']['memory']}; raise runtime.resources.worker.memory"
    )
    world.settle("mixtral")
    assert world.condition("mixtral", "Provisioned") == condition
    assert world.condition("mixtral", "Stalled")["status"] == "True"

    ready = {"type": "Ready", "status": "True", "lastTransitionTime": ago(timedelta())}
    report(world, the_pod(world, "worker"), conditions=[ready])
    eventually(lambda: world.condition("mixtral", "Provisioned")["reason"] != "OutOfMemory")


def test_an_eviction_is_told_after_kuberay_has_deleted_the_pod(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    worker = the_pod(world, "worker")
    metadata = worker["metadata"]
    message = "The node was low on resource: ephemeral-storage. Threshold quantity: 2705531679, available: 2545580Ki. "
    world.kube.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.evicted", "namespace": world.namespace},
            "type": "Warning",
            "reason": "Evicted",
            "message": message,
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": world.namespace,
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "lastTimestamp": ago(timedelta()),
        }
    )
    dead = killed_ray("Error", "SIGTERM")
    report(world, worker, phase="Failed", reason="Evicted", message=message, containerStatuses=[dead])
    eventually(lambda: the_pod(world, "worker")["metadata"]["uid"] != metadata["uid"], timeout=60)
    world.settle("mixtral")
    condition = world.becomes("mixtral", "Provisioned", "PodEvicted")
    assert condition["message"] == (
        f"Pod {world.namespace}/{metadata['name']}: the kubelet evicted the pod: {message.strip('. ')}; "
        "KubeRay will create a replacement pod. Free that resource on the node first"
    )


@pytest.fixture
def bound_claim(world: World) -> Iterator[None]:
    world.kube.create(volume_for("weights", world.namespace))
    yield
    world.kube.delete("v1", "PersistentVolume", f"{world.namespace}-weights")


def test_other_files_than_the_digests_are_told_until_they_are_mended_in_the_same_pod(
    world: World, bound_claim: None
) -> None:
    model = model_deployment("mixtral")["spec"]["model"]
    world.apply(model_deployment("mixtral", model=model | {"digest": DIGEST}))
    worker = the_pod(world, "worker")
    since = {"running": {"startedAt": ago(timedelta(seconds=1))}}
    report(world, worker, ("verify-weights", since))
    world.becomes("mixtral", "WeightsReady", "Verifying")

    unfit = ended({"error": "DigestMismatch", "message": "weights /models/weights: digest sha256:1"})
    report(world, worker, ("verify-weights", unfit), ("await-weights", since))
    condition = world.becomes("mixtral", "WeightsReady", "DigestMismatch")
    assert condition["status"] == "False"
    said = "container verify-weights ended: weights /models/weights: digest sha256:1; after you repair"
    assert said in condition["message"]
    assert world.becomes("mixtral", "Stalled", "DigestMismatch")["status"] == "True"
    world.settle("mixtral")
    assert world.condition("mixtral", "WeightsReady") == condition
    assert the_pod(world, "worker")["metadata"]["uid"] == worker["metadata"]["uid"], "KubeRay keeps it"

    running = {"name": "ray", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": since}
    report(
        world,
        worker,
        ("verify-weights", unfit),
        ("await-weights", ended({})),
        phase="Running",
        containerStatuses=[running],
    )
    assert world.becomes("mixtral", "WeightsReady", "Verified")["status"] == "True"
    assert world.condition("mixtral", "Stalled")["status"] == "False"

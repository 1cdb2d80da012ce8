"""What a tenant can make on a real API server and what once ended the operator: it stays leader and goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.conftest import RESYNC_S
from tests.integration.testbed.kube import KubectlError
from tests.integration.testbed.operator import model_deployment
from tests.integration.testbed.world import RAY, World

Json = dict[str, Any]
LEVELS = 5000
DEEP = "[" * LEVELS + "]" * LEVELS


def raw(world: World, api: str, plural: str, body: str) -> None:
    """As the text is: no client's JSON library reads it first."""
    path = f"/{api}/namespaces/{world.namespace}/{plural}"
    world.kube.kubectl("create", "--raw", path, "-f", "-", stdin=body)


def greedy_pod() -> Json:
    """Without a time of grace: there is no kubelet to end it, and it would hold the GPUs of all later tests."""
    amounts = {"nvidia.com/gpu": "1k"}
    container = {"name": "main", "image": "test", "resources": {"limits": amounts, "requests": amounts}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "greedy"},
        "spec": {"nodeName": "h100-1", "containers": [container], "terminationGracePeriodSeconds": 0},
    }


def event(world: World, name: str, kind: str, reason: str, message: str, involved: Json, at: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": world.namespace},
        "involvedObject": {"namespace": world.namespace, **involved},
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
    }


def revision(world: World, name: str, data: str) -> str:
    owner = world.deployment("mixtral")
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": "mixtral",
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    item = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "labels": {"conclave.dev/model-deployment": "mixtral"},
            "ownerReferences": [reference],
        },
        "revision": 1,
        "data": "DATA",
    }
    return json.dumps(item).replace('"DATA"', data)


def put_the_five(world: World) -> None:
    """And what is of their kind: values that Python does not read, and a line that is too long for a watch."""
    world.apply(greedy_pod())
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    world.kube.create(event(world, "nameless", "Warning", "Failed", "", {"kind": "Pod"}, now), world.namespace)
    (cluster,) = eventually(lambda: world.kube.list(RAY, "RayCluster", world.namespace), timeout=40)
    state = f"&ContainerStateTerminated{{ExitCode:{'9' * 5000},Signal:0,Reason:,Message:,StartedAt:,FinishedAt:,"
    message = f"Deleted head Pod x/y; z; Ray container terminated status: {state}ContainerID:,}}"
    about = {"kind": "RayCluster", "name": cluster["metadata"]["name"], "uid": cluster["metadata"]["uid"]}
    world.kube.create(event(world, "forged", "Normal", "DeletedHeadPod", message, about, now), world.namespace)
    long = event(world, "long", "Warning", "Failed", "<" * 1_000_000, {"kind": "Pod", "name": "mixtral-x"}, now)
    world.kube.create(long, world.namespace)
    metadata = {"name": "own", "namespace": world.namespace}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.json": "[" * LEVELS}}
    world.kube.create(config_map, world.namespace)
    revisions = {"odd": '{"plan": "x"}', "deep": f'{{"a": {DEEP}}}'}
    for name, data in revisions.items():
        raw(world, "apis/apps/v1", "controllerrevisions", revision(world, f"hostile-{name}", data))
    with suppress(KubectlError):  # Kubernetes 1.36 wants an object there, older ones take what comes
        raw(world, "apis/apps/v1", "controllerrevisions", revision(world, "hostile-text", '"x"'))


@pytest.fixture
def without_leftovers(world: World) -> Iterator[None]:
    yield
    world.kube.delete("v1", "Pod", "greedy", world.namespace)
    eventually(lambda: world.kube.get("v1", "Pod", "greedy", world.namespace) is None)


@pytest.mark.usefixtures("without_leftovers")
@pytest.mark.parametrize("is_restarted", [False, True], ids=["seen by a watch", "found by a list"])
def test_the_operator_stays_leader_under_the_five_objects_and_reconciles_others(
    world: World, fake_gpu_node: Callable[..., str], is_restarted: bool
) -> None:
    fake_gpu_node("h100-2", "NVIDIA-H100-80GB-HBM3", 8, 81559)
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    before = world.rayservice_spec("mixtral")
    process = world.operator.process
    put_the_five(world)
    if is_restarted:
        world.operator.stop()
        world.operator.ensure(f"--resync-seconds={RESYNC_S}")
        process = world.operator.process
    world.apply(model_deployment("other"))
    configured = model_deployment("configured")
    configured["spec"]["model"] |= {"id": "acme/own-mixtral", "configRef": {"name": "own"}}
    world.apply(configured)
    assert world.has_rayservice("other")
    invalid = world.becomes("configured", "PlanReady", "ConfigInvalid")
    assert "config.json is n" in invalid["message"]  # nested too deeply, or no JSON: as Python has it
    reconciles = world.operator.metric("conclave_reconciles_total")
    eventually(lambda: world.operator.metric("conclave_reconciles_total") >= reconciles + 6, timeout=60)
    assert world.operator.process is process
    assert world.operator.is_leading()
    assert world.operator.probe("/healthz")[0] == 200
    assert 'result="internal_error"' not in world.operator.probe("/metrics")[1]
    assert world.condition("mixtral", "Ready")["reason"] not in ("InternalError", "ContainerCrashed", "")
    assert world.rayservice_spec("mixtral") == before

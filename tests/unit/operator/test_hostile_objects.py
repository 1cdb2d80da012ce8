"""Objects that any tenant can make, each of which once ended the operator for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.operator.simulation import NAMESPACE, Simulation, gpu_node, model_deployment

from conclave.api.modeldeployment import ModelDeployment
from conclave_cluster.observe import keep_event, keep_pod, observe
from conclave_cluster.resources import EVENT, MODEL_DEPLOYMENT, POD, RAY_SERVICE

Json = dict[str, Any]
LEVELS = 5000


def gpu_pod(amount: object) -> Json:
    """Of somebody else, on the only node."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "greedy", "namespace": "elsewhere"},
        "spec": {
            "nodeName": "node-0",
            "containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": amount}}}],
        },
        "status": {"phase": "Running"},
    }


def warning(**about: object) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "hostile", "namespace": NAMESPACE},
        "involvedObject": {"kind": "Pod", "namespace": NAMESPACE, **about},
        "type": "Warning",
        "reason": "Failed",
        "message": "",
    }


def config_map(text: str) -> Json:
    metadata = {"name": "own", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.json": text}}


def revision(data: object, owner: Json) -> Json:
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": "hostile",
            "namespace": NAMESPACE,
            "labels": {"conclave.dev/model-deployment": owner["metadata"]["name"]},
            "ownerReferences": [reference],
        },
        "data": data,
        "revision": 7,
    }


def deleted_head(exit_code: str, rayservice: Json) -> tuple[Json, Json]:
    """A RayCluster of the RayService, and an event that says how its head ended."""
    cluster = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": "mixtral-abcde",
            "namespace": NAMESPACE,
            "uid": "uid-of-raycluster",
            "ownerReferences": [{"kind": "RayService", "name": "mixtral", "uid": rayservice["metadata"]["uid"]}],
        },
        "spec": {},
    }
    state = (
        f"&ContainerStateTerminated{{ExitCode:{exit_code},Signal:0,Reason:Error,Message:,"
        "StartedAt:2026-11-23 00:00:00 +0000 UTC,FinishedAt:2026-11-23 00:00:01 +0000 UTC,ContainerID:x,}"
    )
    event = warning(kind="RayCluster", name="mixtral-abcde", uid="uid-of-raycluster") | {
        "type": "Normal",
        "reason": "DeletedHeadPod",
        "lastTimestamp": "2026-11-23T00:00:05Z",
        "message": "Deleted head Pod llm/mixtral-abcde-head; Pod status: Failed; Pod restart policy: Never; "
        f"Ray container terminated status: {state}",
    }
    return cluster, event


def settled() -> Simulation:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    return world


def goes_on(world: Simulation) -> None:
    """Another deployment is reconciled, and this one is not in trouble for the operator's own sake."""
    world.put(model_deployment("other"))
    world.settle()
    assert (RAY_SERVICE, NAMESPACE, "other") in world.cluster.objects
    assert world.condition("Ready")["reason"] != "InternalError"


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        pytest.param("1k", "NothingFits", id="1k, as 1000 and 1e3 are stored"),
        pytest.param("1e3", "NothingFits", id="1e3"),
        pytest.param("1Ki", "NothingFits", id="1Ki"),
        pytest.param("2000m", "Planned", id="thousandths"),
        pytest.param("-8", "Planned", id="fewer than none"),
        pytest.param("1e999999999", "NothingFits", id="a huge exponent"),
        pytest.param("several", "NothingFits", id="what is no quantity"),
        pytest.param(["8"], "NothingFits", id="a list"),
    ],
)
def test_gpus_of_a_foreign_pod(amount: object, reason: str) -> None:
    world = Simulation()
    pod = world.put(gpu_pod(amount))
    kept = keep_pod(pod)
    assert kept is not None
    world.controller.heard(POD, kept)
    world.put(model_deployment())
    world.settle()
    assert world.condition("PlanReady")["reason"] == reason
    world.put(gpu_node("free"))
    goes_on(world)


@pytest.mark.parametrize("about", [{}, {"name": 3}, {"name": ["x"]}, {"name": None}, {"name": "x" * 10**6}])
def test_a_warning_about_a_pod_without_a_name(about: Json) -> None:
    world = settled()
    event = world.put(warning(**about))
    assert keep_event(event) is None
    world.controller.heard(EVENT, event)
    goes_on(world)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("[" * LEVELS, "config.json is n", id="lists without an end"),
        pytest.param('{"a":' * LEVELS + "1" + "}" * LEVELS, "nested too deeply", id="objects"),
        pytest.param('{"hidden_size": ' + "9" * 5000 + "}", "is not valid JSON", id="a number of 5000 digits"),
        pytest.param("null", "config.json is a NoneType", id="null"),
        pytest.param("\ud800", "config.json is not valid JSON", id="half a surrogate pair"),
    ],
)
def test_a_config_that_cannot_be_read(text: str, words: str) -> None:
    world = Simulation()
    deployment = model_deployment()
    deployment["spec"]["model"] |= {"id": "acme/own-mixtral", "configRef": {"name": "own"}}
    world.put(config_map(text))
    world.put(deployment)
    world.settle()
    ready = world.condition("Ready")
    assert ready["reason"] in ("ConfigInvalid", "ConfigMissing")
    assert "ConfigMap llm/own" in ready["message"]
    assert words in ready["message"]
    assert len(ready["message"]) < 500
    goes_on(world)


@pytest.mark.parametrize("exit_code", ["9" * 5000, "9" * 11, "-" + "9" * 5000, "٣"])
def test_an_event_with_an_exit_code_that_is_none(exit_code: str) -> None:
    world = settled()
    rayservice = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]
    rayservice["status"] = {"activeServiceStatus": {"rayClusterName": "mixtral-abcde"}}
    for item in deleted_head(exit_code, rayservice):
        world.put(item)
    goes_on(world)
    assert "ended with exit code" not in world.condition("Ready")["message"]


def test_the_same_event_with_one_is_told() -> None:
    world = settled()
    rayservice = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]
    rayservice["status"] = {"activeServiceStatus": {"rayClusterName": "mixtral-abcde"}}
    for item in deleted_head("3", rayservice):
        world.put(item)
    world.step()
    assert "ended with exit code 3" in world.condition("Ready")["message"]


def deep(levels: int) -> Json:
    value: Json = {}
    for _ in range(levels):
        value = {"a": value}
    return value


DATA: dict[str, Callable[[], object]] = {
    "a text": lambda: "x",
    "a list": lambda: [],
    "nothing": lambda: None,
    "an object of other fields": lambda: {"spec": {}},
    "an object that is nested deeply": lambda: {"rayservice": deep(300)},
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_a_revision_that_cannot_be_read(data: Callable[[], object]) -> None:
    world = settled()
    before = world.children()
    world.put(revision(data(), world.cluster.objects[MODEL_DEPLOYMENT, NAMESPACE, "mixtral"]))
    world.settle()
    assert {key: value for key, value in world.children().items() if key[1] != "hostile"} == before
    goes_on(world)


def test_of_a_flood_of_events_a_pass_looks_at_the_newest() -> None:
    world = settled()
    rayservice = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]
    for number in range(1000):
        event = warning(kind="RayService", name="mixtral", uid=rayservice["metadata"]["uid"])
        event["metadata"]["name"] = f"flood-{number}"
        world.put(event | {"lastTimestamp": f"2026-11-23T00:{number // 60:02}:{number % 60:02}Z"})
    deployment = ModelDeployment.model_validate(world.deployment())
    observed = asyncio.run(observe(world.cluster, deployment))
    assert [event["metadata"]["name"] for event in observed.events] == [
        f"flood-{number}" for number in range(999, 499, -1)
    ]
    goes_on(world)

"""Replicas wanted and answering, and the condition Scaled: why more are wanted, and what the missing ones wait for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from tests.scenes import make_deployment, make_plan, make_pod, make_rayservice

from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import KubeRay, Observed
from conclave.modeldeployment.status import derive_status

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def worker(name: str, *, ready: bool = True) -> JsonObject:
    pod = make_pod("worker", name=name)
    pod["status"]["conditions"] = [{"type": "Ready", "status": str(ready)}]
    return pod


def pending(name: str) -> JsonObject:
    pod = make_pod("worker", name=name)
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}
    return pod


SCALING = MappingProxyType({"minReplicas": 1, "maxReplicas": 3, "targetConcurrency": 2, "idleSeconds": 30})


def of_cluster(name: str, pod: JsonObject) -> JsonObject:
    pod["metadata"]["labels"]["ray.io/cluster"] = name
    return pod


class Case(NamedTuple):
    pods: tuple[JsonObject, ...]
    replicas: tuple[int, int]
    status: str
    reason: str
    words: tuple[str, ...]
    scaling: Mapping[str, Any] = SCALING
    nodes: int = 1
    serving: bool = True
    asked: int = 0
    suspend: bool = False
    ready: bool = True


CASES = {
    "as many as the floor": Case(
        (worker("a"),), (1, 1), "True", "AsWanted", ("1 of 1 replicas are ready", "scaling.minReplicas is 1")
    ),
    "more than the floor, by load": Case(
        (worker("a"), worker("b")),
        (2, 2),
        "True",
        "AsWanted",
        ("2 of 2 replicas are ready; the load, now or in the", "last 30 s", "carry 2 requests in flight"),
    ),
    "by load of a target from the plan": Case(
        (worker("a"), worker("b")),
        (2, 2),
        "True",
        "AsWanted",
        ("the plan's number of requests in flight",),
        scaling={"minReplicas": 1, "maxReplicas": 3},
    ),
    "a replica has no node while another answers": Case(
        (worker("a"), pending("b")),
        (2, 1),
        "False",
        "Unschedulable",
        (
            "1 of 2 replicas are ready",
            "The ready replicas keep serving. The missing replicas: ",
            "Pod llm/b: no node can take the pod",
            "Insufficient nvidia.com/gpu",
        ),
    ),
    "a replica whose pod runs and whose engine starts": Case(
        (worker("a"), worker("b", ready=False)),
        (2, 1),
        "False",
        "EngineStarting",
        ("1 of 2 replicas are ready", "an engine is starting"),
    ),
    "pods that KubeRay has been asked for and has not made": Case(
        (worker("a"),), (3, 1), "False", "EngineStarting", ("1 of 3 replicas are ready",), asked=3
    ),
    "a replica of two pods, of which the engine's own is ready": Case(
        (worker("a"), worker("b", ready=False)), (1, 1), "True", "AsWanted", ("1 of 1",), nodes=2
    ),
    "half a replica more is a replica that is missing": Case(
        (worker("a"), worker("b", ready=False), worker("c", ready=False)),
        (2, 1),
        "False",
        "EngineStarting",
        ("1 of 2",),
        nodes=2,
    ),
    "none answers yet": Case(
        (worker("a", ready=False),),
        (1, 0),
        "False",
        "EngineStarting",
        ("0 of 1 replicas are ready; condition Ready has the reason",),
        serving=False,
        ready=False,
    ),
    "one of the two that the floor asks for answers": Case(
        (worker("a"), worker("b", ready=False)),
        (2, 1),
        "False",
        "EngineStarting",
        ("1 of 2 replicas are ready; condition Ready has the reason",),
        scaling={"minReplicas": 2, "maxReplicas": 2},
        ready=False,
    ),
    "the pods of a cluster that is to take over are no further replica": Case(
        (worker("a"), of_cluster("mixtral-next", worker("b", ready=False))),
        (1, 1),
        "True",
        "AsWanted",
        ("1 of 1 replicas are ready",),
    ),
    "none is wanted, by a floor of 0 that is stored": Case(
        (),
        (0, 0),
        "True",
        "AsWanted",
        ("0 of 0", "minReplicas 0 was stored before admission refused it", "set scaling.minReplicas to 1 or more"),
        scaling={"minReplicas": 0, "maxReplicas": 1},
    ),
    "the floor of 0 is stored and load has brought a replica": Case(
        (worker("a"),),
        (1, 1),
        "True",
        "AsWanted",
        ("1 of 1 replicas are ready", "Scaling to zero comes with a later version"),
        scaling={"minReplicas": 0, "maxReplicas": 1},
    ),
    "it is suspended": Case(
        (worker("a"),), (0, 0), "Unknown", "Suspended", ("no replica is wanted",), suspend=True, ready=False
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_status_says_how_many_are_wanted_how_many_answer_and_why(case: Case) -> None:
    deployment = make_deployment({"scaling": dict(case.scaling), "suspend": case.suspend})
    rayservice = make_rayservice(serving=case.serving)
    active = rayservice["status"].setdefault("activeServiceStatus", {"rayClusterName": "mixtral"})
    active["rayClusterStatus"] = {"desiredWorkerReplicas": 7}  # of minutes ago
    groups = [{"groupName": "gpu", "replicas": case.asked}]
    cluster = {"metadata": {"name": active["rayClusterName"]}, "spec": {"workerGroupSpecs": groups}}
    observed = Observed(
        kuberay=KubeRay(installed=True),
        rayservice=rayservice,
        rayclusters=(cluster,),
        pods=(make_pod("head"), *case.pods),
        claims={"weights": "Bound"},
    )
    plan = make_plan(tensor=2 * case.nodes, nodes=case.nodes)
    status = derive_status(deployment, observed, Decision(plan=plan), Outcome(), NOW)
    (scaled,) = (condition for condition in status.conditions if condition.type == "Scaled")
    (ready,) = (condition for condition in status.conditions if condition.type == "Ready")
    assert (status.replicas, status.ready_replicas) == case.replicas
    assert (scaled.status, scaled.reason) == (case.status, case.reason)
    assert [words for words in case.words if words not in scaled.message] == []
    assert ("comes with a later version" in scaled.message) == (case.scaling["minReplicas"] == 0)
    assert (ready.status == "True") == case.ready

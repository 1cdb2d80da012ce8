"""More than one operator process: leadership, takeover, and a newer version over running models."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.testbed.audit import Request
from tests.integration.testbed.helm import OperatorAccount
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.kuberay import KubeRay
from tests.integration.testbed.operator import API, KIND, Operator, claim, model_deployment

Json = dict[str, Any]
RAY = "ray.io/v1"
MODELS = tuple(f"model-{number}" for number in range(10))
NEWER = """
import sys
import conclave
conclave.__version__ = "99.0.0"
from conclave.modeldeployment.serving import pods
pods.TERMINATION_GRACE_PERIOD_S += 60
from conclave_cli.main import main
sys.argv = ["conclave", *sys.argv[1:]]
main()
"""
"""The same operator with another version and a builder that builds otherwise: what an upgrade is."""


@pytest.fixture
def start(kube: Kube, operator_account: OperatorAccount) -> Iterator[Callable[..., Operator]]:
    """`start(name, program?)` starts one more operator process for this test."""
    started: list[Operator] = []

    def one(name: str, *program: str) -> Operator:
        operator = Operator(kube, operator_account, name, *([program] if program else []))
        operator.start("--resync-seconds=5")
        started.append(operator)
        return operator

    yield one
    for operator in started:
        operator.stop()


@pytest.fixture
def cluster(
    kube: Kube, kuberay: KubeRay, conclave_crds: None, namespace: str, fake_gpu_node: Callable[..., str]
) -> Iterator[Kube]:
    fake_gpu_node("h100-many", "NVIDIA-H100-80GB-HBM3", 8, 81559)
    kube.apply(claim(), namespace=namespace)
    yield kube
    kube.kubectl("delete", "modeldeployments", "--all", "--namespace", namespace, "--wait=false")


def rayservices(kube: Kube, namespace: str) -> dict[str, Json]:
    return {item["metadata"]["name"]: item for item in kube.list(RAY, "RayService", namespace)}


def mutating(kube: Kube, user: str, since: int) -> list[Request]:
    """The operators' mutating requests, the Lease's excepted; their events have names of their own."""
    requests = kube.audit.requests(user=user, since=since, mutating=True)
    return [request for request in requests if request.resource not in ("leases", "events")]


def settle(kube: Kube, user: str) -> None:
    """Until nobody of them has written anything for two seconds."""

    def is_quiet() -> bool:
        mark = kube.audit.mark()
        time.sleep(2)
        return not mutating(kube, user, mark)

    eventually(is_quiet, timeout=60)


def test_only_the_leader_writes_and_a_standby_takes_over(
    cluster: Kube, namespace: str, start: Callable[..., Operator], operator_account: OperatorAccount
) -> None:
    first = start("first")
    first.leads()
    second = start("second")
    eventually(lambda: second.probe("/readyz")[0] == 200)
    cluster.apply(model_deployment("before"), namespace=namespace)
    eventually(lambda: "before" in rayservices(cluster, namespace))
    assert second.metric("conclave_leader") == 0
    assert second.metric("conclave_writes_total") == 0
    assert second.metric("conclave_reconciles_total") == 0
    assert second.probe("/healthz")[0] == 200
    settle(cluster, operator_account.user)

    first.process.signal(signal.SIGSTOP)  # it neither renews nor knows that time passes
    second.leads()
    cluster.apply(model_deployment("after"), namespace=namespace)
    eventually(lambda: "after" in rayservices(cluster, namespace))
    settle(cluster, operator_account.user)
    mark = cluster.audit.mark()
    cluster.patch(API, KIND, "before", {"spec": {"scaling": {"maxReplicas": 3}}}, namespace)
    first.process.signal(signal.SIGCONT)
    eventually(lambda: not first.running)
    assert "no longer held" in first.log.read_text()
    assert first.stop() != 0
    settle(cluster, operator_account.user)
    writes = [
        (request.verb, request.resource, request.name)
        for request in mutating(cluster, operator_account.user, mark)
        if request.resource in ("rayservices", "controllerrevisions")
    ]
    assert sorted(resource for _, resource, _ in writes) == ["controllerrevisions", "rayservices"]  # by one of them


def test_a_leader_that_ends_well_hands_over_at_once(
    cluster: Kube, namespace: str, start: Callable[..., Operator]
) -> None:
    first, second = start("first"), start("second")
    leader = eventually(lambda: next((one for one in (first, second) if one.metric("conclave_leader") == 1), None), 60)
    leader.leads()
    other = second if leader is first else first
    eventually(lambda: other.probe("/readyz")[0] == 200)
    assert leader.stop(grace_s=20) == 0, leader.log.read_text()[-4000:]
    lease = cluster.get("coordination.k8s.io/v1", "Lease", "conclave", "conclave-system")
    assert lease is not None
    other.leads()


def test_a_newer_operator_rolls_no_running_model_and_says_that_it_could(
    cluster: Kube,
    namespace: str,
    start: Callable[..., Operator],
    operator_account: OperatorAccount,
    tmp_path: Path,
) -> None:
    old = start("older")
    old.leads()
    cluster.apply(*(model_deployment(name) for name in MODELS), namespace=namespace)
    eventually(lambda: set(rayservices(cluster, namespace)) == set(MODELS), timeout=90)
    eventually(lambda: all(_condition(cluster, namespace, name, "PlanReady") == "True" for name in MODELS))
    old.stop()
    before = {name: item["spec"] for name, item in rayservices(cluster, namespace).items()}
    program = tmp_path / "newer.py"
    program.write_text(NEWER)
    mark = cluster.audit.mark()
    newer = start("newer", sys.executable, str(program))
    newer.leads()
    eventually(
        lambda: all(_condition(cluster, namespace, name, "UpdateAvailable") == "True" for name in MODELS), timeout=60
    )
    requests = cluster.audit.requests(user=operator_account.user, since=mark, mutating=True)
    assert [request for request in requests if request.resource == "rayservices"] == []
    assert {name: item["spec"] for name, item in rayservices(cluster, namespace).items()} == before

    annotation = {"metadata": {"annotations": {"conclave.dev/refresh": "now"}}}
    cluster.patch(API, KIND, MODELS[0], annotation, namespace)
    eventually(lambda: _condition(cluster, namespace, MODELS[0], "UpdateAvailable") == "False")
    after = rayservices(cluster, namespace)
    assert after[MODELS[0]]["spec"] != before[MODELS[0]]
    assert {name: after[name]["spec"] for name in MODELS[1:]} == {name: before[name] for name in MODELS[1:]}


def _condition(kube: Kube, namespace: str, name: str, kind: str) -> str:
    status = (kube.get(API, KIND, name, namespace) or {}).get("status") or {}
    found: str = next((item["status"] for item in status.get("conditions", []) if item["type"] == kind), "")
    return found

"""The condition EgressEnforced: what the canaries of worker pods found, and what their words are worth."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from tests.scenes import SETTINGS, make_deployment, make_plan, make_pod, make_rayservice

from conclave.api.modeldeployment import Condition
from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import KubeRay, Observed
from conclave.modeldeployment.serving.network_policy import build_network_policies
from conclave.modeldeployment.status import derive_status

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TARGET = "10.96.0.1:443"
POLICY = "NetworkPolicy llm/mixtral"


def worker(message: str | None, *, name: str = "w1", state: str = "terminated", has_canary: bool = True) -> JsonObject:
    """A running worker whose canary left these words; none where it has not ended."""
    pod = make_pod("worker", name=name)
    pod["spec"]["initContainers"] = [{"name": "egress-canary"}] if has_canary else []
    if message is not None:
        ended = {"exitCode": 0, "reason": "Completed", "message": message}
        pod["status"]["initContainerStatuses"] = [{"name": "egress-canary", "state": {state: ended}}]
    return pod


def report(egress: object, target: object = TARGET) -> str:
    return json.dumps({"egress": egress, "target": target, "seconds": 0.1})


CLOSED, OPEN = worker(report("closed")), worker(report("open"), name="w2")


def conditions(*pods: JsonObject, spec: dict[str, Any] | None = None) -> dict[str, Condition]:
    deployment = make_deployment(spec)
    observed = Observed(
        kuberay=KubeRay(installed=True),
        rayservice=make_rayservice(serving=True),
        pods=(make_pod("head"), *pods),
        claims={"weights": "Bound"},
        network_policies=build_network_policies(deployment, SETTINGS),
    )
    status = derive_status(deployment, observed, Decision(plan=make_plan()), Outcome(), NOW)
    return {condition.type: condition for condition in status.conditions}


def tracing(endpoint: str) -> dict[str, Any]:
    return {"telemetry": {"tracing": {"endpoint": endpoint}}}


class Case(NamedTuple):
    pods: tuple[JsonObject, ...]
    status: str
    reason: str
    words: str
    spec: dict[str, Any] | None = None


CASES: dict[str, Case] = {
    "all were refused": Case(
        (CLOSED, worker(report("closed"), name="w2")),
        "True",
        "EgressClosed",
        f"2 of 2 worker pods have tried to reach the API server at {TARGET}, which {POLICY} does not allow; "
        "none reached it",
    ),
    "one was refused, one has not reported": Case(
        (CLOSED, worker(None, name="w2")), "True", "EgressClosed", "1 of 2 worker pods have tried"
    ),
    "one got through": Case(
        (CLOSED, OPEN),
        "False",
        "EgressOpen",
        f"Pod llm/w2: reached the API server at {TARGET}, which {POLICY} does not allow. Use a network "
        "plugin that enforces NetworkPolicies",
    ),
    "an address of IPv6": Case(
        (worker(report("open", "[fd00:10:96::1]:443")),),
        "False",
        "EgressOpen",
        "reached the API server at [fd00:10:96::1]:443,",
    ),
    "nobody has reported": Case((worker(None),), "Unknown", "EgressUntested", "no worker pod has reported yet"),
    "there is no worker": Case((), "Unknown", "EgressUntested", "no worker pod has reported yet"),
    "the canary runs again": Case(
        (worker(report("closed"), state="running"),), "Unknown", "EgressUntested", "no worker pod has reported yet"
    ),
    "pods of an older build": Case(
        (worker(None, has_canary=False), worker(None, name="w2")),
        "Unknown",
        "EgressUntested",
        "1 of 2 worker pods have no init container egress-canary",
    ),
    "the canary could not tell": Case(
        (worker(report("unknown")),), "Unknown", "EgressUntested", "no worker pod has reported yet"
    ),
    "tracing to any address on the API server's port, and a pod got through": Case(
        (OPEN,),
        "Unknown",
        "EgressAllowed",
        f"{POLICY} allows any address on port 443",
        tracing("https://otel.example"),
    ),
    "tracing to any address on the port that the pod tried": Case(
        (worker(report("closed", "10.96.0.1:8443")),),
        "Unknown",
        "EgressAllowed",
        "any address on port 8443",
        tracing("https://otel.example:8443"),
    ),
    "tracing to any address on another port": Case(
        (OPEN,), "False", "EgressOpen", "Pod llm/w2: reached", tracing("http://otel.example:4318")
    ),
    "tracing to a Service on the API server's port": Case(
        (CLOSED,), "True", "EgressClosed", "none reached it", tracing("https://otel.monitoring.svc")
    ),
    "suspended": Case((CLOSED,), "Unknown", "Suspended", "spec.suspend is true", {"suspend": True}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_condition_is(case: Case) -> None:
    found = conditions(*case.pods, spec=case.spec)["EgressEnforced"]
    assert (found.status, found.reason) == (case.status, case.reason)
    assert case.words in found.message


FORGED: dict[str, str] = {
    "nothing": "",
    "no JSON": "closed",
    "a list": '["closed"]',
    "a nesting without an end": "[" * 4096,
    "a number": "9" * 4096,
    "another word": report("shut"),
    "a list for a word": report(["open"]),
    "no target": json.dumps({"egress": "closed"}),
    "a target that is a number": report("open", 443),
    "a target with words": report("open", "10.96.0.1:443; all is well"),
    "a target with a line end": report("open", f"{TARGET}\n"),
    "a target with digits of another script": report("open", "10.96.0.1:٤٤٣"),
    "a target without an end": report("open", "a" * 3000 + ":443"),
    "a report beyond what Kubernetes keeps": " " * 4096 + report("closed"),
}


@pytest.mark.parametrize("message", FORGED.values(), ids=FORGED)
def test_what_is_not_of_the_canarys_shape_is_no_report(message: str) -> None:
    found = conditions(worker(message))["EgressEnforced"]
    assert (found.status, found.reason) == ("Unknown", "EgressUntested")


@pytest.mark.parametrize("pod", [CLOSED, OPEN, worker(None)], ids=["closed", "open", "untested"])
def test_it_is_no_part_of_ready(pod: JsonObject) -> None:
    found = conditions(pod)
    assert found["Ready"].status == found["Provisioned"].status == "True"
    assert found["Stalled"].status == found["Reconciling"].status == "False"


def test_a_pod_that_leaves_says_nothing_more() -> None:
    leaving = {**OPEN, "metadata": {**OPEN["metadata"], "deletionTimestamp": "2026-11-23T12:00:00Z"}}
    assert conditions(CLOSED, leaving)["EgressEnforced"].status == "True"


def test_a_policy_that_somebody_edited_is_read_without_a_fault() -> None:
    (policy, head) = build_network_policies(make_deployment(), SETTINGS)
    policy["spec"]["egress"] = [{}, {"ports": [{"protocol": "TCP"}, {"port": "https"}]}]
    observed = Observed(kuberay=KubeRay(installed=True), pods=(CLOSED,), network_policies=(policy, head))
    status = derive_status(make_deployment(), observed, Decision(), Outcome(), NOW)
    assert {condition.type: condition.status for condition in status.conditions}["EgressEnforced"] == "True"

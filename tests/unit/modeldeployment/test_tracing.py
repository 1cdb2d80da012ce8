"""Tracing as the pods are told, and whom they may call for it; nothing changes where it is not set."""

from __future__ import annotations

from typing import Any

import pytest
from tests.scenes import SETTINGS, make_deployment, make_plan

from conclave.engine.tracing import tracing_environment
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.peers import NAMESPACE_NAME
from conclave.modeldeployment.records.record import keys_of
from conclave.modeldeployment.serving.network_policy import build_network_policies
from conclave.modeldeployment.serving.rayservice import build_rayservice
from conclave.settings import OperatorSettings

ENDPOINT = "http://collector.telemetry.svc:4318"


def traced(endpoint: str = ENDPOINT, **more: str) -> Any:
    return make_deployment({"telemetry": {"tracing": {"endpoint": endpoint, **more}}})


def policy(deployment: Any, settings: OperatorSettings = SETTINGS) -> JsonObject:
    return dict(build_network_policies(deployment, settings)[0]["spec"])


def namespace(name: str) -> JsonObject:
    return {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: name}}}


def environments(deployment: Any) -> list[dict[str, str]]:
    cluster = build_rayservice(deployment, make_plan(), SETTINGS)["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    return [
        {variable["name"]: variable["value"] for variable in container["env"]}
        for template in templates
        for container in template["spec"]["containers"]
    ]


def test_head_and_workers_are_told_the_same() -> None:
    told = environments(traced("https://otlp.example/base/", samplingRatio="0.25"))
    assert len(told) == 2
    for environment in told:
        assert environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "https://otlp.example/base/v1/traces"
        assert environment["RAY_SERVE_TRACING_SAMPLING_RATIO"] == "0.25"
        assert environment["OTEL_SERVICE_NAME"] == "mixtral"


def test_where_nothing_is_traced_no_process_is_told_and_no_record_is_another() -> None:
    plain, empty = make_deployment(), make_deployment({"telemetry": {}})
    assert tracing_environment(plain) == {}
    assert "traces_url" not in build_rayservice(plain, make_plan(), SETTINGS)["spec"]["serveConfigV2"]
    assert build_rayservice(empty, make_plan(), SETTINGS) == build_rayservice(plain, make_plan(), SETTINGS)
    assert (keys_of(empty).spec, keys_of(empty).shape) == (keys_of(plain).spec, keys_of(plain).shape)
    assert keys_of(traced()).shape != keys_of(plain).shape


@pytest.mark.parametrize(
    ("endpoint", "port", "to"),
    [
        pytest.param(ENDPOINT, 4318, namespace("telemetry"), id="a Service"),
        pytest.param(
            "http://collector.telemetry.svc.cluster.local:4318", 4318, namespace("telemetry"), id="its whole name"
        ),
        pytest.param("http://collector:4318", 4318, namespace("llm"), id="a Service beside the deployment"),
        pytest.param("https://10.1.2.3", 443, {"ipBlock": {"cidr": "10.1.2.3/32"}}, id="an address"),
        pytest.param("http://otlp.example", 80, None, id="a host that is no Service"),
        pytest.param("http://collector.svc.example:4318", 4318, None, id="a host with svc in its name"),
    ],
)
def test_pods_may_call_the_collector_and_nobody_else(endpoint: str, port: int, to: JsonObject | None) -> None:
    before, after = policy(make_deployment())["egress"], policy(traced(endpoint))["egress"]
    rule: JsonObject = {"ports": [{"protocol": "TCP", "port": port}]}
    assert after == [*before, rule | ({"to": [to]} if to else {})]


def test_scrapers_reach_the_metrics_and_nothing_else() -> None:
    peer = {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "monitoring"}}}
    settings = SETTINGS.model_copy(update={"metrics_from": (peer,)})
    before, after = policy(make_deployment()), policy(make_deployment(), settings)
    assert not any(rule.get("ports") == [{"protocol": "TCP", "port": 8080}] for rule in before["ingress"])
    assert after == {
        **before,
        "ingress": [*before["ingress"], {"from": [peer], "ports": [{"protocol": "TCP", "port": 8080}]}],
    }

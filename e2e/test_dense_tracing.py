"""One request, one trace, from the proxy to vLLM, in Jaeger; nothing of a prompt in any sink; metrics from pods."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from e2e.bed.dense import NAME, Dense
from e2e.bed.models import Model, request
from e2e.bed.site import STRANGERS, SYSTEM
from tests.eventually import eventually

CANARY = "canary-9b27-in-the-prompt"
CHAIN = ["proxy_http_request", "route_to_replica", "replica_handle_request", f"chat {NAME}"]
CHAIN += ["route_to_replica", "replica_handle_request", "llm_request"]
SERIES = [
    "ray_vllm_time_to_first_token_seconds",
    "ray_vllm_generation_tokens_total",
    "ray_serve_num_http_requests_total",
]
DROPPED = "ray_conclave_trace_spans_dropped_total"


def chat(model: Model, **headers: str) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": CANARY}], "max_tokens": 5, "user": CANARY}
    status, text = model.ask("/v1/chat/completions", body, token=model.token(), more_headers=headers)
    assert status == 200, text


def traced(model: Model) -> str:
    """The id of a trace that the client began."""
    trace_id = secrets.token_hex(16)
    chat(model, traceparent=f"00-{trace_id}-00f067aa0ba902b7-01", baggage=f"text={CANARY}")
    return trace_id


def scrape(model: Model) -> str:
    """All of the metrics of its pods, as the scrapers' namespace gets them."""
    texts = []
    for pod in model.running_pods():
        status, text = request(model.site, f"http://{pod['status']['podIP']}:8080/metrics")
        assert status == 200, text
        texts.append(text)
    return "\n".join(texts)


@pytest.fixture(scope="module")
def trace(dense: Dense, dense_model: Model) -> dict[str, Any]:
    trace_id = traced(dense_model)

    def whole() -> dict[str, Any]:
        found = dense.traces.trace(trace_id)
        assert len(found.get("spans", [])) >= len(CHAIN), found
        return found

    return eventually(whole, timeout=60, every=2)


def test_a_request_is_one_line_of_spans_from_the_proxy_to_vllm(trace: dict[str, Any]) -> None:
    names, parent = [], "00f067aa0ba902b7"
    spans = {span["references"][0]["spanID"]: span for span in trace["spans"]}
    while parent in spans:
        names.append(spans[parent]["operationName"])
        parent = spans[parent]["spanID"]
    assert names == CHAIN
    assert len(trace["spans"]) == len(CHAIN)


def test_the_spans_come_from_several_processes(trace: dict[str, Any]) -> None:
    assert len({span["processID"] for span in trace["spans"]}) > 1


def test_vllm_says_how_long_a_request_queued_and_computed(trace: dict[str, Any]) -> None:
    (span,) = (span for span in trace["spans"] if span["operationName"] == "llm_request")
    tags = {tag["key"]: tag["value"] for tag in span["tags"]}
    times = [f"gen_ai.latency.time_in_{part}" for part in ("queue", "model_prefill", "model_decode")]
    assert all(float(tags[time]) >= 0 for time in times), tags


def test_what_nobody_sampled_is_not_there(dense: Dense, dense_model: Model, trace: dict[str, Any]) -> None:
    chat(dense_model)
    sampled = traced(dense_model)
    eventually(lambda: len(dense.traces.trace(sampled).get("spans", [])) == len(CHAIN), timeout=60, every=2)
    others = [found for found in dense.traces.everything() if found["traceID"] not in (trace["traceID"], sampled)]
    assert [span["operationName"] for found in others for span in found["spans"]] == []


@pytest.mark.parametrize("series", SERIES)
def test_metrics_of_pods_can_be_scraped(dense_model: Model, series: str) -> None:
    assert series in scrape(dense_model)


def test_who_may_not_scrape_reaches_nothing(dense_model: Model) -> None:
    for pod in dense_model.running_pods():
        url = f"http://{pod['status']['podIP']}:8080/metrics"
        assert request(dense_model.site, url, namespace=STRANGERS, timeout_s=10)[0] == 0


def test_the_operators_metrics_can_be_scraped(dense_model: Model) -> None:
    texts = []
    for pod in dense_model.site.kubectl.list("pods", SYSTEM, "app.kubernetes.io/name=conclave"):
        status, text = request(dense_model.site, f"http://{pod['status']['podIP']}:8080/metrics")
        assert status == 200
        texts.append(text)
    assert "conclave_" in "".join(texts)


def test_no_sink_has_the_prompt(dense: Dense, dense_model: Model, trace: dict[str, Any]) -> None:
    kept = json.dumps(dense.traces.everything())
    assert trace["traceID"] in kept
    assert CANARY not in kept
    assert CANARY not in scrape(dense_model)
    assert dense_model.sinks_with(CANARY) == []


def test_without_a_collector_requests_are_answered_and_drops_are_counted(dense: Dense, dense_model: Model) -> None:
    dense.traces.stop()
    try:
        traced(dense_model)
        assert dense_model.ask("/v1/models", token=dense_model.token())[0] == 200
        eventually(lambda: DROPPED in scrape(dense_model), timeout=90, every=3)
    finally:
        dense.traces.start()

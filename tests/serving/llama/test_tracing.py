"""`conclave up` with telemetry.tracing: a trace of each request through all processes, no content in it, no waiting."""

from __future__ import annotations

import json
import re
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.eventually import eventually
from tests.serving.deployed import log_text
from tests.serving.llama.collector import Collector, Received
from tests.serving.llama.served import BASE, Llama

ROOT = Path(__file__).parents[3]
CANARY = "canary-5e1f0c7a"
ARRIVES_S = 30.0
CHAIN = ["proxy_http_request", "route_to_replica", "replica_handle_request", f"chat {BASE}"]
CHAIN += ["route_to_replica", "replica_handle_request", "llm_request"]


class Traced(NamedTuple):
    """A running `conclave up` that exports to a collector."""

    collector: Collector
    url: str
    key: str
    logs: Path

    def chat(self, *, parent: str | None = None, path: str = "chat/completions", **fields: Any) -> tuple[int, bytes]:
        """Status and body of a request with the canary in all that holds text."""
        body = {
            "model": BASE,
            "messages": [{"role": "user", "content": f"Say {CANARY}"}],
            "max_tokens": 5,
            "stop": [CANARY],
            "user": CANARY,
            **fields,
        }
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": "application/json",
            "tracestate": f"vendor={CANARY}",
            "baggage": f"text={CANARY}",
            "x-request-id": CANARY,
        }
        if parent is not None:
            headers["traceparent"] = parent
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def trace_of(self, number: int, **fields: Any) -> list[Received]:
        """The trace of a request with a sampled parent, from the proxy's span down, once `number` spans are there."""
        trace_id = secrets.token_hex(16)
        self.chat(parent=f"00-{trace_id}-00f067aa0ba902b7-01", **fields)
        eventually(lambda: len(self.collector.trace(trace_id)) >= number, ARRIVES_S)
        spans = self.collector.trace(trace_id)
        return in_line(spans, "00f067aa0ba902b7")

    def metrics(self) -> str:
        """What Ray's agent lets Prometheus scrape."""
        found = json.loads((self.logs.parents[1] / "prom_metrics_service_discovery.json").read_text())
        with urllib.request.urlopen(f"http://{found[0]['targets'][0]}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def dropped(self) -> float:
        samples = re.findall(r"^ray_conclave_trace_spans_dropped_total\{[^}]*\} (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, samples))


def in_line(spans: list[Received], parent_id: str) -> list[Received]:
    """The spans, each the parent of the next; fails where one has two children."""
    line: list[Received] = []
    while children := [span for span in spans if span.parent_id == parent_id]:
        (child,) = children
        line.append(child)
        parent_id = child.span_id
    assert len(line) == len(spans), f"spans outside of the line: {[span.name for span in spans if span not in line]}"
    return line


@pytest.fixture(scope="module")
def traced(llama: Llama) -> Traced:
    return Traced(llama.collector, llama.url, llama.key, llama.logs)


def test_a_request_is_one_line_of_spans_from_the_clients_parent_to_vllm(traced: Traced) -> None:
    spans = traced.trace_of(len(CHAIN))
    assert [span.name for span in spans] == CHAIN
    assert {span.resource["service.name"] for span in spans} == {BASE}
    proxy, _, ingress, generation, _, engine, vllm = spans
    assert len({span.resource["process.pid"] for span in (proxy, ingress, engine)}) == 3
    assert vllm.resource["process.pid"] == engine.resource["process.pid"]
    assert generation.resource["process.pid"] == ingress.resource["process.pid"]
    assert [span.attributes["http.response.status_code"] for span in (proxy, ingress)] == [200, 200]
    assert not any(span.is_error for span in spans)
    first_chunk_s = generation.attributes.pop("gen_ai.response.time_to_first_chunk")
    assert generation.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": BASE,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": vllm.attributes["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": int(traced.url.rsplit(":")[-1].removesuffix("/v1")),
    }
    parts = ["time_in_queue", "time_in_model_prefill", "time_in_model_decode"]
    assert 0 < sum(vllm.attributes[f"gen_ai.latency.{part}"] for part in parts) < first_chunk_s
    assert vllm.attributes["gen_ai.usage.output_tokens"] == 5


def test_a_stream_is_traced_to_its_end(traced: Traced) -> None:
    spans = traced.trace_of(len(CHAIN), stream=True, stream_options={"include_usage": True}, temperature=0.5)
    assert [span.name for span in spans] == CHAIN
    attributes = spans[3].attributes
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert attributes["gen_ai.usage.output_tokens"] == 5


def test_the_engines_refusal_is_told_by_its_kind(traced: Traced) -> None:
    long = [{"role": "user", "content": f"{CANARY} " * 600}]
    spans = traced.trace_of(6, messages=long)
    assert [span.name for span in spans] == CHAIN[:-1]
    assert spans[0].attributes["http.response.status_code"] == 400
    assert spans[3].attributes["error.type"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"max_tokens": -1}, 400), ({"path": CANARY}, 404), ({"model": CANARY}, 404)],
    ids=["a limit", "a path", "a model"],
)
def test_what_the_edge_refuses_ends_there(traced: Traced, fields: dict[str, Any], status: int) -> None:
    spans = traced.trace_of(3, **fields)
    assert [span.name for span in spans] == CHAIN[:3]
    assert spans[0].attributes["http.response.status_code"] == status


def test_only_what_is_sampled_is_traced(traced: Traced) -> None:
    unsampled = secrets.token_hex(16)
    before = {span.trace_id for span in traced.collector.spans()}
    assert traced.chat(parent=f"00-{unsampled}-00f067aa0ba902b7-00")[0] == 200
    assert traced.chat(parent="no-trace-context")[0] == 200
    assert traced.chat()[0] == 200
    # Every process exports this one's spans after those of the requests above.
    (trace_id,) = {span.trace_id for span in traced.trace_of(len(CHAIN))}
    assert {span.trace_id for span in traced.collector.spans()} - before == {trace_id}


def test_no_word_of_a_request_is_in_any_span_log_or_metric(traced: Traced) -> None:
    assert traced.trace_of(len(CHAIN), stream=True)
    assert all(span.events == 0 for span in traced.collector.spans())
    assert CANARY.encode() not in b"".join(traced.collector.raw)
    assert CANARY not in log_text(traced.logs)
    assert CANARY not in traced.metrics()


@pytest.mark.parametrize("fault", ["hangs", "gone"])
def test_without_a_collector_requests_are_answered_and_what_is_dropped_is_counted(traced: Traced, fault: str) -> None:
    before = traced.dropped()
    if fault == "hangs":
        traced.collector.hangs.set()
    else:
        traced.collector.stop()
    trace_id = secrets.token_hex(16)
    for _ in range(3):
        status, body = traced.chat(parent=f"00-{trace_id}-00f067aa0ba902b7-01")
        assert (status, json.loads(body)["usage"]["completion_tokens"]) == (200, 5)
    eventually(lambda: traced.dropped() >= before + 3 * len(CHAIN), 90)
    assert traced.collector.trace(trace_id) == []
    assert "not taken, and dropped, by" in log_text(traced.logs)


def test_the_series_of_the_page_are_in_a_scrape(traced: Traced) -> None:
    """The last: what counts errors and drops is there once there were some."""
    listed = set(re.findall(r"`(ray_[a-z_]+)`", (ROOT / "docs" / "observability.md").read_text()))
    assert len(listed) > 10
    eventually(lambda: listed <= set(re.findall(r"^# TYPE (\S+)", traced.metrics(), re.MULTILINE)), 60)

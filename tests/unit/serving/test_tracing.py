"""What leaves in a span, which spans there are, and what becomes of them where nobody takes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace.span import TraceState

from conclave_openai.errors import invalid
from conclave_openai.spans.export import QUEUED_SPANS, Bounded
from conclave_openai.spans.generation import SPAN_ATTRIBUTES, Generations
from conclave_serving.tracing import ALLOWLIST, ATTRIBUTES, PROXY_SPAN, SCOPE, sampler

CANARY = "canary-91bd"
URL = "http://collector:4318/v1/traces"
SAMPLED, UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


def parent(flags: TraceFlags) -> Context:
    state = TraceState([("vendor", CANARY)])
    return set_span_in_context(
        NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=flags, trace_state=state))
    )


@pytest.mark.parametrize(
    ("name", "ratio", "flags", "is_traced"),
    [
        pytest.param(PROXY_SPAN, 1.0, None, True, id="a new trace begins at the proxy"),
        pytest.param(PROXY_SPAN, 0.0, None, False, id="the ratio is for those without a parent"),
        pytest.param("llm_request", 1.0, None, False, id="no trace begins behind the proxy"),
        pytest.param(PROXY_SPAN, 0.0, SAMPLED, True, id="the client says that it is traced"),
        pytest.param(PROXY_SPAN, 1.0, UNSAMPLED, False, id="the client says that it is not"),
        pytest.param("llm_request", 0.0, SAMPLED, True, id="behind the proxy the parent says it"),
    ],
)
def test_which_spans_there_are(name: str, ratio: float, flags: TraceFlags | None, is_traced: bool) -> None:
    tracer = TracerProvider(sampler=sampler(ratio), shutdown_on_exit=False).get_tracer("test")
    context = Context() if flags is None else parent(flags)
    assert tracer.start_span(name, context=context).is_recording() is is_traced


def ended(scope: str, name: str, **attributes: Any) -> ReadableSpan:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer(scope)
    span: Any = tracer.start_span(name, context=parent(SAMPLED), attributes=attributes)
    span.record_exception(ValueError(CANARY))
    span.add_event(CANARY, {"text": CANARY})
    span.set_status(Status(StatusCode.ERROR, CANARY))
    span.end()
    return span  # type: ignore[no-any-return]


def test_of_a_span_only_what_is_listed_leaves() -> None:
    content = {"gen_ai.input.messages": CANARY, "gen_ai.request.stop_sequences": [CANARY], "http.route": CANARY}
    span = ended("ray.serve", f"{PROXY_SPAN} ingress POST /{CANARY}", app="mixtral", **content)
    left = ALLOWLIST.applied(span)
    assert CANARY not in left.to_json() + str(left.context) + str(left.parent)
    assert left.name == PROXY_SPAN
    assert dict(left.attributes or {}) == {"ray.serve.application": "mixtral", "error.type": "ValueError"}
    assert (left.status.status_code, left.events, left.start_time) == (StatusCode.ERROR, (), span.start_time)
    assert left.parent is not None
    assert (left.parent.trace_id, left.parent.span_id) == (1, 2)


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_no_attribute_leaves_that_is_not_listed(attributes: dict[str, str]) -> None:
    left = ALLOWLIST.applied(ReadableSpan(name=PROXY_SPAN, attributes=attributes))
    assert set(left.attributes or {}) <= set(ATTRIBUTES.values()) | {"error.type"}


def test_no_attribute_of_content_is_listed() -> None:
    """OpenTelemetry's names for what a client wrote or a model answered, and for what HTTP takes from a client."""
    content = ("messages", "instructions", "definitions", "stop_sequences", "prompt", "completion.", "tool", "content")
    of_client = ("http.route", "http.target", "http.url", "url.", "user_agent", "http.request", "client.", "enduser")
    listed = [*ATTRIBUTES, *ATTRIBUTES.values()]
    assert [name for name in listed if any(part in name for part in (*content, *of_client))] == [
        name for name in listed if name.endswith("prompt_tokens")
    ]


def test_what_vllm_names_in_its_own_way_leaves_under_todays_names() -> None:
    counts = {"gen_ai.usage.prompt_tokens": 7, "gen_ai.usage.completion_tokens": 5, "gen_ai.latency.time_in_queue": 0.5}
    attributes = dict(ALLOWLIST.applied(ended("vllm", "llm_request", **counts)).attributes or {})
    del attributes["error.type"]
    assert attributes == {
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.latency.time_in_queue": 0.5,
    }


class Collector(SpanExporter):
    """Answers as it is told, once it is told to."""

    def __init__(self, result: SpanExportResult) -> None:
        self.result = result
        self.answers = threading.Event()
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.answers.wait()
        self.taken += len(spans)
        return self.result

    def shutdown(self) -> None:
        self.answers.set()


@pytest.mark.parametrize("result", SpanExportResult, ids=lambda result: result.name)
def test_a_collector_that_hangs_holds_up_nothing_and_costs_what_finds_no_room(result: SpanExportResult) -> None:
    dropped: list[tuple[int, str]] = []
    collector = Collector(result)
    processor = Bounded(collector, URL, ALLOWLIST, lambda count, reason: dropped.append((count, reason)))
    tracer = TracerProvider(shutdown_on_exit=False)
    tracer.add_span_processor(processor)
    for _ in range(QUEUED_SPANS + 10):
        tracer.get_tracer("test").start_span("span").end()
    assert dropped == [(1, "queue_full")] * 10
    collector.answers.set()
    processor.force_flush()
    assert collector.taken == QUEUED_SPANS
    failed = sum(count for count, reason in dropped if reason == "export_failed")
    assert failed == (0 if result is SpanExportResult.SUCCESS else QUEUED_SPANS)
    tracer.get_tracer("test").start_span("there is room again").end()
    tracer.shutdown()
    assert collector.taken == QUEUED_SPANS + 1


class Recorded:
    """A tracer, and the spans that ended."""

    def __init__(self) -> None:
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        self.generations = Generations(SCOPE, get_tracer=provider.get_tracer)
        self.spans = exporter.get_finished_spans


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": CANARY}], "stop": [CANARY], "user": CANARY}


def answered(request: dict[str, Any], *bodies: bytes) -> ReadableSpan:
    """The span of a request that is answered with these bodies."""
    recorded = Recorded()

    async def send(message: Any) -> None:
        """To nobody."""

    async def answer() -> None:
        with recorded.generations.traced(request, ("10.0.0.1", 8000)) as traced:
            watched = traced.watched(send)
            await watched({"type": "http.response.start", "status": 200, "headers": []})
            for body in bodies:
                await watched({"type": "http.response.body", "body": body})

    asyncio.run(answer())
    (span,) = recorded.spans()
    return span


def test_a_generation_tells_figures_and_no_content() -> None:
    forged = '\\"finish_reason\\":\\"' + CANARY + '\\"'
    span = answered(
        {**CHAT, "max_completion_tokens": 9, "top_p": 0.5, "n": 2, "stream": True, "temperature": 2**70},
        f'data: {{"choices":[{{"index":0,"delta":{{"content":"{forged}"}},"finish_reason":null}}]}}\n\n'.encode(),
        b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"length"}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":8,"total_tokens":11}}\n\ndata: [DONE]\n\n',
    )
    attributes = dict(span.attributes or {})
    assert attributes.pop("gen_ai.response.time_to_first_chunk")
    assert span.name == "chat tiny"
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ("stop", "length"),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 8,
        "server.address": "10.0.0.1",
        "server.port": 8000,
    }
    assert CANARY not in span.to_json()
    assert set(dict(span.attributes or {})) <= SPAN_ATTRIBUTES


@pytest.mark.parametrize(
    ("failure", "kind", "status"),
    [
        pytest.param(invalid("no"), "invalid_value", StatusCode.UNSET, id="a refusal is the client's error"),
        pytest.param(ValueError(CANARY), "ValueError", StatusCode.ERROR, id="a fault is told by its type"),
        pytest.param(asyncio.CancelledError(), "CancelledError", StatusCode.ERROR, id="a client that went"),
    ],
)
def test_a_failure_passes_and_leaves_its_type(failure: BaseException, kind: str, status: StatusCode) -> None:
    recorded = Recorded()
    with pytest.raises(type(failure)), recorded.generations.traced(CHAT, None):
        raise failure
    (span,) = recorded.spans()
    assert dict(span.attributes or {})["error.type"] == kind
    assert (span.status.status_code, span.events) == (status, ())
    assert CANARY not in span.to_json()


def test_the_answer_of_an_untraced_request_is_not_looked_at() -> None:
    async def send(message: Any) -> None:
        """To nobody."""

    with Generations().traced(CHAT, None) as traced:
        assert traced.watched(send) is send

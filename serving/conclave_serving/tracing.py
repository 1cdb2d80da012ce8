"""Spans of the serving processes: one tracer provider for Ray Serve's, vLLM's and our own, and what leaves in them.

Serve calls `span_processors` in every proxy and replica, named by the environment of `conclave.engine.tracing`.
Exceptions, paths and methods may hold what a client sent: so only the attributes below leave, no event, no status text.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, SpanKind, Status
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from conclave_serving.generation import SCOPE, SPAN_ATTRIBUTES

QUEUED_SPANS = 2048
BATCH_SPANS = 512
BATCH_INTERVAL_S = 1.0
EXPORT_TIMEOUT_S = 2.0
"""For a batch, retries included: a collector that hangs costs its own thread this, and spans."""

PROXY_SPAN = "proxy_http_request"
"""Where Ray Serve lets a request's trace begin."""

ATTRIBUTES: Mapping[str, str] = {
    **{name: name for name in SPAN_ATTRIBUTES},
    # Of Ray Serve; under OpenTelemetry's names of today where it has one.
    "app": "ray.serve.application",
    "deployment": "ray.serve.deployment",
    "replica_id": "ray.serve.replica_id",
    "request_id": "ray.serve.request_id",
    "call_method": "ray.serve.method",
    "http.status_code": "http.response.status_code",
    # Of vLLM.
    "gen_ai.latency.e2e": "gen_ai.latency.e2e",
    "gen_ai.latency.time_in_model_decode": "gen_ai.latency.time_in_model_decode",
    "gen_ai.latency.time_in_model_inference": "gen_ai.latency.time_in_model_inference",
    "gen_ai.latency.time_in_model_prefill": "gen_ai.latency.time_in_model_prefill",
    "gen_ai.latency.time_in_queue": "gen_ai.latency.time_in_queue",
    "gen_ai.latency.time_to_first_token": "gen_ai.latency.time_to_first_token",
    "gen_ai.request.id": "gen_ai.response.id",
    "gen_ai.request.n": "gen_ai.request.choice.count",
    "gen_ai.usage.completion_tokens": "gen_ai.usage.output_tokens",
    "gen_ai.usage.prompt_tokens": "gen_ai.usage.input_tokens",
}
"""What may leave, by the name that it has here, and the name under which it leaves. None holds what a client wrote,
but the model's name, which the edge has compared."""

logger = logging.getLogger("ray.serve")

CountDropped = Callable[[int, str], None]


def span_processors() -> list[SpanProcessor]:
    """Makes our tracer provider the process's, and gives Serve nothing to add to the one that it then makes.

    Called once in a process, before Serve and vLLM set theirs: OpenTelemetry keeps the first.
    """
    url = os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
    exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S)
    # One line when the collector goes and one when it comes is ours to write; these would be several for each batch.
    for noisy in ("opentelemetry.exporter.otlp", "opentelemetry.trace"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    where: dict[str, AttributeValue] = {"host.name": socket.gethostname(), "process.pid": os.getpid()}
    provider = TracerProvider(
        resource=Resource.create(where), sampler=sampler(float(os.environ["RAY_SERVE_TRACING_SAMPLING_RATIO"]))
    )
    provider.add_span_processor(Bounded(exporter, url, _ray_counter()))
    trace.set_tracer_provider(provider)
    return []


def sampler(ratio: float) -> Sampler:
    """The parent's decision; where there is none, a trace begins at the proxy or not at all.

    Serve hands no context on for a request that is not sampled: each process after the proxy would decide anew, and
    traces would begin in their middle.
    """
    return ParentBased(root=_AtTheProxy(ratio))


class _AtTheProxy(TraceIdRatioBased):
    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if name != PROXY_SPAN:
            return SamplingResult(Decision.DROP)
        return super().should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)


class Bounded(BatchSpanProcessor):
    """A batch processor that holds so many spans and no more, those on their way included; what is dropped is counted.

    Nothing waits for it: a span that finds no room is gone.
    """

    def __init__(self, exporter: SpanExporter, url: str, count_dropped: CountDropped) -> None:
        self._room = threading.BoundedSemaphore(QUEUED_SPANS)
        self._count_dropped = count_dropped
        super().__init__(
            _Allowlisted(exporter, url, count_dropped, self._room),
            max_queue_size=QUEUED_SPANS,
            max_export_batch_size=BATCH_SPANS,
            schedule_delay_millis=BATCH_INTERVAL_S * 1000,
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Called by the thread that ends the span."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._room.acquire(blocking=False):
            super().on_end(span)
        else:
            self._count_dropped(1, "queue_full")


class _Allowlisted(SpanExporter):
    """Exports what may leave, and frees its room."""

    def __init__(
        self, exporter: SpanExporter, url: str, count_dropped: CountDropped, room: threading.BoundedSemaphore
    ) -> None:
        self._exporter = exporter
        self._url = url
        self._count_dropped = count_dropped
        self._room = room
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export([allowlisted(span) for span in spans])
        finally:
            self._room.release(len(spans))
        fails = result is not SpanExportResult.SUCCESS
        if fails:
            self._count_dropped(len(spans), "export_failed")
        if fails != self._fails:
            self._fails = fails
            logger.warning("spans are %s by %s", "not taken, and dropped," if fails else "taken again", self._url)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def allowlisted(span: ReadableSpan) -> ReadableSpan:
    """The span without what may hold a request's content; a recorded exception leaves its type, as `error.type`."""
    attributes = {ATTRIBUTES[name]: value for name, value in (span.attributes or {}).items() if name in ATTRIBUTES}
    for event in span.events:
        kind = (event.attributes or {}).get("exception.type")
        if kind is not None:
            attributes.setdefault("error.type", kind)
    status = attributes.get("http.response.status_code")
    if isinstance(status, str) and status.isdecimal():  # of replicas; the proxies' is a number
        attributes["http.response.status_code"] = int(status)
    scope = span.instrumentation_scope
    return ReadableSpan(
        # Serve's names go on with the path that the client asked for; ours with a model's name.
        name=span.name if scope is not None and scope.name == SCOPE else span.name.partition(" ")[0],
        context=_without_state(span.context),
        parent=_without_state(span.parent),
        resource=span.resource,
        attributes=attributes,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=scope,
    )


def _without_state(context: SpanContext | None) -> SpanContext | None:
    """Its `tracestate` is the client's, word for word."""
    if context is None:
        return None
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


def _ray_counter() -> CountDropped:
    from ray.util.metrics import Counter

    counter = Counter(
        "conclave_trace_spans_dropped",
        description="Spans that the collector did not get: no room in the queue, or not taken.",
        tag_keys=("reason",),
    )

    def count(spans: int, reason: str) -> None:
        counter.inc(spans, tags={"reason": reason})

    return count

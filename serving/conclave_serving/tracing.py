"""One tracer provider for the spans of Ray Serve, vLLM and the edge.

Serve calls `span_processors` in every proxy and replica; the pods' environment names it (`conclave.engine.tracing`).
`ATTRIBUTES` says what may leave in a span.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from conclave_openai.spans.export import Allowlist, Bounded, CountDropped
from conclave_openai.spans.generation import SPAN_ATTRIBUTES

SCOPE = "conclave_serving"
"""The instrumentation scope of our own spans."""
EXPORT_TIMEOUT_S = 2.0
"""For one batch, retries included. A collector that hangs holds up the exporting thread only, and costs spans."""

PROXY_SPAN = "proxy_http_request"
"""The span in which Ray Serve begins the trace of a request."""

ATTRIBUTES: Mapping[str, str] = {
    **{name: name for name in SPAN_ATTRIBUTES},
    # Ray Serve's attributes. They leave under OpenTelemetry's present name where there is one.
    "app": "ray.serve.application",
    "deployment": "ray.serve.deployment",
    "replica_id": "ray.serve.replica_id",
    "request_id": "ray.serve.request_id",
    "call_method": "ray.serve.method",
    "http.status_code": "http.response.status_code",
    # vLLM's attributes.
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
"""Each attribute that may leave, and the name under which it leaves. Of a client's text only the model's name is among
them, which the edge has compared with the models of the endpoint."""
ALLOWLIST = Allowlist(ATTRIBUTES, frozenset({SCOPE}))
"""Serve's names of spans go on with the path that the client asked for; ours with a model's name."""

logger = logging.getLogger("ray.serve")


def span_processors() -> list[SpanProcessor]:
    """Make our tracer provider the provider of this process. The empty list adds nothing to the provider of Serve.

    Serve calls it once in a process, before Serve and vLLM set providers of their own: OpenTelemetry keeps the first.
    """
    url = os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
    exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S)
    # `Bounded` logs one line when the collector goes and one when it returns. These loggers would log several a batch.
    for noisy in ("opentelemetry.exporter.otlp", "opentelemetry.trace"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    where: dict[str, AttributeValue] = {"host.name": socket.gethostname(), "process.pid": os.getpid()}
    provider = TracerProvider(
        resource=Resource.create(where), sampler=sampler(float(os.environ["RAY_SERVE_TRACING_SAMPLING_RATIO"]))
    )
    provider.add_span_processor(Bounded(exporter, url, ALLOWLIST, _ray_counter(), logger))
    trace.set_tracer_provider(provider)
    return []


def sampler(ratio: float) -> Sampler:
    """A span follows its parent's decision. A trace without a parent begins at the proxy or not at all.

    Serve passes no context on for a request that is not sampled. Each process after the proxy would decide again, and
    traces would begin in the middle.
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

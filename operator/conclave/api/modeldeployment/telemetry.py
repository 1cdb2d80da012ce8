"""`spec.telemetry`: what the serving processes report, and to whom."""

from __future__ import annotations

from conclave.api.base import ApiModel
from conclave.api.formats import SamplingRatio, TraceEndpoint


class Tracing(ApiModel):
    """Traces of requests, sent by OTLP over HTTP. A trace never contains a prompt or an answer
    (docs/observability.md)."""

    endpoint: TraceEndpoint
    """Base URL of the collector, for instance http://collector.telemetry.svc:4318. Spans are sent to /v1/traces below
    it."""
    sampling_ratio: SamplingRatio = "0.01"
    """Share of the requests without the header `traceparent` that are traced. A request with this header is traced when
    the header says so."""


class Telemetry(ApiModel):
    """What the serving processes report, and to which collector."""

    tracing: Tracing | None = None

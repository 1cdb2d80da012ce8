"""`spec.telemetry`: what the serving processes report, and to whom."""

from __future__ import annotations

from conclave.api.base import ApiModel
from conclave.api.formats import SamplingRatio, TraceEndpoint


class Tracing(ApiModel):
    """Traces of requests, by OTLP over HTTP; never with a prompt or an answer in them (docs/observability.md)."""

    endpoint: TraceEndpoint
    """Base URL of the collector, for instance http://collector.telemetry.svc:4318; spans go to /v1/traces below it."""
    sampling_ratio: SamplingRatio = "0.01"
    """Share of the requests without a `traceparent` that are traced; a client's `traceparent` says it for its own."""


class Telemetry(ApiModel):
    """What the serving processes report, and to whom."""

    tracing: Tracing | None = None

"""OpenTelemetry spans of each reconcile; without an OTLP endpoint in the environment they go nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager

from opentelemetry import trace

from conclave import __version__

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def set_up_tracing(environment: Mapping[str, str] = os.environ) -> bool:
    """Exports spans by OTLP over HTTP where the standard variables name an endpoint; answers whether they do."""
    if not any(environment.get(name) for name in _ENDPOINTS):
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "conclave-operator", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


def span(name: str, attributes: Mapping[str, str] | None = None) -> AbstractContextManager[trace.Span]:
    """A span below the current one. Of an exception it tells nothing: its words may be of anybody's object."""
    return trace.get_tracer("conclave_operator").start_as_current_span(
        name, attributes=dict(attributes or {}), record_exception=False, set_status_on_exception=False
    )

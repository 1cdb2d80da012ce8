"""Exports spans without content, and never waits for the collector.

`Bounded` holds so many spans and drops the others. An `Allowlist` says what may leave in a span: exceptions, paths and
methods may hold what a client sent, so no event and no status text leaves, and of the attributes only those listed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, Status

OWN_LOGGER = logging.getLogger(__name__)

QUEUED_SPANS = 2048
BATCH_SPANS = 512
BATCH_INTERVAL_S = 1.0

CountDropped = Callable[[int, str], None]
"""Takes a number of spans that did not reach the collector, and why."""


@dataclass(frozen=True)
class Allowlist:
    """What may leave in a span."""

    attributes: Mapping[str, str]
    """Each attribute that may leave, and the name under which it leaves."""
    named_scopes: frozenset[str]
    """Instrumentation scopes whose span names may leave whole. Of any other name only the first word leaves."""

    def applied(self, span: ReadableSpan) -> ReadableSpan:
        """The span with what may leave. The type of a recorded exception leaves as `error.type`."""
        attributes = {
            self.attributes[name]: value for name, value in (span.attributes or {}).items() if name in self.attributes
        }
        for event in span.events:
            kind = (event.attributes or {}).get("exception.type")
            if kind is not None:
                attributes.setdefault("error.type", kind)
        status = attributes.get("http.response.status_code")
        if isinstance(status, str) and status.isdecimal():
            attributes["http.response.status_code"] = int(status)
        scope = span.instrumentation_scope
        is_named = scope is not None and scope.name in self.named_scopes
        return ReadableSpan(
            name=span.name if is_named else span.name.partition(" ")[0],
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
    """The context without `tracestate`, which is the client's own text."""
    if context is None:
        return None
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


class Bounded(BatchSpanProcessor):
    """A batch processor that holds QUEUED_SPANS spans at most, including the spans on their way to the collector.

    A span that finds no room is dropped and counted. No thread waits for room.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        url: str,
        allowlist: Allowlist,
        count_dropped: CountDropped,
        logger: logging.Logger = OWN_LOGGER,
    ) -> None:
        self._room = threading.BoundedSemaphore(QUEUED_SPANS)
        self._count_dropped = count_dropped
        super().__init__(
            _Allowlisted(exporter, url, allowlist, count_dropped, self._room, logger),
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
    """Exports what may leave of each span, and then frees the span's room."""

    def __init__(
        self,
        exporter: SpanExporter,
        url: str,
        allowlist: Allowlist,
        count_dropped: CountDropped,
        room: threading.BoundedSemaphore,
        logger: logging.Logger,
    ) -> None:
        self._exporter = exporter
        self._url = url
        self._allowlist = allowlist
        self._count_dropped = count_dropped
        self._room = room
        self._logger = logger
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export([self._allowlist.applied(span) for span in spans])
        finally:
            self._room.release(len(spans))
        fails = result is not SpanExportResult.SUCCESS
        if fails:
            self._count_dropped(len(spans), "export_failed")
        if fails != self._fails:
            self._fails = fails
            self._logger.warning("spans are %s by %s", "not taken, and dropped," if fails else "taken again", self._url)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

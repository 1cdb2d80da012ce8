"""An OTLP/HTTP collector on this machine: takes spans as protobuf and keeps them; it can also hang, and be gone."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Received(NamedTuple):
    """A span as it came over the wire."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    is_error: bool
    events: int


class Collector:
    """Listens from the start; `raw` has every body, for a search in all that arrived."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.hangs = threading.Event()
        self._released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if collector.hangs.is_set():
                    collector._released.wait()
                    self.close_connection = True
                    return
                assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
                collector.raw.append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_request(self, *_: object) -> None:
                """Nothing is written."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """From now on connections are refused."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Received]:
        """All spans so far."""
        found = []
        for body in list(self.raw):
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = _attributes(of_resource.resource.attributes)
                found += [
                    Received(
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        name=span.name,
                        attributes=_attributes(span.attributes),
                        resource=resource,
                        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
                        events=len(span.events),
                    )
                    for of_scope in of_resource.scope_spans
                    for span in of_scope.spans
                ]
        return found

    def trace(self, trace_id: str) -> list[Received]:
        """The spans of one trace."""
        return [span for span in self.spans() if span.trace_id == trace_id]


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)

"""Spans leave the process where an endpoint is set; the receiver is a real HTTP server, the sender a real process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

PROGRAM = """
from conclave_operator.tracing import set_up_tracing, span
assert set_up_tracing()
with span("reconcile", {"conclave.model_deployment": "mixtral"}), span("observe"):
    pass
"""


def test_spans_are_exported_by_otlp_over_http() -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=60)
        server.shutdown()
        thread.join()
    assert {path for path, _ in received} == {"/v1/traces"}
    body = b"".join(body for _, body in received)
    for text in (b"reconcile", b"observe", b"mixtral", b"conclave-operator"):
        assert text in body

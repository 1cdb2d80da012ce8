"""What an answer that is none becomes: data, since one odd answer must not end the operator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from kubernetes.aio.client import Configuration

from conclave.observation import UNREACHABLE, ApiFailure
from conclave_cluster.client import Client, RequestError


@pytest.fixture
def answers() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """The address of a server, and what it answers: the last entry, over and over."""
    answers: list[tuple[int, bytes]] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[-1]
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", answers
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "code", "reason"),
    [
        pytest.param(200, b"", 0, UNREACHABLE, id="200 without a body, as of a group whose last CRD is going"),
        pytest.param(200, b"<html>", 0, UNREACHABLE, id="200 of something else than an API server"),
        pytest.param(404, b"404 page not found\n", 404, "HTTP404", id="404 in plain text"),
    ],
)
def test_an_answer_that_is_no_json_is_a_failure_and_no_crash(
    answers: tuple[str, list[tuple[int, bytes]]], status: int, body: bytes, code: int, reason: str
) -> None:
    address, given = answers
    given.append((status, body))

    async def ask() -> ApiFailure:
        async with Client(Configuration(host=address)) as client:
            with pytest.raises(RequestError) as raised:
                await client.open_api("ray.io", "v1")
            return raised.value.failure

    failure = asyncio.run(ask())
    assert (failure.verb, failure.resource, failure.code, failure.reason) == ("get", "openapi", code, reason)

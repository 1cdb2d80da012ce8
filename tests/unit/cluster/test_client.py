"""What an answer that is none becomes: data, since one odd answer must not end the operator."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from kubernetes.aio.client import Configuration

from conclave.kubernetes.failures import UNREACHABLE, ApiFailure
from conclave_cluster.client import LONGEST_MESSAGE, Client, RequestError
from conclave_cluster.resources import POD


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


@pytest.mark.parametrize("body", [b"{}", b'{"items": {}}', b'{"items": null, "metadata": {}}', b'{"items": []}', b"[]"])
def test_a_list_that_is_none_is_a_failure(answers: tuple[str, list[tuple[int, bytes]]], body: bytes) -> None:
    address, given = answers
    given.append((200, body))

    async def ask() -> ApiFailure:
        async with Client(Configuration(host=address)) as client:
            with pytest.raises(RequestError) as raised:
                await client.list(POD)
            return raised.value.failure

    assert asyncio.run(ask()).code == 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param(b'{"object": "' + b"\\u003c" * 1_000_000 + b'"}', 1, id="a line that is too long to be read"),
        pytest.param(b"<html>", 1, id="a line that is no JSON"),
        pytest.param(b'{"object": [' + b"[" * 5000 + b"]" * 5000 + b"]}", 2, id="a line nested too deeply, as null"),
    ],
)
def test_a_watch_that_cannot_go_on_asks_for_a_new_list(
    answers: tuple[str, list[tuple[int, bytes]]], line: bytes, told: int
) -> None:
    address, given = answers
    given.append((200, b'{"type": "ADDED"}\n' + line + b"\n"))

    async def ask() -> tuple[int, int]:
        count, code = 0, 200
        async with Client(Configuration(host=address)) as client:
            try:
                async for _ in client.watch(POD, "", lambda: None):
                    count += 1
            except RequestError as error:
                code = error.failure.code
        return count, code

    assert asyncio.run(ask()) == (told, 410 if told == 1 else 200)


def test_words_of_a_refusal_are_cut_and_on_one_line(answers: tuple[str, list[tuple[int, bytes]]]) -> None:
    address, given = answers
    words = "no\n\x1b[31m" + "x" * 100_000
    given.append((422, json.dumps({"reason": "Invalid", "message": words}).encode()))

    async def ask() -> ApiFailure:
        async with Client(Configuration(host=address)) as client:
            with pytest.raises(RequestError) as raised:
                await client.list(POD)
            return raised.value.failure

    message = asyncio.run(ask()).message
    assert message.startswith(r"no\n\x1b[31mxxx")
    assert message.isprintable()
    assert message.endswith("x…")
    assert len(message) <= LONGEST_MESSAGE

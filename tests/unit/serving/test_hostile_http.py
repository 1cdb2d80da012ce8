"""What held when it was attacked: spellings of the token, of paths, and requests that two servers read differently.

Over raw sockets, through a plain uvicorn with the door, the proxy's layer and the edge.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.serving.hostile_requests import AUTHORIZATIONS, PATHS, SMUGGLED, TOKEN
from tests.unit.serving.listening import connect, listening, read_to_end, status_of

from conclave_openai.authorization import BearerToken
from conclave_openai.connections.limits import ConnectionLimits
from conclave_openai.edge import Edge
from conclave_openai.limits.request import load_limits
from conclave_serving.proxy import OutermostLayer

MODEL = "tiny/mixtral"
BODY = json.dumps({"model": MODEL, "prompt": "hello"}).encode()


class Application:
    """Stands where the ingress stands."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture(scope="module")
def application() -> Application:
    return Application()


@pytest.fixture(scope="module")
def port(application: Application, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN)
    limits = load_limits()
    edge = Edge(application, models=(MODEL,), authorization=BearerToken(path), limits=limits)
    with listening(
        OutermostLayer(edge, body_bytes=limits.body_bytes, authorization=BearerToken(path)), ConnectionLimits()
    ) as port:
        yield port


def ask(port: int, raw: bytes) -> bytes:
    with connect(port) as connection:
        connection.sendall(raw)
        return read_to_end(connection)


def head(method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "host: x", "connection: close", *lines, "", ""]).encode(
        "latin-1"
    )


def code(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])


@pytest.mark.parametrize("name", AUTHORIZATIONS)
@pytest.mark.parametrize("target", ["/v1/models", "/pause"])
def test_another_spelling_of_the_token_is_401(port: int, application: Application, name: str, target: str) -> None:
    before = len(application.paths)
    answer = ask(port, head("GET", target, *AUTHORIZATIONS[name]))
    assert (status_of(answer), code(answer)) == (401, "invalid_api_key")
    assert len(application.paths) == before


@pytest.mark.parametrize("line", [f"authorization: Bearer {TOKEN}", f"AUTHORIZATION:bearer  {TOKEN} "])
def test_the_token_opens(port: int, line: str) -> None:
    assert status_of(ask(port, head("GET", "/v1/models", line))) == 200


@pytest.mark.parametrize("target", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_spelling_of_a_path_is_404(port: int, application: Application, method: str, target: str) -> None:
    before = len(application.paths)
    answer = ask(port, head(method, target, f"authorization: Bearer {TOKEN}", "content-length: 0"))
    assert status_of(answer) == 404
    assert len(application.paths) == before


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_request_that_two_servers_read_differently_is_refused_once(
    port: int, application: Application, name: str
) -> None:
    before = len(application.paths)
    answer = ask(port, SMUGGLED[name])
    assert answer.count(b"HTTP/1.1 ") == 1
    assert status_of(answer) in (400, 408, 413)
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}
    assert len(application.paths) == before


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("deflate", gzip.compress(b" " * (64 << 20))[10:-8]),
        ("br", b"\x0b\x02\x80{}\x03"),
    ],
)
def test_a_compressed_body_is_not_unpacked(port: int, application: Application, encoding: str, body: bytes) -> None:
    before = len(application.paths)
    lines = [f"authorization: Bearer {TOKEN}", "content-type: application/json", f"content-encoding: {encoding}"]
    answer = ask(port, head("POST", "/v1/completions", *lines, f"content-length: {len(body)}") + body)
    assert (status_of(answer), code(answer)) == (400, "invalid_json")
    assert len(application.paths) == before


def test_the_same_request_unspoilt_is_answered(port: int, application: Application) -> None:
    lines = [f"authorization: Bearer {TOKEN}", "content-type: application/json", f"content-length: {len(BODY)}"]
    assert status_of(ask(port, head("POST", "/v1/completions", *lines) + BODY)) == 200
    assert application.paths[-1] == "/v1/completions"

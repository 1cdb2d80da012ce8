"""The edge without Ray: two instances in one plain uvicorn process hold what the edge inside Serve holds.

The tables of hostile requests are the same. Each instance has its own limits, its own credentials and its own door.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.unit.serving.hostile_requests import AUTHORIZATIONS, PATHS, SMUGGLED, TOKEN
from tests.unit.serving.listening import connect, read_to_end, status_of
from tests.unit.serving.plain_edges import KEYS, MODELS, SMALL_BODY_BYTES, SMALL_HEAD_BYTES
from tests.unit.serving.test_edge import BAD_BODIES, CANARY

ROOT = Path(__file__).parents[3]
CHAT = "/v1/chat/completions"
KEY, NARROW_KEY = KEYS
MESSAGES = [{"role": "user", "content": "hello"}]


class Edges(NamedTuple):
    log: Path
    ports: list[int]


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edges]:
    """Both edges. At their end they say which barred packages were loaded: none."""
    folder = tmp_path_factory.mktemp("edges")
    (folder / "token").write_text(TOKEN)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.unit.serving.plain_edges", str(folder / "token")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "log").read_text()
        yield Edges(folder / "log", json.loads(line))
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(said)) == (0, [])


@pytest.fixture(params=[0, 1], ids=["one token", "many keys"])
def edge(edges: Edges, request: pytest.FixtureRequest) -> tuple[int, str]:
    """Port and credential of an edge."""
    return edges.ports[request.param], (TOKEN, KEY)[request.param]


class Answer(NamedTuple):
    status: int | None
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.raw.partition(b"\r\n\r\n")[2]))

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


def ask(port: int, method: str, target: str, *lines: str, body: bytes | None = None) -> Answer:
    head = [f"{method} {target} HTTP/1.1", "host: x", "connection: close", *lines]
    if body is not None:
        head += ["content-type: application/json", f"content-length: {len(body)}"]
    with connect(port) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + (body or b""))
        raw = read_to_end(connection)
    return Answer(status_of(raw), raw)


def bearer(credential: str) -> str:
    return f"authorization: Bearer {credential}"


def chat(port: int, credential: str, **fields: object) -> Answer:
    body = json.dumps({"model": MODELS[0], "messages": MESSAGES, **fields}).encode()
    return ask(port, "POST", CHAT, bearer(credential), body=body)


def test_the_edge_names_no_logger_of_serves() -> None:
    modules = list((ROOT / "serving/conclave_openai").rglob("*.py"))
    assert len(modules) > 20
    assert [module.name for module in modules if "ray.serve" in module.read_text()] == []


def test_each_edge_answers_its_own_callers(edge: tuple[int, str]) -> None:
    port, credential = edge
    answer = chat(port, credential)
    names = {TOKEN: ("one token", "direct"), KEY: ("many keys", "key 0")}[credential]
    expected = {"backend": MODELS[0], "path": CHAT, "headers": 0, "id": 32}
    assert (answer.status, answer.body) == (200, {"edge": names[0], "caller": names[1], **expected})


def test_an_edges_credential_opens_no_other_edge(edges: Edges) -> None:
    first, second = edges.ports
    for port, credential in [(first, KEY), (second, TOKEN)]:
        answer = chat(port, credential)
        assert (answer.status, answer.code) == (401, "invalid_api_key")


@pytest.mark.parametrize("name", AUTHORIZATIONS)
def test_another_spelling_of_the_credential_is_401(edge: tuple[int, str], name: str) -> None:
    port, credential = edge
    for target in ("/v1/models", "/pause"):
        lines = [
            line.replace(TOKEN, credential).replace(TOKEN.upper(), credential.upper()) for line in AUTHORIZATIONS[name]
        ]
        answer = ask(port, "GET", target, *lines)
        assert (answer.status, answer.code) == (401, "invalid_api_key")


@pytest.mark.parametrize("target", PATHS)
def test_another_spelling_of_a_path_is_404(edge: tuple[int, str], target: str) -> None:
    port, credential = edge
    for method in ("GET", "POST"):
        assert ask(port, method, target, bearer(credential), "content-length: 0").status == 404


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_request_that_two_servers_read_differently_is_refused_once(edge: tuple[int, str], name: str) -> None:
    port, credential = edge
    with connect(port) as connection:
        connection.sendall(SMUGGLED[name].replace(TOKEN.encode(), credential.encode()))
        raw = read_to_end(connection)
    assert raw.count(b"HTTP/1.1 ") == 1
    assert status_of(raw) in (400, 408, 413)
    assert set(Answer(400, raw).body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_refused_without_echo(edges: Edges, name: str) -> None:
    content, param = BAD_BODIES[name]
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = ask(edges.ports[0], "POST", CHAT, bearer(TOKEN), body=body)
    error = answer.body["error"]
    assert (answer.status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert CANARY.encode() not in answer.raw


@pytest.mark.parametrize("excess", [0, 1], ids=["at its limit", "one byte more"])
def test_each_edge_has_its_own_limit_of_a_body(edges: Edges, excess: int) -> None:
    empty = json.dumps({"model": MODELS[0], "messages": [{"role": "user", "content": ""}]})
    content = "x" * (SMALL_BODY_BYTES + excess - len(empty))
    statuses = [chat(*each, messages=[{"role": "user", "content": content}]).status for each in each_edge(edges)]
    assert statuses == [200, 413 if excess else 200]


def each_edge(edges: Edges) -> list[tuple[int, str]]:
    return list(zip(edges.ports, (TOKEN, KEY), strict=True))


def test_each_edge_has_its_own_limit_of_a_field(edges: Edges) -> None:
    answers = [chat(*each, n=3) for each in each_edge(edges)]
    assert [answer.status for answer in answers] == [200, 400]
    assert "more than 2 sequences" in answers[1].body["error"]["message"]


def test_each_edge_has_its_own_door(edges: Edges) -> None:
    line = f"x-filler: {'x' * SMALL_HEAD_BYTES}"
    assert [
        ask(port, "GET", "/v1/models", bearer(credential), line).status for port, credential in each_edge(edges)
    ] == [
        200,
        431,
    ]


@pytest.mark.parametrize(("model", "status"), [(MODELS[0], 404), (MODELS[1], 200)], ids=["another's", "its own"])
def test_a_model_that_a_key_may_not_use_does_not_exist_for_it(edges: Edges, model: str, status: int) -> None:
    _, port = edges.ports
    asked = chat(port, NARROW_KEY, model=model)
    shown = ask(port, "GET", f"/v1/models/{model}", bearer(NARROW_KEY))
    assert (asked.status, shown.status) == (status, status)
    if status == 404:
        absent = chat(port, NARROW_KEY, model="no/such-model")
        assert asked.body == shown.body == absent.body


def test_a_backends_failure_is_hidden_from_the_client_and_logged_without_content(
    edge: tuple[int, str], edges: Edges
) -> None:
    logged_before = len(edges.log.read_text())
    answer = chat(*edge, seed=500, stop=CANARY)
    assert (answer.status, answer.code) == (500, "internal_error")
    logged = edges.log.read_text()
    assert "request failed: ValueError at" in logged[logged_before:]
    assert CANARY not in logged


def test_a_stream_that_breaks_ends_in_an_error_event(edge: tuple[int, str]) -> None:
    answer = chat(*edge, seed=501, stream=True, stop=CANARY)
    assert answer.status == 200
    assert b'data: {"error": ' in answer.raw
    assert b"internal_error" in answer.raw
    assert b"[DONE]" not in answer.raw

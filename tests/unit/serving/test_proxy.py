"""The outermost layer of Serve's proxy: what it takes from requests, and which answers it replaces."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uvicorn.config import HTTP_PROTOCOLS

from conclave.engine.arguments import CONNECTIONS_PER_ADDRESS_VARIABLE, TOKEN_FILE_VARIABLE
from conclave_openai.authorization import BearerToken
from conclave_openai.connections.door import Door
from conclave_openai.limits.request import load_limits
from conclave_serving.proxy import MESSAGE_BYTES, OutermostLayer, middlewares

LIMITS = load_limits()
CANARY = "canary-91ab"


def ask(
    status: int, content_type: str, body: bytes, headers: list[tuple[bytes, bytes]], path: str = "/"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The scope that Serve sees, and the messages that the client gets."""
    seen: dict[str, Any] = {}
    sent: list[dict[str, Any]] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        start = [(b"content-type", content_type.encode()), (b"retry-after", b"5"), (b"x-request-id", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": body})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    asyncio.run(OutermostLayer(serve, body_bytes=LIMITS.body_bytes)(scope, receive, send))
    return seen, sent


@pytest.mark.parametrize(
    "name",
    [
        "x-request-id",
        "X_Request_Id",
        "x-session-id",
        "serve_multiplexed_model_id",
        "Serve-Multiplexed-Model-Id",
        "x-request-timeout-seconds",
        "x-request-disconnect-disabled",
        "x-serve-router-x",
    ],
)
def test_headers_that_steer_serve_are_dropped(name: str) -> None:
    kept = [(b"authorization", b"Bearer x"), (b"traceparent", b"00-1")]
    seen, _ = ask(200, "application/json", b"{}", [(name.encode(), b"x"), *kept])
    assert seen["headers"] == kept


@pytest.mark.parametrize(("status", "code"), [(503, "overloaded"), (404, "unknown_url"), (500, "internal_error")])
def test_an_error_in_plain_text_is_replaced(status: int, code: str) -> None:
    _, (start, body) = ask(status, "text/plain", CANARY.encode(), [])
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"], headers[b"x-request-id"]) == (status, b"5", b"1")
    assert int(headers[b"content-length"]) == len(body["body"])
    assert json.loads(body["body"])["error"]["code"] == code
    assert CANARY not in body["body"].decode()


@pytest.mark.parametrize(
    ("status", "content_type"),
    [(200, "text/plain"), (200, "text/event-stream"), (400, "application/json"), (503, "application/json")],
)
def test_every_other_answer_passes(status: int, content_type: str) -> None:
    _, sent = ask(status, content_type, b"chunk", [])
    assert [message.get("body") for message in sent] == [None, b"chunk", b"chunk"]


def test_the_list_of_routes_is_not_told() -> None:
    seen, (start, body) = ask(200, "application/json", CANARY.encode(), [], "/-/routes")
    assert (seen, start["status"]) == ({}, 404)
    assert json.loads(body["body"])["error"]["code"] == "unknown_url"


def test_health_is_answered_by_serve() -> None:
    seen, (_, body, *_) = ask(200, "text/plain", b"success", [], "/-/healthz")
    assert (seen["path"], body["body"]) == ("/-/healthz", b"success")


@pytest.fixture
def protocols(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """uvicorn's own table, as it was before."""
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    return HTTP_PROTOCOLS  # type: ignore[return-value]


def test_serve_finds_the_layer_and_the_door(protocols: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTIONS_PER_ADDRESS_VARIABLE, "7")
    (middleware,) = middlewares()
    assert middleware.cls is OutermostLayer
    door = protocols["auto"]
    assert isinstance(door, Door)
    assert door.limits.connections_per_address == 7


TOKEN = "the-proxys-own-token-0123456789"


@pytest.mark.parametrize(("named", "status"), [(True, 401), (False, 200)], ids=["named", "of an older build"])
def test_the_layer_checks_the_token_whose_file_the_pod_names(
    protocols: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: bool, status: int
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    if named:
        monkeypatch.setenv(TOKEN_FILE_VARIABLE, str(tmp_path / "token"))
    (middleware,) = middlewares()
    serve = Serve()
    layer = middleware.cls(serve, **middleware.kwargs)
    assert exchange(layer, "/v1/models", []).status == status


class Serve:
    """Queues a request's body whole, as Serve's proxy does, and then answers."""

    def __init__(self, answers_first: int | None = None) -> None:
        self.messages: list[Any] = []
        self._answers_first = answers_first

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._answers_first:
            await send(
                {"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]}
            )
        while True:
            message = await receive()
            self.messages.append(message)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        if not self._answers_first:
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
            )
        await send({"type": "http.response.body", "body": b"{}"})

    @property
    def body_bytes(self) -> int:
        return sum(len(message.get("body", b"")) for message in self.messages)


def start(status: int) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}


class Exchange:
    """What a client got, and how much of its body was asked for."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.sent: list[Any] = []
        self.asked = 0

    async def receive(self) -> Any:
        self.asked += 1
        piece = next(self._pieces, None)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        (first,) = (message for message in self.sent if message["type"] == "http.response.start")
        return int(first["status"])

    @property
    def code(self) -> str:
        return str(json.loads(self.sent[-1]["body"])["error"]["code"])


def exchange(
    layer: Any, path: str, headers: list[tuple[bytes, bytes]], pieces: Iterable[bytes] = (), kind: str = "http"
) -> Exchange:
    made = Exchange(pieces)
    scope = {"type": kind, "method": "POST", "path": path, "headers": headers, "client": ("10.0.0.7", 1)}
    asyncio.run(layer(scope, made.receive, made.send))
    return made


@pytest.fixture
def layer(tmp_path: Path) -> Callable[..., OutermostLayer]:
    (tmp_path / "token").write_text(TOKEN)
    return lambda serve, **bounds: OutermostLayer(
        serve, body_bytes=LIMITS.body_bytes, authorization=BearerToken(tmp_path / "token"), **bounds
    )


BEARER = [(b"authorization", f"Bearer {TOKEN}".encode())]
PIECE = b"x" * 65536


def pieces(body_bytes: int) -> Iterator[bytes]:
    return (PIECE for _ in range(body_bytes // len(PIECE)))


def test_without_the_token_nothing_of_the_body_is_read(
    layer: Callable[..., OutermostLayer], caplog: pytest.LogCaptureFixture
) -> None:
    serve = Serve()
    with caplog.at_level(logging.INFO, "ray.serve"):
        made = exchange(layer(serve), f"/v1/{CANARY}", [(b"authorization", CANARY.encode())], pieces(1 << 30))
    assert (made.status, made.code, made.asked, serve.messages) == (401, "invalid_api_key", 0, [])
    assert dict(made.sent[0]["headers"])[b"www-authenticate"].startswith(b"Bearer")
    assert "POST 401 at the door, from 10.0.0.7" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/-/healthz", 200), ("/-/routes", 404), ("/-/healthz/", 401), ("/-/", 401), ("//-/healthz", 401)],
)
def test_health_alone_is_answered_without_a_token(layer: Callable[..., OutermostLayer], path: str, status: int) -> None:
    assert exchange(layer(Serve()), path, []).status == status


def test_a_websocket_is_refused_before_serve_sees_it(layer: Callable[..., OutermostLayer]) -> None:
    serve = Serve()
    made = exchange(layer(serve), "/v1/models", BEARER, kind="websocket")
    assert ([message["type"] for message in made.sent], serve.messages) == (["websocket.close"], [])


def test_serve_is_given_no_more_of_a_body_than_the_edge_needs_to_refuse_it(
    layer: Callable[..., OutermostLayer],
) -> None:
    serve = Serve()
    made = exchange(layer(serve), "/v1/completions", BEARER, pieces(64 << 20))
    assert LIMITS.body_bytes < serve.body_bytes <= LIMITS.body_bytes + len(PIECE)
    assert made.asked == (64 << 20) // len(PIECE) + 1


def test_serve_is_given_nothing_of_a_body_that_it_has_answered(layer: Callable[..., OutermostLayer]) -> None:
    serve = Serve(answers_first=404)
    assert exchange(layer(serve), "/v1/x", BEARER, pieces(64 << 20)).status == 404
    assert serve.body_bytes == 0


def test_what_is_kept_of_tiny_parts_is_counted(layer: Callable[..., OutermostLayer]) -> None:
    serve = Serve()
    made = exchange(
        layer(serve, waiting_bodies_bytes=1 << 20), "/v1/completions", BEARER, (b"x" for _ in range(1 << 14))
    )
    assert (made.status, made.code) == (503, "overloaded")
    assert serve.body_bytes <= (1 << 20) // MESSAGE_BYTES


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (("10.0.0.7", 1), "10.0.0.7"),
        (("fe80::1%eth0", 1), "fe80::1"),
        ((CANARY, 0), "an unknown address"),
        ((f"fe80::1%{CANARY}", 0), "fe80::1"),
        (("10.0.0.7\n" + CANARY, 0), "an unknown address"),
        (None, "an unknown address"),
    ],
)
def test_a_forwarded_address_that_is_none_is_not_logged(
    layer: Callable[..., OutermostLayer], caplog: pytest.LogCaptureFixture, client: Any, said: str
) -> None:
    made = Exchange([])
    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [], "client": client}
    with caplog.at_level(logging.INFO, "ray.serve"):
        asyncio.run(layer(Serve())(scope, made.receive, made.send))
    assert f"GET 401 at the door, from {said}\n" in caplog.text
    assert CANARY not in caplog.text


def test_all_bodies_together_have_a_bound(layer: Callable[..., OutermostLayer]) -> None:
    serve = Serve()
    bounded = layer(serve, waiting_bodies_bytes=(1 << 20) + 16 * MESSAGE_BYTES)
    made = exchange(bounded, "/v1/completions", BEARER, pieces(4 << 20))
    assert (made.status, made.code) == (503, "overloaded")
    assert dict(made.sent[0]["headers"])[b"retry-after"] == b"5"
    assert serve.body_bytes == 1 << 20
    assert serve.messages[-1] == {"type": "http.disconnect"}
    for _ in range(8):  # what was held is free again
        assert exchange(bounded, "/v1/completions", BEARER, pieces(1 << 20)).status == 200

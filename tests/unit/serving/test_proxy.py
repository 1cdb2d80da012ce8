"""The outermost layer of Serve's proxy: what it takes from requests, and which answers it replaces."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from conclave_serving.proxy import OutermostLayer, middlewares

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

    asyncio.run(OutermostLayer(serve)({"type": "http", "path": path, "headers": headers}, receive, send))
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


def test_serve_finds_the_layer() -> None:
    (middleware,) = middlewares()
    assert middleware.cls is OutermostLayer

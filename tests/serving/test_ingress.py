"""Which failures behind the edge are the client's; Ray and vLLM are imported, not started."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable
from typing import Any

import pytest
from starlette.requests import Request

from conclave_openai.edge import REQUEST, REQUEST_ID
from conclave_openai.errors import RequestError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray, vLLM and torch warn of themselves when they are imported
    from ray.exceptions import RayActorError
    from vllm.exceptions import VLLMServerError

    from conclave_serving.ingress import Ingress

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CANARY = "canary-33d0"


class Refused(Exception):
    """As Ray Serve LLM's own exception for an error that the engine answered."""

    def __init__(self, status_code: int) -> None:
        super().__init__()
        self.status_code, self.message = status_code, CANARY


class FailingIngress(Ingress):
    """An ingress whose engine fails, without Ray's start-up."""

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure
        self._retry_after_s = 3

    async def chat(self, body: Any, request: Request) -> Any:
        if self._failure is not None:
            raise self._failure
        return body


def answer(failure: Exception | None, messages: list[dict[str, object]], **others: object) -> Any:
    fields = {"model": "x", "messages": messages, **others}
    request = Request({"type": "http", "headers": [], REQUEST: fields, REQUEST_ID: "1"})
    asked: Awaitable[Any] = FailingIngress(failure).answer_chat(request)

    async def wait() -> Any:
        return await asked

    return asyncio.run(wait())


HELLO: list[dict[str, object]] = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        pytest.param(Refused(400), 400, id="the engine refused the request"),
        pytest.param(Refused(422), 400, id="the engine refused the request as FastAPI does"),
        pytest.param(RayActorError(), 503, id="the replica died"),
    ],
)
def test_a_failure_that_the_client_can_act_on_is_told(failure: Exception, status: int) -> None:
    with pytest.raises(RequestError) as refusal:
        answer(failure, HELLO)
    assert refusal.value.status == status
    assert CANARY not in str(refusal.value)


@pytest.mark.parametrize(
    "failure",
    [ValueError(CANARY), TypeError(CANARY), VLLMServerError(CANARY), Refused(500)],
    ids=lambda e: type(e).__name__,
)
def test_a_fault_of_ours_is_not_blamed_on_the_client(failure: Exception) -> None:
    with pytest.raises(type(failure)) as raised:
        answer(failure, HELLO)
    assert raised.value is failure


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"role": "user", "content": [{"type": "text", "text": 5}]}, id="a part that is read late"),
        pytest.param({"role": "assistant", "tool_calls": [{"id": [CANARY]}]}, id="a tool call of an odd shape"),
        pytest.param({"role": "user", "content": {"text": CANARY}}, id="content that is an object"),
    ],
)
def test_a_message_of_an_odd_shape_is_the_clients_mistake(message: dict[str, object]) -> None:
    with pytest.raises(RequestError) as refusal:
        answer(None, [message])
    assert (refusal.value.status, CANARY in str(refusal.value)) == (400, False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_logprobs", 3), ("tool_choice", "auto"), ("tool_choice", {"type": "function"})],
    ids=["log probabilities that were not asked for", "a choice of no tools", "a choice of an odd shape"],
)
def test_the_parameter_that_vllm_refuses_is_named(name: str, value: object) -> None:
    with pytest.raises(RequestError) as refusal:
        answer(None, HELLO, **{name: value})
    assert (refusal.value.status, refusal.value.param) == (400, name)


def test_messages_in_parts_reach_the_engine_whole() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert answer(None, [{"role": "user", "content": parts}]).messages[0]["content"] == parts

"""No key that vLLM reads of a message or a part passes the edge but those of text; the names are vLLM's own."""

from __future__ import annotations

import types
import warnings
from typing import Any, Union, get_args, get_origin

import pytest

from conclave_openai.errors import RequestError
from conclave_openai.limits.request import load_limits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn of themselves when they are imported
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatMessage
    from vllm.renderers import chat_utils

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

LIMITS = load_limits()
MODEL = "tiny/mixtral"
ROLES = [*LIMITS.shapes["message"].kinds]
TEXT_KEYS = {"type", "text", "refusal", "name"}


def _keys(union: Any) -> set[str]:
    """Keys of all TypedDicts of a union."""
    if get_origin(union) in (Union, types.UnionType):
        return {key for member in get_args(union) for key in _keys(member)}
    return {*getattr(union, "__required_keys__", ()), *getattr(union, "__optional_keys__", ())}


PART_KEYS = sorted(
    (_keys(chat_utils.ChatCompletionContentPartParam) | {*chat_utils.MM_PARSER_MAP, "image_pil", "uuid"}) - TEXT_KEYS
)
MESSAGE_KEYS = sorted(_keys(chat_utils.ChatCompletionMessageParam))
VALUES: tuple[Any, ...] = (
    "http://169.254.169.254/x",
    {"url": "file:///etc/passwd"},
    [{"type": "function"}],
    1,
    True,
    "",
)


def check(message: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = LIMITS.check("chat", {"model": MODEL, "messages": [message]}, (MODEL,))["messages"][0]
    return kept


def test_vllm_still_names_what_it_reads() -> None:
    assert {"image_url", "video_url", "audio_url", "input_audio", "image_embeds", "image_pil", "uuid"} <= {*PART_KEYS}
    assert {"tools", "task", "reasoning", "tool_calls", "audio", "function_call"} <= {*MESSAGE_KEYS}


@pytest.mark.parametrize("key", PART_KEYS)
@pytest.mark.parametrize("role", ROLES)
def test_a_part_with_a_key_of_media_is_refused(role: str, key: str) -> None:
    for value in VALUES:
        for part in (
            {"type": "text", "text": "hi", key: value},
            {"type": "text", "text": "hi", "uuid": "1", key: value},
            {"type": "refusal", "refusal": "hi", key: value},
            {"type": key, key: value},
            {"type": key, "text": "hi", key: value},
            {key: value},
            {"type": None, "text": "hi", key: value},
        ):
            if key in LIMITS.shapes["content_part"].dropped or (role, part.get("type")) == ("assistant", "thinking"):
                continue
            with pytest.raises(RequestError) as refused:
                check({"role": role, "content": [{"type": "text", "text": "hi"}, part]})
            assert (refused.value.status, refused.value.param) == (400, "messages")


@pytest.mark.parametrize("key", sorted({*PART_KEYS, *MESSAGE_KEYS} - {"role", "content"}))
@pytest.mark.parametrize("role", ROLES)
def test_a_message_keeps_no_key_that_is_not_of_its_role(role: str, key: str) -> None:
    shape = LIMITS.shapes["message"]
    own = {**shape.keys, **shape.kinds[role]}
    for value in VALUES:
        try:
            kept = check({"role": role, "content": "hi", key: value})
        except RequestError:
            continue
        assert key in shape.dropped or isinstance(value, str)
        assert kept.keys() <= {"role", *own}


def test_an_answer_of_the_engine_can_be_sent_back_as_it_is() -> None:
    function = {"name": "f", "arguments": "{}"}
    answers = [
        ChatMessage(role="assistant", content="hi"),
        ChatMessage(role="assistant", content="hi", reasoning="hm"),
        ChatMessage(role="assistant", tool_calls=[{"id": "1", "type": "function", "function": function}]),
    ]
    for answer in answers:
        kept = check(answer.model_dump(mode="json"))
        ChatCompletionRequest.model_validate({"model": MODEL, "messages": [kept]})


def test_vllm_would_read_an_address_that_the_edge_refuses() -> None:
    """The proof of the finding: of a text with a uuid vLLM takes the address of an image."""
    part: Any = {"type": "text", "text": "hi", "uuid": "1", "image_url": "http://169.254.169.254/x"}
    assert chat_utils._parse_chat_message_content_mm_part(part) == ("image_url", "http://169.254.169.254/x")

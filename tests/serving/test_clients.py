"""What real clients send, through OpenAI's own library to a running engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import BadRequestError, omit
from tests.serving.deployed import MAX_MODEL_LEN, Endpoint

pytestmark = pytest.mark.parametrize("endpoint", ["mixtral"], indirect=True)

CASES = {case["id"]: case for case in yaml.safe_load((Path(__file__).parents[1] / "data/requests.yaml").read_text())}
MESSAGES: list[Any] = [{"role": "user", "content": "Good morning!"}]


def ask(endpoint: Endpoint, body: dict[str, Any]) -> Any:
    """The answer, or the chunks of a stream in one list."""
    client = endpoint.openai()
    length = omit if "max_tokens" in body else 4
    if "suffix" in body:
        return client.completions.create(model=endpoint.model, prompt="Good", max_tokens=4, extra_body=body)
    stream = body.get("stream", False)
    answer = client.chat.completions.create(
        model=endpoint.model, messages=MESSAGES, max_tokens=length, stream=stream, extra_body=body
    )
    return list(answer) if stream else answer


@pytest.mark.parametrize("name", CASES)
def test_a_real_body_is_answered_or_refused_by_name(endpoint: Endpoint, name: str) -> None:
    case = CASES[name]
    if case["want"].startswith("400"):
        with pytest.raises(BadRequestError) as refusal:
            ask(endpoint, case["body"])
        assert refusal.value.param in case["body"]
        return
    answer = ask(endpoint, case["body"])
    assert answer if isinstance(answer, list) else answer.choices[0].finish_reason


def test_a_huge_length_is_what_is_left_of_the_context(endpoint: Endpoint) -> None:
    answer = ask(endpoint, {"max_tokens": 2**31 - 1, "ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == MAX_MODEL_LEN
    client = endpoint.openai()
    completed = client.completions.create(
        model=endpoint.model, prompt="Good", max_tokens=10**12, extra_body={"ignore_eos": True}
    )
    assert completed.usage is not None
    assert completed.usage.total_tokens == MAX_MODEL_LEN


@pytest.mark.parametrize(
    ("body", "quiet"),
    [
        ({}, False),
        ({"enable_thinking": True}, False),
        ({"reasoning_effort": "low"}, False),
        ({"enable_thinking": False}, True),
        ({"thinking": {"type": "disabled"}}, True),
        ({"reasoning_effort": "none"}, True),
        ({"chat_template_kwargs": {"thinking": False}}, True),
        ({"thinking": {"type": "disabled", "budget_tokens": 99}}, True),
    ],
    ids=json.dumps,
)
def test_thinking_is_turned_off_where_the_template_reads_it(
    endpoint: Endpoint, body: dict[str, Any], quiet: bool
) -> None:
    """The tiny checkpoint's template adds a mark to the prompt of a model that must not think."""
    usual = ask(endpoint, {}).usage.prompt_tokens
    assert (ask(endpoint, body).usage.prompt_tokens > usual) == quiet


def test_a_budget_without_a_reasoning_parser_changes_nothing(endpoint: Endpoint) -> None:
    assert ask(endpoint, {"thinking": {"type": "enabled", "budget_tokens": 64}}).choices[0].finish_reason


def test_a_conversation_of_responses_and_of_claude_goes_on(endpoint: Endpoint) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "output_text", "text": "Hm."},
            ],
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"city": "Berlin"}}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "output_text", "text": "rain"}]},
    ]
    assert ask(endpoint, {"messages": messages}).choices[0].finish_reason

"""Arguments of the tool calls that a conversation holds: malformed ones become `{}`, huge ones are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave_openai.bodies.strict_json import Bounds
from conclave_openai.errors import RequestError
from conclave_openai.limits.tool_arguments import mend_arguments


def mended(*arguments: str, values: int = 1000, containers: int = 10**6, depth: int = 64) -> list[str]:
    calls = [{"function": {"name": "f", "arguments": text}} for text in arguments]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "assistant", "tool_calls": None},
    ]
    mend_arguments(messages, Bounds(depth, containers, values))
    return [call["function"]["arguments"] for call in calls]


@pytest.mark.parametrize(
    "arguments",
    ["{}", '{"city": "Berlin"}', ' {"a": [1, 2.5, null, {"b": "\\u00e4"}]}\n', '{"a": 1, "a": 2}', '{"a": ",[{\\""}'],
)
def test_sound_arguments_pass_unchanged(arguments: str) -> None:
    assert mended(arguments) == [arguments]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="cut short"),
        pytest.param('{"city": "Ber', id="cut short in a string"),
        pytest.param("city=Berlin", id="another language"),
        pytest.param("{'city': 'Berlin'}", id="Python's spelling"),
        pytest.param('{"a": 1} {"b": 2}', id="two objects"),
        pytest.param("[]", id="an array"),
        pytest.param("null", id="null"),
        pytest.param("42", id="a number"),
        pytest.param('"{}"', id="a string"),
        pytest.param('{"a": NaN}', id="NaN"),
        pytest.param('{"a": ' + "9" * 5000 + "}", id="a number of 5000 digits, on which vLLM fails"),
        pytest.param('{"a": "\\ud800"}', id="half of a surrogate pair, on which a tokenizer fails"),
        pytest.param("[" * 100_000, id="10^5 open brackets, on which vLLM fails"),
        pytest.param("\ufeff{}", id="a byte order mark"),
    ],
)
def test_malformed_arguments_are_read_as_an_empty_object(arguments: str) -> None:
    assert mended('{"a": 1}', arguments, "{}", values=10**6) == ['{"a": 1}', "{}", "{}"]


@given(st.text(max_size=40) | st.text('{}[],:"\\ntrue01.', max_size=40))
def test_what_is_passed_on_is_an_object_for_vllm_too(arguments: str) -> None:
    """vLLM reads it with `json.loads` and warns, with the tool's name, where that is not an object."""
    [text] = mended(arguments.encode("utf-8", "replace").decode())
    assert isinstance(json.loads(text), dict)


def test_values_are_bounded_over_all_calls_together() -> None:
    hundred = json.dumps({"a": [0] * 97})
    assert mended(*[hundred] * 9) == [hundred] * 9
    with pytest.raises(RequestError, match="more than 1000 JSON values and keys in the arguments of tool calls"):
        mended(*[hundred] * 11)
    with pytest.raises(RequestError, match="more than 9 JSON arrays and objects in the arguments of tool calls"):
        mended(*[hundred] * 5, containers=9)


@pytest.mark.parametrize("levels", [65, 100_000])
def test_deep_arguments_are_refused_by_their_place(levels: int) -> None:
    with pytest.raises(RequestError) as refused:
        mended("{}", '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}", values=10**6)
    assert str(refused.value) == "'messages[1].tool_calls[1].function.arguments' is nested deeper than 64 levels."
    assert refused.value.param == "messages"

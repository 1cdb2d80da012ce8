"""Arguments of the tool calls in a conversation: JSON inside a string, which vLLM parses on its event loop.

Arguments that are not a JSON object become `{}`, so that the conversation can continue. vLLM does the same, but vLLM
also logs the tool's name, and fails on numbers of thousands of digits and on halves of surrogate pairs.
Some agents send an object instead of its text, or nothing after a call without arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from conclave_openai.bodies.strict_json import PAIR, Bounds, Outline, decode
from conclave_openai.limits.fields import refusal

NOTHING = "{}"


def mend_arguments(messages: list[dict[str, Any]], bounds: Bounds) -> None:
    """Makes all arguments the text of a JSON object, in place. Raises 400 where the arguments exceed the bounds."""
    calls = []
    for place, function in _calls(messages):
        arguments = function.get("arguments", NOTHING)
        if isinstance(arguments, str):
            function["arguments"] = arguments
            calls.append((place, function, arguments.encode()))
        else:  # an object was counted with the body
            function["arguments"] = msgspec.json.encode(arguments).decode()
    outlines = [Outline.of(text) for _, _, text in calls]
    excess = Outline(b"".join(outline.marks for outline in outlines)).excess(bounds)
    if excess is not None:
        raise refusal("messages", f"holds {excess} in the arguments of tool calls")
    for (place, function, text), outline in zip(calls, outlines, strict=True):
        beyond = outline.beyond(bounds.depth)
        if PAIR in beyond:
            raise refusal(f"{place}.arguments", f"is nested deeper than {bounds.depth} levels")
        if beyond or not isinstance(decode(text), dict):
            function["arguments"] = NOTHING


def _calls(messages: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, message in enumerate(messages):
        for number, call in enumerate(message.get("tool_calls") or ()):
            yield f"messages[{index}].tool_calls[{number}].function", call["function"]

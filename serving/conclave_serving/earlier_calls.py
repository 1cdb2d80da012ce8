"""Arguments of the tool calls that a conversation holds: JSON within a string, which vLLM parses on its event loop.

What is no JSON object is read as `{}`, so that the conversation goes on. vLLM does the same, but writes the tool's
name to its log, and fails on numbers of thousands of digits and on halves of surrogate pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from conclave_serving.field_limits import refusal
from conclave_serving.strict_json import PAIR, Bounds, Outline, decode

NOTHING = "{}"


def mend_arguments(messages: list[dict[str, Any]], bounds: Bounds) -> None:
    """Replace in place what is no JSON object; a RequestError where all together are too large, or one is too deep."""
    calls = [(place, function, function["arguments"].encode()) for place, function in _calls(messages)]
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

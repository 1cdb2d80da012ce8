"""Ids of the tool calls in a conversation: clients of Ollama send none, and vLLM's templates and types need them."""

from __future__ import annotations

from itertools import count
from typing import Any


def fill_call_ids(messages: list[dict[str, Any]]) -> None:
    """Gives calls without an id one, and answers without one that of the first call that waits; in place.

    An id has nine letters and digits, since Mistral's templates take no other.
    """
    numbers, waiting = count(), list[str]()
    for message in messages:
        if calls := message.get("tool_calls"):
            waiting = []
            for call in calls:
                call["id"] = call.get("id") or f"call{next(numbers):05}"
                waiting.append(call["id"])
        elif message["role"] == "tool":
            answered = message.get("tool_call_id") or next(iter(waiting), None)
            if answered is not None:
                message["tool_call_id"] = answered
            if answered in waiting:
                waiting.remove(answered)

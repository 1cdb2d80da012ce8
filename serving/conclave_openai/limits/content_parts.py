"""The parts of a message in one spelling: text is `text`, and what a model thought is the message's `reasoning`.

Agents that also speak OpenAI's Responses send `input_text` and `output_text`. Agents that also speak to Claude or to
Mistral's service send the thoughts of an earlier answer as parts. Not every chat template knows these spellings.
"""

from __future__ import annotations

from typing import Any

TEXTS = ("input_text", "output_text")
THOUGHTS = ("thinking", "reasoning_text", "redacted_thinking")


def read_parts(messages: list[dict[str, Any]]) -> None:
    """Rewrites checked messages in place. Thoughts beside `reasoning` or `reasoning_content` are dropped."""
    for message in messages:
        content = message.get("content")
        if not isinstance(content, list):
            continue
        thoughts = [thought for part in content if part["type"] in THOUGHTS for thought in _thoughts(part)]
        if thoughts and not message.keys() & {"reasoning", "reasoning_content"}:
            message["reasoning"] = "\n".join(thoughts)
        parts = [_as_text(part) for part in content if part["type"] not in THOUGHTS]
        if parts or not content:
            message["content"] = parts
        else:
            del message["content"]


def _as_text(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "type": "text"} if part["type"] in TEXTS else part


def _thoughts(part: dict[str, Any]) -> list[str]:
    """The texts of a part. An encrypted thought (`redacted_thinking`) has none."""
    said = part.get("thinking", part.get("text", []))
    return [said] if isinstance(said, str) else [piece["text"] for piece in said]

"""Refusals of vLLM and of Serve's proxy in the edge's words: their own messages may repeat what a client sent.

`ingress.py` asks for vLLM's refusals, `proxy.py` for those of Serve's proxy.
"""

from __future__ import annotations

import re

from conclave_openai.errors import RequestError, retry_later

SAFE_ENGINE_MESSAGES = (
    re.compile(r"This model's maximum context length is \d+ tokens?\b[^\"'{}]*"),
    re.compile(r"`?[a-z_]+`? (must|cannot) [a-z0-9 ,.()\[\]=_-]*"),
    re.compile(r"Requested sample logprobs of \d+, which is greater than max allowed: \d+"),
    re.compile(r"When using `tool_choice`, `tools` must be set\."),
    re.compile(r"The tool specified in `tool_choice` does not match any of the specified `tools`"),
    re.compile(r"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set"),
    re.compile(r"(The grammar of the request|Too many new grammars|Grammars cannot be compiled)[A-Za-z ,:;]*\."),
)
"""vLLM's messages that repeat nothing of the request but numbers. Every other message is replaced."""

TOOLS_UNAVAILABLE = re.compile(r"tool_choice=.* requires --tool-call-parser to be set", re.DOTALL)

_MESSAGE_TAIL = re.compile(r"\((?:parameter|value)=")


def engine_refusal(status: int, message: str, param: str | None = None) -> RequestError:
    """vLLM's refusal. vLLM's 422 becomes OpenAI's 400."""
    status = 400 if status == 422 else status
    tail = _MESSAGE_TAIL.search(message)
    stripped = message[: tail.start()].rstrip() if tail else message
    if TOOLS_UNAVAILABLE.fullmatch(stripped):
        stripped = "Tool calls need the engine argument tool_call_parser, which is not set for this model."
    elif not any(pattern.fullmatch(stripped) for pattern in SAFE_ENGINE_MESSAGES):
        stripped = "The engine refused the request: a parameter or its combination with others is not supported."
    if status == 429:
        return retry_later(stripped, status=status, param=param)
    context = "context length" in stripped
    return RequestError(
        status,
        stripped,
        kind="invalid_request_error" if status < 500 else "server_error",
        param=param,
        code="context_length_exceeded" if context else "engine_refused",
    )


def proxy_refusal(status: int) -> RequestError:
    """What Serve's proxy refuses by itself: nothing is deployed, or the proxy's own queue is full."""
    if status == 503:
        return RequestError(status, "The endpoint is at capacity.", kind="overloaded_error", code="overloaded")
    if status < 500:
        return RequestError(status, "The request cannot be answered here.", code="unknown_url")
    return RequestError(status, "Internal error.", kind="server_error", code="internal_error")

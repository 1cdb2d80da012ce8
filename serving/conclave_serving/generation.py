"""The span of one generation, by OpenTelemetry's conventions for GenAI: figures and names, never content.

`edge.py` opens it around an admitted request, `tracing.py` exports it. Of a request that is not traced nothing is read.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from conclave_serving.errors import RequestError
from conclave_serving.request_body import Message

SCOPE = "conclave_serving"
"""Instrumentation scope of our own spans."""

REQUEST_FIGURES: Mapping[str, str] = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "n": "gen_ai.request.choice.count",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "stream": "gen_ai.request.stream",
}
"""Numbers and switches of a request, which hold no content. `stop` does, and `seed` says nothing to an operator."""
USAGE = {"prompt_tokens": "gen_ai.usage.input_tokens", "completion_tokens": "gen_ai.usage.output_tokens"}
SPAN_ATTRIBUTES = frozenset(
    {
        *REQUEST_FIGURES.values(),
        *USAGE.values(),
        "error.type",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.response.finish_reasons",
        "gen_ai.response.time_to_first_chunk",
        "server.address",
        "server.port",
    }
)
MOST = 2**63
"""What OTLP carries of an integer; one more would lose the whole batch."""

TRACER = trace.get_tracer(SCOPE)
"""Of the process's provider, once it is set."""
_TELLING = re.compile(rb'"finish_reason": ?"|"usage": ?\{')
"""In an answer or an event; inside of a generated string the quotes would be escaped."""
_FINISH_REASON = re.compile("[a-z_]{1,20}")

Send = Callable[[Message], Awaitable[None]]


class Generation:
    """What is seen of the answer on its way to the client."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._began = time.monotonic()
        self._answered = False
        self._finish_reasons: dict[int, str] = {}

    def watched(self, send: Send) -> Send:
        """The same `send`, seen by the span where it is recorded."""
        if not self._span.is_recording():
            return send

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("body"):
                self._note(message["body"])
            await send(message)

        return watch

    def _note(self, body: bytes) -> None:
        if not self._answered:
            self._answered = True
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", time.monotonic() - self._began)
        for line in body.split(b"\n"):
            if _TELLING.search(line):
                self._read(line.removeprefix(b"data: "))

    def _read(self, text: bytes) -> None:
        try:
            answer = json.loads(text)
        except ValueError:  # an event that was cut in two; its figures are vLLM's span's too
            return
        for choice in answer.get("choices") or ():
            reason = choice.get("finish_reason")
            if isinstance(reason, str) and _FINISH_REASON.fullmatch(reason):
                self._finish_reasons[choice["index"]] = reason
        usage = answer.get("usage") or {}
        self._span.set_attributes({USAGE[name]: value for name, value in usage.items() if name in USAGE})
        if self._finish_reasons:
            reasons = [reason for _, reason in sorted(self._finish_reasons.items())]
            self._span.set_attribute("gen_ai.response.finish_reasons", reasons)


@contextmanager
def generation(
    request: Mapping[str, Any], server: tuple[str, int | None] | None, tracer: Tracer = TRACER
) -> Iterator[Generation]:
    """A span below the current one, and the current one inside; a failure passes, and leaves its type."""
    operation = "chat" if "messages" in request else "text_completion"
    attributes = {"gen_ai.operation.name": operation, **_attributes(request, server)}
    with tracer.start_as_current_span(
        f"{operation} {request['model']}",
        kind=SpanKind.INTERNAL,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield Generation(span)
        except RequestError as refusal:
            span.set_attribute("error.type", refusal.code or str(refusal.status))
            if refusal.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            raise
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def _attributes(request: Mapping[str, Any], server: tuple[str, int | None] | None) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": request["model"],
    }
    for name, attribute in REQUEST_FIGURES.items():
        value = request.get(name)
        if isinstance(value, int | float) and abs(value) < MOST:
            attributes[attribute] = value
    if server is not None:
        address, port = server
        attributes["server.address"] = address
        if port is not None:
            attributes["server.port"] = port
    return attributes

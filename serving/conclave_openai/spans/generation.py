"""The span of one generation, by OpenTelemetry's conventions for GenAI: figures and names, never content.

`edge.py` opens the span around an admitted request, `export.py` exports it. A request that is not traced costs nothing:
its answer is not read.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from conclave_openai.answers import Message, Send
from conclave_openai.errors import RequestError

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
"""Numbers and switches of a request, which hold no content. `stop` is left out, because it holds content."""
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
"""The bound of an integer in OTLP. A larger integer would lose the whole batch of spans."""
_TELLING = re.compile(rb'"finish_reason": ?"|"usage": ?\{')
"""The fields of an answer or an event that hold figures. Inside of a generated string the quotes are escaped."""
_FINISH_REASON = re.compile("[a-z_]{1,20}")


class Generation:
    """Reads figures from the answer on its way to the client."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._began = time.monotonic()
        self._answered = False
        self._finish_reasons: dict[int, str] = {}

    def watched(self, send: Send) -> Send:
        """The same `send`; where the span is recorded, the span gets the figures of each message."""
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
        except ValueError:  # the event was cut in two; the engine's own span has its figures too
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


@dataclass(frozen=True)
class Generations:
    """Opens the spans of an edge's generations."""

    scope: str = "conclave_openai"
    """The instrumentation scope of the spans."""
    provider: str = "vllm"
    """Who generates, as `gen_ai.provider.name` says it."""
    get_tracer: Callable[[str], Tracer] = trace.get_tracer
    """Called at the first request: an edge may be made, and sent to another process, before the provider is set."""

    @cached_property
    def _tracer(self) -> Tracer:
        return self.get_tracer(self.scope)

    @contextmanager
    def traced(self, request: Mapping[str, Any], server: tuple[str, int | None] | None) -> Iterator[Generation]:
        """A span below the current span. A failure passes through and leaves its type on the span."""
        operation = "chat" if "messages" in request else "text_completion"
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self.provider,
            **_attributes(request, server),
        }
        with self._tracer.start_as_current_span(
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
    attributes: dict[str, AttributeValue] = {"gen_ai.request.model": request["model"]}
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

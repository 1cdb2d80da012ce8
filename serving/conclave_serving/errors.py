"""What a client is told when a request is refused: OpenAI's error shape, never an echo of what was sent.

    RequestError            status, message, type, param, code

Raised anywhere between the edge and the engine, turned into a response by `edge.py` only.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Mapping

Headers = list[tuple[bytes, bytes]]

SAFE_ENGINE_MESSAGES = (
    re.compile(r"This model's maximum context length is \d+ tokens?\b[^\"'{}]*"),
    re.compile(r"`?[a-z_]+`? (must|cannot) [a-z0-9 ,.()\[\]=_-]*"),
    re.compile(r"Requested sample logprobs of \d+, which is greater than max allowed: \d+"),
    re.compile(r"When using `tool_choice`, `tools` must be set\."),
    re.compile(r"The tool specified in `tool_choice` does not match any of the specified `tools`"),
    re.compile(r"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set"),
    re.compile(r"(The grammar of the request|Too many new grammars|Grammars cannot be compiled)[A-Za-z ,:;]*\."),
)
"""Messages of vLLM that repeat nothing of the request but numbers; every other one is replaced."""

RETRY_AFTER_S = 5
"""When a client may ask again where the deployment's own figure is not known: at the door, and for a grammar."""

TOOLS_UNAVAILABLE = re.compile(r"tool_choice=.* requires --tool-call-parser to be set", re.DOTALL)

_MESSAGE_TAIL = re.compile(r"\((?:parameter|value)=")


class RequestError(Exception):
    """A request that is answered with an error; the message holds no value of the request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers: Headers = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]

    def body(self) -> bytes:
        """The response body in OpenAI's shape."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def as_event(self) -> bytes:
        """The same, as the last event of a stream that had already begun."""
        return b"data: " + self.body() + b"\n\n"


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> RequestError:
    """A request that breaks a rule of its own making: 400."""
    return RequestError(400, message, param=param, code=code)


def _later(
    message: str,
    retry_after_s: int = RETRY_AFTER_S,
    *,
    status: int = 503,
    kind: str = "overloaded_error",
    param: str | None = None,
    code: str = "overloaded",
) -> RequestError:
    """What may be asked again after a while, of which the header tells."""
    headers = {"retry-after": str(retry_after_s)}
    return RequestError(status, message, kind=kind, param=param, code=code, headers=headers)


def unauthorized() -> RequestError:
    """No credential, or a wrong one: the two look the same."""
    return RequestError(
        401,
        "A valid bearer token is required: send 'Authorization: Bearer <token>'.",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": 'Bearer realm="conclave"'},
    )


def token_unavailable() -> RequestError:
    """The endpoint's own token file holds none: no credential can be right."""
    return _later(
        "The endpoint has no bearer token at present: whoever operates it must restore the token's file; retry after"
        f" {RETRY_AFTER_S} s.",
        kind="server_error",
        code="token_unavailable",
    )


def malformed() -> RequestError:
    """The bytes are not HTTP/1.1, or are ambiguous: two lengths, a bare line feed."""
    return RequestError(400, "The request is not valid HTTP/1.1.", code="malformed_request")


def head_too_large(head_bytes: int, lines: int) -> RequestError:
    """More headers than are read; trailers and chunk extensions too."""
    return RequestError(
        431, f"The request's headers take more than {head_bytes} bytes or {lines} lines.", code="headers_too_large"
    )


def head_timeout(seconds: float) -> RequestError:
    """The headers did not end in time."""
    return RequestError(408, f"The request's headers did not arrive within {seconds:g} s.", code="request_timeout")


def too_many_connections() -> RequestError:
    """One address has too many open connections, or all clients together have."""
    return _later(
        f"Too many connections are open, from this address or in all; use fewer, or retry after {RETRY_AFTER_S} s.",
        code="too_many_connections",
    )


def bodies_full() -> RequestError:
    """The bodies of requests that wait for their answer take all the memory that they may."""
    return _later(f"The endpoint holds as many request bodies as it may; retry after {RETRY_AFTER_S} s.")


def unknown_path() -> RequestError:
    """Everything that is not on the allowlist."""
    return RequestError(404, "Unknown request URL.", code="unknown_url")


def unknown_model() -> RequestError:
    """A model that is not served here."""
    return RequestError(
        404, "The model does not exist here; GET /v1/models lists what does.", param="model", code="model_not_found"
    )


def overloaded(retry_after_s: int) -> RequestError:
    """The bounded queue is full."""
    return _later(f"The model is at capacity and its queue is full; retry after {retry_after_s} s.", retry_after_s)


def too_many_bodies(retry_after_s: int) -> RequestError:
    """Bodies that are being read fill the memory that is given to them."""
    return _later(
        f"The request bodies that are being read fill the memory that is given to them; retry after {retry_after_s} s.",
        retry_after_s,
    )


def engine_unavailable(retry_after_s: int) -> RequestError:
    """No engine replica answers: it died, or none has started."""
    return _later(
        f"No replica of the model could answer; retry after {retry_after_s} s.",
        retry_after_s,
        kind="server_error",
        code="engine_unavailable",
    )


def internal_error() -> RequestError:
    """A fault of ours."""
    return RequestError(
        500,
        "Internal error; the x-request-id header of this response finds it in the logs.",
        kind="server_error",
        code="internal_error",
    )


def proxy_refusal(status: int) -> RequestError:
    """What Serve's proxy answers by itself: nothing is deployed, or its own queue is full."""
    if status == 503:
        return RequestError(status, "The endpoint is at capacity.", kind="overloaded_error", code="overloaded")
    if status < 500:
        return RequestError(status, "The request cannot be answered here.", code="unknown_url")
    return RequestError(status, "Internal error.", kind="server_error", code="internal_error")


def engine_refusal(status: int, message: str, param: str | None = None) -> RequestError:
    """What vLLM said, where it is known to repeat nothing of the request; its 422 is OpenAI's 400."""
    status = 400 if status == 422 else status
    tail = _MESSAGE_TAIL.search(message)
    stripped = message[: tail.start()].rstrip() if tail else message
    if TOOLS_UNAVAILABLE.fullmatch(stripped):
        stripped = "Tool calls need the engine argument tool_call_parser, which is not set for this model."
    elif not any(pattern.fullmatch(stripped) for pattern in SAFE_ENGINE_MESSAGES):
        stripped = "The engine refused the request: a parameter or its combination with others is not supported."
    if status == 429:
        return _later(stripped, status=status, param=param)
    context = "context length" in stripped
    return RequestError(
        status,
        stripped,
        kind="invalid_request_error" if status < 500 else "server_error",
        param=param,
        code="context_length_exceeded" if context else "engine_refused",
    )


def place_of(error: BaseException) -> str:
    """Type and frames of an error for the log, without its message: that may hold what a client sent."""
    return f"{type(error).__name__} at\n{''.join(traceback.format_tb(error.__traceback__))}"

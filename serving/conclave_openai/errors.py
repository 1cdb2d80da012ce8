"""Refusals in OpenAI's error shape. A refusal never repeats what the client sent.

    RequestError            status, message, type, param, code, headers

The edge, and any application behind the edge, may raise a RequestError. `answers.py` turns it into a response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

Headers = list[tuple[bytes, bytes]]

RETRY_AFTER_S = 5
"""The Retry-After header of a refusal whose own waiting time is not known: at the door, and for a grammar."""


class RequestError(Exception):
    """A request that is answered with an error. The message holds no value of the request."""

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
        """The same body as the last event of a stream that has already begun."""
        return b"data: " + self.body() + b"\n\n"


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> RequestError:
    """The request breaks a rule: 400."""
    return RequestError(400, message, param=param, code=code)


def retry_later(
    message: str,
    retry_after_s: int = RETRY_AFTER_S,
    *,
    status: int = 503,
    kind: str = "overloaded_error",
    param: str | None = None,
    code: str = "overloaded",
) -> RequestError:
    """The same request may succeed later; the Retry-After header says when to try again."""
    headers = {"retry-after": str(retry_after_s)}
    return RequestError(status, message, kind=kind, param=param, code=code, headers=headers)


def unauthorized() -> RequestError:
    """The request has no credential, or a wrong one. The answer is the same for both."""
    return RequestError(
        401,
        "A valid bearer token is required: send 'Authorization: Bearer <token>'.",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": 'Bearer realm="conclave"'},
    )


def token_unavailable() -> RequestError:
    """The endpoint's own token file holds no token, so no credential can be right."""
    return retry_later(
        "The endpoint has no bearer token at present: whoever operates it must restore the token's file; retry after"
        f" {RETRY_AFTER_S} s.",
        kind="server_error",
        code="token_unavailable",
    )


def malformed() -> RequestError:
    """The bytes are not HTTP/1.1, or two servers could read them differently: two lengths, a bare line feed."""
    return RequestError(400, "The request is not valid HTTP/1.1.", code="malformed_request")


def head_too_large(head_bytes: int, lines: int) -> RequestError:
    """The request has more headers, trailers or chunk extensions than the door reads."""
    return RequestError(
        431, f"The request's headers take more than {head_bytes} bytes or {lines} lines.", code="headers_too_large"
    )


def head_timeout(seconds: float) -> RequestError:
    """The headers did not end in time."""
    return RequestError(408, f"The request's headers did not arrive within {seconds:g} s.", code="request_timeout")


def too_many_connections() -> RequestError:
    """One address has too many open connections, or all clients together have."""
    return retry_later(
        f"Too many connections are open, from this address or in all; use fewer, or retry after {RETRY_AFTER_S} s.",
        code="too_many_connections",
    )


def bodies_full() -> RequestError:
    """The bodies of requests that wait for an answer fill the memory that they may take."""
    return retry_later(f"The endpoint holds as many request bodies as it may; retry after {RETRY_AFTER_S} s.")


def unknown_path() -> RequestError:
    """The path is not in the route table."""
    return RequestError(404, "Unknown request URL.", code="unknown_url")


def method_not_allowed(allowed: str) -> RequestError:
    """The path is in the route table, under another method."""
    return RequestError(405, f"This URL takes {allowed} only.", code="method_not_allowed", headers={"allow": allowed})


def not_json() -> RequestError:
    """The Content-Type of a request with a body is not JSON."""
    return RequestError(415, "The Content-Type must be application/json.", code="unsupported_media_type")


def unknown_model() -> RequestError:
    """The endpoint does not serve the model, or the caller may not use the model. The answer is the same for both."""
    return RequestError(
        404, "The model does not exist here; GET /v1/models lists what does.", param="model", code="model_not_found"
    )


def overloaded(retry_after_s: int) -> RequestError:
    """The model's bounded queue is full."""
    return retry_later(f"The model is at capacity and its queue is full; retry after {retry_after_s} s.", retry_after_s)


def too_many_bodies(retry_after_s: int) -> RequestError:
    """The bodies that are being read fill the memory that they may take."""
    return retry_later(
        f"The request bodies that are being read fill the memory that is given to them; retry after {retry_after_s} s.",
        retry_after_s,
    )


def engine_unavailable(retry_after_s: int) -> RequestError:
    """No engine replica answers: the replica died, or no replica has started."""
    return retry_later(
        f"No replica of the model could answer; retry after {retry_after_s} s.",
        retry_after_s,
        kind="server_error",
        code="engine_unavailable",
    )


def internal_error() -> RequestError:
    """The edge, or the application behind the edge, failed."""
    return RequestError(
        500,
        "Internal error; the x-request-id header of this response finds it in the logs.",
        kind="server_error",
        code="internal_error",
    )

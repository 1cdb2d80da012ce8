"""Reads a request's body within bounds of bytes and time, and parses it as strict JSON.

Strict: one object, UTF-8, no duplicate keys, no NaN or infinity, no lone surrogates, bounded depth.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from conclave_serving.errors import RequestError, invalid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class DisconnectError(Exception):
    """The client went away before its request was whole; nobody is left to answer."""


async def read_body(
    headers: Iterable[tuple[bytes, bytes]], receive: Receive, *, limit_bytes: int, timeout_s: float
) -> bytes:
    """The whole body, announced or chunked; 413 over the limit, 408 where it does not come in time."""
    for name, value in headers:
        if name.lower() == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise DisconnectError
                chunk = message.get("body", b"")
                total += len(chunk)
                if total > limit_bytes:
                    raise _too_large(limit_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise RequestError(
            408, f"The request body did not arrive within {timeout_s:g} s.", code="request_timeout"
        ) from None


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(413, f"The request body is larger than {limit_bytes} bytes.", code="request_too_large")


def parse_object(body: bytes, *, max_depth: int) -> dict[str, Any]:
    """The JSON object that the body holds; every other body is a 400."""
    try:
        parsed = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except RequestError:
        raise
    except UnicodeDecodeError:
        raise invalid("The request body is not UTF-8.", code="invalid_json") from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError:  # not JSON, or a number of thousands of digits
        raise invalid("The request body is not valid JSON.", code="invalid_json") from None
    if not isinstance(parsed, dict):
        raise invalid("The request body must be a JSON object.", code="invalid_json")
    if body.count(b"{") + body.count(b"[") > max_depth and _depth(parsed) > max_depth:
        raise _too_deep(max_depth)
    if b"\\ud" in body or b"\\uD" in body:
        _refuse_lone_surrogates(parsed)
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise invalid("A JSON object has the same key twice.", code="invalid_json")
    return members


def _no_constant(_name: str) -> float:
    raise invalid("NaN and infinity are not JSON.", code="invalid_json")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise invalid("A number is too large.", code="invalid_json")
    return number


def _too_deep(max_depth: int) -> RequestError:
    return invalid(f"The request body is nested deeper than {max_depth} levels.", code="invalid_json")


def _depth(value: object) -> int:
    """Levels of nesting, without recursion."""
    level, depth = [value], 0
    while level:
        containers = [item for item in level if isinstance(item, dict | list)]
        depth += bool(containers)
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _refuse_lone_surrogates(parsed: dict[str, Any]) -> None:
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise invalid("A string holds half of a surrogate pair, which is no character.", code="invalid_json") from None

"""Requests that must not get in, by what is odd about them; for a plain uvicorn and for a running endpoint."""

from __future__ import annotations

TOKEN = "the-tests-own-token-0123456789"

AUTHORIZATIONS: dict[str, list[str]] = {
    "none": [],
    "empty": ["authorization:"],
    "the scheme alone": ["authorization: Bearer"],
    "the token alone": [f"authorization: {TOKEN}"],
    "another scheme": [f"authorization: Basic {TOKEN}"],
    "a tab between": [f"authorization: Bearer\t{TOKEN}"],
    "the scheme twice": [f"authorization: Bearer Bearer {TOKEN}"],
    "one character more": [f"authorization: Bearer {TOKEN}x"],
    "one character less": [f"authorization: Bearer {TOKEN[:-1]}"],
    "another case": [f"authorization: Bearer {TOKEN.upper()}"],
    "in quotes": [f'authorization: Bearer "{TOKEN}"'],
    "with a parameter": [f"authorization: Bearer {TOKEN}, x=y"],
    "twice": [f"authorization: Bearer {TOKEN}"] * 2,
    "a wrong one beside it": ["authorization: Bearer x", f"authorization: Bearer {TOKEN}"],
    "another header": [f"x-api-key: {TOKEN}", f"proxy-authorization: Bearer {TOKEN}"],
    "an underscore": [f"author_ization: Bearer {TOKEN}"],
    "a cookie": [f"cookie: authorization=Bearer {TOKEN}"],
    "not ASCII": [f"authorization: Bearer {TOKEN}\xe9"],
}

PATHS = [
    "/",
    "//",
    "/.",
    "/v1",
    "/v1/",
    "/v1/models/",
    "/v1//models",
    "//v1/models",
    "/v1/./models",
    "/v1/../v1/models",
    "/v1/../pause",
    "//v1/../pause",
    "/%2e%2e/v1/models",
    "/v1/%2e%2e/pause",
    "/v1%2Fmodels",
    "/%76%31/models",
    "/v1/models%00",
    "/v1/models%20",
    "/v1/models;a=b",
    "/v1/models/..",
    "/v1\\models",
    "/V1/models",
    "/v1/Models",
    "/v1/chat",
    "/v1/chat/completions/",
    "/v1/chat%2Fcompletions",
    "/v1/chat//completions",
    "/v1/chat/completions/../../../pause",
    "/pause",
    "/update_weights",
    "/metrics",
    "http://x/pause",
]

_AUTHORIZED = f"host: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n".encode()
_HEAD = b"POST /v1/completions HTTP/1.1\r\n" + _AUTHORIZED
_INNER = b"GET /v1/models HTTP/1.1\r\n" + _AUTHORIZED + b"\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"


def _length(count: int) -> bytes:
    return b"content-length: %d\r\n" % count


SMUGGLED: dict[str, bytes] = {
    "a length and chunks": _HEAD + _length(5 + len(_INNER)) + _CHUNKED + b"\r\n0\r\n\r\n" + _INNER,
    "chunks and a length": _HEAD + _CHUNKED + _length(5) + b"\r\n0\r\n\r\n" + _INNER,
    "two lengths": _HEAD + _length(0) + _length(len(_INNER)) + b"\r\n" + _INNER,
    "two equal lengths": _HEAD + _length(2) + _length(2) + b"\r\n{}" + _INNER,
    "a list of lengths": _HEAD + b"content-length: 0, 5\r\n\r\n" + _INNER,
    "a length with a sign": _HEAD + b"content-length: +0\r\n\r\n" + _INNER,
    "a length below nothing": _HEAD + b"content-length: -1\r\n\r\n" + _INNER,
    "a hexadecimal length": _HEAD + b"content-length: 0x5\r\n\r\n" + _INNER,
    "a length beyond 64 bits": _HEAD + _length(1 << 64) + b"\r\n{}",
    "a length of a thousand digits": _HEAD + b"content-length: " + b"9" * 1000 + b"\r\n\r\n{}",
    "a bare line feed": _HEAD + b"x: y\ncontent-length: 0\r\n\r\n" + _INNER,
    "a bare carriage return": _HEAD + b"x: y\rcontent-length: 0\r\n\r\n" + _INNER,
    "a space before the colon": _HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + _INNER,
    "a folded header": _HEAD + b"x: y\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + _INNER,
    "a null in a header": _HEAD + b"x: \x00\r\n\r\n" + _INNER,
    "chunks that are not the last coding": _HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + _INNER,
    "chunks by another name": _HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + _INNER,
    "chunks twice": _HEAD + _CHUNKED + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n" + _INNER,
    "a chunk beyond 64 bits": _HEAD + _CHUNKED + b"\r\n1" + b"0" * 16 + b"\r\n{}" + _INNER,
    "a chunk of a bad size": _HEAD + _CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n" + _INNER,
    "a chunk that ends early": _HEAD + _CHUNKED + b"\r\n5\r\n{}\r\n0\r\n\r\n" + _INNER,
    "a chunk with a bare line feed": _HEAD + _CHUNKED + b"\r\n2\n{}\n0\n\n" + _INNER,
    "no version": b"GET /v1/models\r\n" + _AUTHORIZED + b"\r\n" + _INNER,
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": b"CONNECT x:1 HTTP/1.1\r\n" + _AUTHORIZED + b"\r\n" + _INNER,
}

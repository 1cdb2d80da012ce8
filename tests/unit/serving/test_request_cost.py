"""What a request costs at the edge, whatever it holds: memory and work counted, CPU shown (`pytest -rP`).

No second is asserted: a busy machine would fail. Calls of functions stand for time.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conclave_openai.authorization import BearerToken
from conclave_openai.bodies.reading import read_body
from conclave_openai.edge import Edge
from conclave_openai.errors import RequestError
from conclave_openai.limits.request import load_limits
from conclave_openai.routes import Endpoint

LIMITS = load_limits()
MODEL = "m"
SIZE = LIMITS.body_bytes - 1000
VALUES = LIMITS.json_values["chat"] - 100
CONTAINERS = LIMITS.json_containers - 100


def make_edge(application: Any, token: Path) -> Edge:
    return Edge(application, models=(MODEL,), authorization=BearerToken(token), limits=LIMITS)


@pytest.fixture
def check(tmp_path: Path) -> Callable[[Endpoint, bytes], str]:
    """The edge's whole work on a body, from its bytes to the checked request or the refusal."""
    (tmp_path / "token").write_text("a-token-of-sufficient-length")

    async def nobody(*_: Any) -> None:
        raise AssertionError

    edge = make_edge(nobody, tmp_path / "token")

    def judge(endpoint: Endpoint, body: bytes) -> str:
        try:
            edge._check(endpoint, body, (MODEL,))
        except RequestError as refusal:
            return str(refusal.body())
        return "accepted"

    return judge


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def text(content: bytes) -> bytes:
    return b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % content


def beside(key: bytes, items: bytes, count: int) -> bytes:
    """A chat with an array of so many items under a key that is taken and dropped, or refused."""
    return b'{"model":"m","messages":[{"role":"user","content":"x","%s":[%s]}]}' % (key, b",".join([items] * count))


def called(*arguments: object) -> bytes:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": each}} for each in arguments]
    groups = [calls[start : start + 128] for start in range(0, len(calls), 128)]
    return compact({"model": MODEL, "messages": [{"role": "assistant", "tool_calls": group} for group in groups]})


PARTS = [{"type": "text", "text": "x"}] * 1024
OTHER_PARTS = [{"type": "input_text", "text": "x"}] * 1024
COSTLIEST: dict[str, tuple[Endpoint, Callable[[], bytes]]] = {
    "8 MiB of text": ("chat", lambda: text(b"x" * SIZE)),
    "8 MiB of text, one character an emoji": ("chat", lambda: text("😀".encode() + b"x" * (SIZE - 4))),
    "8 MiB of escaped quotes": ("chat", lambda: text(b'\\"' * (SIZE // 2))),
    "8 MiB of escaped letters": ("chat", lambda: text(b"\\u0041" * (SIZE // 6))),
    "4096 messages": ("chat", lambda: compact({"model": MODEL, "messages": [{"role": "user", "content": "x"}] * 4096})),
    "parts": ("chat", lambda: compact({"model": MODEL, "messages": [{"role": "user", "content": PARTS}] * 25})),
    "parts in another spelling": (
        "chat",
        lambda: compact({"model": MODEL, "messages": [{"role": "user", "content": OTHER_PARTS}] * 25}),
    ),
    "calls": ("chat", lambda: called(*["{}"] * 16_000)),
    "tools of many nodes": (
        "chat",
        lambda: compact(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": "x"}],
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"items": [{}] * 600}}}
                    for _ in range(100)
                ],
            }
        ),
    ),
    "empty objects": ("chat", lambda: beside(b"id", b"{}", CONTAINERS)),
    "objects of one member": ("chat", lambda: beside(b"id", b'{"":1}', CONTAINERS)),
    "towers of arrays": ("chat", lambda: beside(b"id", b"[" * 59 + b"]" * 59, CONTAINERS // 59)),
    "short strings": ("chat", lambda: beside(b"id", b'"abcdefghijklm"', VALUES)),
    "arguments of objects": ("chat", lambda: called('{"a":[' + '{"":1},' * CONTAINERS + "1]}")),
    "arguments of a text with an emoji": ("chat", lambda: called('{"a":"\U0001f600' + "x" * (SIZE - 100) + '"}')),
    "arguments that are objects": ("chat", lambda: called({"a": [{"": 1}] * (CONTAINERS // 2)})),
    "arguments that are an object with an emoji": (
        "chat",
        lambda: called({"a": "\U0001f600" + "x" * (SIZE - 100)}),
    ),
    "arrays beyond the bound": ("chat", lambda: beside(b"id", b"[]", SIZE // 3)),
    "strings of commas beyond the bound": ("chat", lambda: beside(b"id", b'","', SIZE // 4)),
    "a million tokens": ("completions", lambda: compact({"model": MODEL, "prompt": [123_456] * 1_048_576})),
    "a million fractions": ("completions", lambda: compact({"model": MODEL, "prompt": [1.5] * 1_048_576})),
    "arrays": ("completions", lambda: compact({"model": MODEL, "prompt": [[]] * CONTAINERS})),
}


@pytest.mark.parametrize("name", COSTLIEST)
def test_the_costliest_requests_stay_within_the_stated_memory(
    name: str, check: Callable[[Endpoint, bytes], str]
) -> None:
    """The schemas of the longest list of tools are judged too; what they cost the engine has its own bound."""
    endpoint, build = COSTLIEST[name]
    body = build()
    assert len(body) <= LIMITS.body_bytes
    began = time.thread_time()
    outcome = check(endpoint, body)
    cpu_ms = 1000 * (time.thread_time() - began)
    peak = _peak_bytes(lambda: check(endpoint, body))
    sys.stdout.write(f"{cpu_ms:.0f} ms of CPU, {peak / 2**20:.1f} MiB beside {len(body) / 2**20:.1f}: {outcome[:99]}\n")
    assert peak <= LIMITS.cost[endpoint].memory_bytes


def _peak_bytes(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def hostile_bodies(seed: int) -> Iterator[tuple[Endpoint, bytes]]:
    """Requests of up to 100 kB that are nearly right, with one place full of something small."""
    chance = random.Random(seed)
    small = [
        b"[]",
        b"{}",
        b"1",
        b"-1",
        b"1.5",
        b"1e5",
        b'""',
        b'"a"',
        b'","',
        b'"\\""',
        b'{"":1}',
        b"[[]]",
        b"null",
        b"true",
    ]
    small += [b'"\\ud83d\\ude00"', '"😀"'.encode(), b'{"a":{}}', b'{"type":"text","text":""}', b'{"role":"user"}']
    small += [b'{"id":"","function":{"name":"f","arguments":"[[],{}]"}}', b"[" * 60 + b"]" * 60]
    places = [
        b'{"model":"m","messages":[%s]}',
        b'{"model":"m","messages":[{"role":"user","content":[%s]}]}',
        b'{"model":"m","messages":[{"role":"assistant","tool_calls":[%s]}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x","cache_control":[%s]}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x","unknown":[%s]}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[%s]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"metadata":[%s]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"text","json_schema":[%s]}}',
        b'{"model":"m","prompt":[%s]}',
        b'{"model":"m","prompt":"x","stop":[%s]}',
        b"[%s]",
        b'{"model":"m","prompt":[%s',
    ]
    for _ in range(40):
        items = [chance.choice(small) for _ in range(chance.randint(1, 3))]
        length = chance.randint(1000, 100_000)
        filled = b",".join(items * (length // sum(len(item) + 1 for item in items)))
        place = chance.choice(places)
        yield ("completions" if b"prompt" in place else "chat"), place % filled


@pytest.mark.parametrize("seed", range(4))
def test_memory_and_work_are_linear_in_the_body_whatever_it_holds(
    seed: int, check: Callable[[Endpoint, bytes], str]
) -> None:
    for endpoint, body in hostile_bodies(seed):
        judge = partial(check, endpoint, body)
        assert _peak_bytes(judge) <= 64 * len(body) + 65_536, body[:80]
        assert _calls(judge) <= 3 * len(body) + 5000, body[:80]


def _calls(run: Callable[[], object]) -> int:
    """Calls of functions, Python's and C's."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


def test_others_are_answered_while_a_large_body_is_checked(tmp_path: Path) -> None:
    """The loop takes turns while a body waits its turn behind another one in the thread."""
    (tmp_path / "token").write_text("a-token-of-sufficient-length")
    headers = [(b"authorization", b"Bearer a-token-of-sufficient-length"), (b"content-type", b"application/json")]
    large = COSTLIEST["calls"][1]()
    order: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        order.append(f"{len(scope['conclave.request']['messages'])} messages")

    async def ask(edge: Edge, body: bytes) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            pytest.fail(str(message))

        await edge(
            {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}, receive, send
        )

    async def run() -> None:
        edge = make_edge(application, tmp_path / "token")
        await asyncio.gather(ask(edge, large), ask(edge, large), ask(edge, text(b"hello")))

    asyncio.run(run())
    assert order == ["1 messages", "125 messages", "125 messages"]


def test_a_body_in_tiny_chunks_takes_what_is_counted() -> None:
    size, taken = 256 << 10, []
    chunks = iter(range(size // 2))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"%02d" % (next(chunks) % 100), "more_body": sum(taken) < size - 2}

    def take(count: int) -> None:
        taken[:] = [sum(taken) + count]

    tracemalloc.start()
    try:
        body = asyncio.run(read_body([], receive, take, limit_bytes=size, timeout_s=60))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(body), taken) == (size, [size])
    assert peak < 4 * size

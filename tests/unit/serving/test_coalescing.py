"""Chunks of a stream in few messages: nothing lost, nothing reordered, the first at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conclave_serving.coalescing import coalesce


async def source(
    chunks: list[list[int]], failure: Exception | None = None, pauses: int = 0
) -> AsyncIterator[list[int]]:
    for chunk in chunks:
        for _ in range(pauses):
            await asyncio.sleep(0)
        yield chunk
    if failure is not None:
        raise failure


async def collect(stream: AsyncIterator[list[int]]) -> list[list[int]]:
    return [chunk async for chunk in stream]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(), min_size=1, max_size=3), max_size=20), st.integers(0, 3))
def test_all_chunks_arrive_in_order(chunks: list[list[int]], pauses: int) -> None:
    arrived = asyncio.run(collect(coalesce(source(chunks, pauses=pauses), lambda: 0.001)))
    assert list(chain(*arrived)) == list(chain(*chunks))
    assert all(arrived)


def test_what_gathers_in_an_interval_is_one_message() -> None:
    arrived = asyncio.run(collect(coalesce(source([[i] for i in range(100)], pauses=1), lambda: 60)))
    assert arrived[0][0] == 0
    assert len(arrived) <= 2


def test_an_error_comes_after_the_last_chunk() -> None:
    arrived: list[int] = []

    async def run() -> None:
        async for chunk in coalesce(source([[1], [2]], ValueError("broken")), lambda: 0.001):
            arrived.extend(chunk)

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run())
    assert arrived == [1, 2]


def test_a_reader_that_leaves_stops_the_source() -> None:
    stopped = asyncio.Event()

    async def endless() -> AsyncIterator[list[int]]:
        try:
            while True:
                yield [1]
                await asyncio.sleep(0)
        finally:
            stopped.set()

    async def run() -> None:
        stream = coalesce(endless(), lambda: 60)
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(stopped.wait(), 5)

    asyncio.run(run())

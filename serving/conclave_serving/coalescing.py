"""Sends a stream's chunks in few messages: the first chunk at once, then all gathered chunks once an interval.

Each message between the engine and the ingress costs both processes time that the engine could use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

T = TypeVar("T")


async def coalesce(chunks: AsyncIterator[list[T]], interval_s: Callable[[], float]) -> AsyncGenerator[list[T], None]:
    """The same chunks in the same order, in longer lists. An error of the source comes after the last chunk."""
    gathered: list[T] = []
    arrived = asyncio.Event()

    async def gather() -> None:
        try:
            async for chunk in chunks:
                gathered.extend(chunk)
                arrived.set()
        finally:
            arrived.set()

    gathering = asyncio.create_task(gather())
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            done = gathering.done()
            if gathered:
                batch, gathered[:] = gathered[:], []
                yield batch
            if done:
                break
            if not gathering.done():
                await asyncio.wait([gathering], timeout=interval_s())
                if gathering.done():
                    arrived.set()
        await gathering
    finally:
        gathering.cancel()
        # asyncio would log an exception that nobody reads, with its message.
        gathering.add_done_callback(lambda task: task.cancelled() or task.exception())

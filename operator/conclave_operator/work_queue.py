"""Keys that wait for a reconcile: each at most once, never two passes of one key at a time, a bounded number of passes.

News go before what is looked at only to be sure: an edit does not wait for a resync of a thousand objects.

What comes in for a key that waits is coalesced; what comes in while it is worked on is worked on once more afterwards.
Kopf's own worker limit is no such bound: an idle worker holds its place for its whole time-out. An exception of a pass
concerns its key alone.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0


class WorkQueue(Generic[Key]):
    """`work(key)` returns None when it is done. Else it returns the longest delay in seconds: the key is tried again at
    growing delays up to that. A key whose work raises is tried again at delays up to LONGEST_RETRY_S.

    `failed` is told what it raised. What is `fatal` ends the queue instead.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[float | None]],
        concurrency: int,
        failed: Callable[[Key, Exception], None],
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        self._work = work
        self._concurrency = concurrency
        self._failed = failed
        self._fatal = fatal
        self._waiting: asyncio.PriorityQueue[tuple[bool, int, Key]] = asyncio.PriorityQueue()
        self._serial = itertools.count()
        self._dirty: dict[Key, bool] = {}
        """With whether it waits only to be looked at."""
        self._busy: set[Key] = set()
        self._retries: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._dirty)

    def add(self, key: Key, *, is_news: bool = True) -> None:
        """From the event loop's thread; returns at once."""
        if key not in self._dirty or (is_news and self._dirty[key]):
            self._dirty[key] = not is_news
            if key not in self._busy:
                self._put(key)

    def _put(self, key: Key) -> None:
        self._waiting.put_nowait((self._dirty[key], next(self._serial), key))

    async def run(self) -> None:
        """Works for ever; a fatal exception of the work ends it."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(self._concurrency):
                workers.create_task(self._serve())

    async def idle(self) -> None:
        """Returns once nothing waits and nothing is worked on."""
        while self._dirty or self._busy:  # noqa: ASYNC110 - for tests and shutdown only
            await asyncio.sleep(0.005)

    async def _serve(self) -> None:
        while True:
            _, _, key = await self._waiting.get()
            if key not in self._dirty or key in self._busy:
                continue  # it has become news since, and was taken before
            del self._dirty[key]
            self._busy.add(key)
            self._cancel_timer(key)
            try:
                longest_s = await self._work(key)
            except self._fatal:
                raise
            except Exception as error:  # noqa: BLE001 - one key must not end the passes of all others
                self._failed(key, error)
                longest_s = LONGEST_RETRY_S
            finally:
                self._busy.discard(key)
            if longest_s is None:
                self._retries.pop(key, None)
            else:
                self._retry(key, longest_s)
            if key in self._dirty:
                self._put(key)

    def _retry(self, key: Key, longest_s: float) -> None:
        tries = self._retries.get(key, 0)
        self._retries[key] = tries + 1
        delay_s = min(FIRST_RETRY_S * 2 ** min(tries, 16), longest_s)
        self._cancel_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self.add, key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

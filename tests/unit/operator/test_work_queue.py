"""The work queue: one pass of a key at a time, nothing lost, nothing done twice, no more at once than allowed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conclave_cluster.lease import LeadershipLost
from conclave_operator import work_queue
from conclave_operator.work_queue import WorkQueue


def unexpected(key: str, error: Exception) -> None:
    raise AssertionError(f"the work on {key} failed") from error


def run(
    work: Callable[[str], Awaitable[bool]], drive: Callable[[WorkQueue[str]], Awaitable[None]], workers: int = 4
) -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(work, workers, unexpected)
        running = asyncio.create_task(queue.run())
        try:
            async with asyncio.timeout(20):
                await drive(queue)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_what_comes_in_for_a_waiting_key_is_coalesced_and_during_a_pass_is_done_once_more() -> None:
    passes: list[str] = []
    begun, release = asyncio.Event(), asyncio.Event()

    async def work(key: str) -> float | None:
        passes.append(key)
        begun.set()
        await release.wait()
        return None

    async def drive(queue: WorkQueue[str]) -> None:
        for _ in range(5):
            queue.add("a")
        await begun.wait()
        for _ in range(5):
            queue.add("a")
        assert len(queue) == 1
        release.set()
        await queue.idle()

    run(work, drive)
    assert passes == ["a", "a"]


@settings(max_examples=30, deadline=None)
@given(keys=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=60), workers=st.integers(1, 4))
def test_never_two_passes_of_a_key_and_never_more_than_allowed(keys: list[str], workers: int) -> None:
    busy: Counter[str] = Counter()
    done: Counter[str] = Counter()

    async def work(key: str) -> float | None:
        busy[key] += 1
        assert busy[key] == 1
        assert busy.total() <= workers
        await asyncio.sleep(0)
        busy[key] -= 1
        done[key] += 1
        return None

    async def drive(queue: WorkQueue[str]) -> None:
        for number, key in enumerate(keys):
            queue.add(key)
            if number % 3 == 0:
                await asyncio.sleep(0)
        await queue.idle()

    run(work, drive, workers)
    assert done.keys() == set(keys)
    assert all(done[key] <= keys.count(key) for key in done)


def test_what_is_not_done_is_tried_again_and_a_success_forgets_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_RETRY_S", 0.01)
    tries = 0
    finished = asyncio.Event()

    async def work(_: str) -> float | None:
        nonlocal tries
        tries += 1
        if tries == 3:
            finished.set()
        return None if tries >= 3 else 60.0

    async def drive(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await finished.wait()
        await queue.idle()

    run(work, drive)
    assert tries == 3


def test_an_error_concerns_its_key_which_is_tried_again_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_RETRY_S", 0.01)
    failed: list[tuple[str, str]] = []
    tries: Counter[str] = Counter()
    delays_s: list[float] = []

    async def work(key: str) -> float | None:
        tries[key] += 1
        if key == "hostile" and tries[key] <= 3:
            raise KeyError("metadata")
        return None

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(work, 1, lambda key, error: failed.append((key, type(error).__name__)))
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay_s: float, *arguments: Any) -> asyncio.TimerHandle:
            delays_s.append(delay_s)
            return call_later(delay_s, *arguments)

        running = asyncio.create_task(queue.run())
        async with asyncio.timeout(20):
            for key in ("hostile", "other"):
                queue.add(key)
            await asyncio.sleep(0)
            monkeypatch.setattr(loop, "call_later", noted)
            while tries["hostile"] < 4 or tries["other"] < 1:  # noqa: ASYNC110 - between two tries nothing is in the queue
                await asyncio.sleep(0.002)
            await queue.idle()
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert failed == [("hostile", "KeyError")] * 3
    assert tries == {"hostile": 4, "other": 1}
    assert [delay_s for delay_s in delays_s if delay_s >= 0.01] == [0.01, 0.02, 0.04]


def test_what_is_fatal_ends_the_queue() -> None:
    async def main() -> None:
        async def work(_: str) -> float | None:
            raise LeadershipLost("another one leads")

        queue: WorkQueue[str] = WorkQueue(work, 2, unexpected, (LeadershipLost,))
        queue.add("a")
        with pytest.raises(ExceptionGroup) as raised:
            await asyncio.wait_for(queue.run(), 5)
        assert raised.group_contains(LeadershipLost)

    asyncio.run(main())


def test_news_go_before_what_is_looked_at_only_to_be_sure() -> None:
    passes: list[str] = []

    async def work(key: str) -> float | None:
        passes.append(key)
        return None

    async def drive(queue: WorkQueue[str]) -> None:
        for key in "abcd":
            queue.add(key, is_news=False)
        queue.add("e")
        queue.add("c")
        queue.add("a", is_news=False)
        queue.add("c", is_news=False)
        assert len(queue) == 5
        await queue.idle()

    run(work, drive, workers=1)
    assert passes == ["e", "c", "a", "b", "d"]


def test_a_key_is_tried_again_at_growing_delays_up_to_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_RETRY_S", 0.01)
    delays_s: list[float] = []
    tries = 0

    async def work(_: str) -> float | None:
        nonlocal tries
        tries += 1
        return 0.02 if tries < 5 else None

    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(work, 1, unexpected)
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay_s: float, *arguments: Any) -> asyncio.TimerHandle:
            delays_s.append(delay_s)
            return call_later(delay_s, *arguments)

        monkeypatch.setattr(loop, "call_later", noted)
        running = asyncio.create_task(queue.run())
        queue.add("a")
        for _ in range(2000):
            if tries >= 5:
                break
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert [delay_s for delay_s in delays_s if delay_s > 0.005] == [0.01, 0.02, 0.02, 0.02]

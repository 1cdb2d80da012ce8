"""Processes that outlive who started them, with real ones: found again, told apart, ended."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tools.cluster.layout import ClusterError, Layout
from tools.cluster.processes import Record, all_recorded, ensure, start_of, stop, wait_until


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    made = Layout(tmp_path)
    made.logs.mkdir()
    made.records.mkdir()
    yield made
    stop(all_recorded(made), grace_s=0)


def test_a_process_is_started_once_in_a_session_of_its_own(layout: Layout) -> None:
    first = ensure(layout, "sleeper", ["/bin/sleep", "600"])
    assert first.running
    assert os.getsid(first.pid) == first.pid
    assert ensure(layout, "sleeper", ["/bin/sleep", "600"]) == first
    assert all_recorded(layout) == (first,)


def test_one_that_has_ended_is_started_again(layout: Layout) -> None:
    first = ensure(layout, "sleeper", ["/bin/sleep", "600"])
    stop([first], grace_s=5)
    assert not first.running
    assert ensure(layout, "sleeper", ["/bin/sleep", "600"]).pid != first.pid


def test_another_process_of_the_same_id_is_neither_ours_nor_ended(layout: Layout) -> None:
    record = ensure(layout, "sleeper", ["/bin/sleep", "600"])
    earlier = replace(record, started="another boot 12")
    assert not earlier.running
    stop([earlier], grace_s=0)
    assert record.running


def test_one_that_ignores_the_first_signal_is_ended_all_the_same(layout: Layout) -> None:
    record = ensure(layout, "deaf", ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 600; done"])
    wait_until(lambda: "deaf" in Path(record.log).read_text(), "the trap", 10, [record])
    child = _child(record)
    stop([record], grace_s=0.1)
    assert not record.running
    os.kill(child, 9)


def test_waiting_names_the_process_that_has_ended_and_what_it_said(layout: Layout) -> None:
    record = ensure(layout, "broken", ["/bin/sh", "-c", "echo no such flag >&2; exit 1"])
    with pytest.raises(
        ClusterError, match=r"broken ended while waiting for the API server; .*\n*no such flag"
    ) as error:
        wait_until(lambda: False, "the API server", 10, [record])
    assert re.search(r"broken\.log ends with", str(error.value))


def test_waiting_ends_when_time_is_up() -> None:
    with pytest.raises(ClusterError, match="node node-1: not within 0 s"):
        wait_until(lambda: False, "node node-1", 0)


def test_what_has_no_process_has_no_start() -> None:
    assert start_of(2**22 + 1) is None


def _child(record: Record) -> int:
    children = Path(f"/proc/{record.pid}/task/{record.pid}/children")
    wait_until(lambda: bool(children.read_text().split()), "the child", 10)
    return int(children.read_text().split()[0])

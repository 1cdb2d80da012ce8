"""A session's processes are found and what they mapped is known: real processes, no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.eventually import eventually

from conclave_cli.local.ray_head import session_processes, without_trackers
from conclave_cli.local.shared_memory import SHARED_MEMORY, SharedMemoryWatch, opened_shared_memory, shared_memory_files

CHILD = """
import multiprocessing, subprocess, sys, time
from multiprocessing import shared_memory, resource_tracker
memory = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(memory._name, "shared_memory")
semaphore = multiprocessing.get_context("spawn").Semaphore()
resource_tracker.unregister(semaphore._semlock.name, "semaphore")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=0)
print(memory.name, "sem." + semaphore._semlock.name.lstrip("/"), child.pid, flush=True)
time.sleep(60)
"""

TRACKED = """
import time
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=4096)
print(memory.name, flush=True)
time.sleep(60)
"""


@contextmanager
def session() -> Iterator[tuple[subprocess.Popen[str], set[str], int]]:
    """A process in a session of its own, with a child in another process group."""
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        assert process.stdout is not None
        *names, child = process.stdout.readline().split()
        try:
            yield process, set(names), int(child)
        finally:
            for process_id in session_processes(process.pid):
                os.kill(process_id, 9)
            for name in names:  # the child's tracker does not know them
                (SHARED_MEMORY / name).unlink(missing_ok=True)


def test_all_processes_of_a_session_are_found_whatever_their_group() -> None:
    with session() as (process, _, child):
        assert {process.pid, child} <= set(session_processes(process.pid))
        os.kill(process.pid, 9)
        process.wait()
        eventually(lambda: session_processes(process.pid) == (child,))
        os.kill(child, 9)
        eventually(lambda: session_processes(process.pid) == ())


def test_shared_memory_and_semaphores_are_known_while_their_owner_lives() -> None:
    with session() as (process, names, _):
        files = shared_memory_files(session_processes(process.pid))
        assert {file.name for file in files} == names
        opened = opened_shared_memory(session_processes(process.pid))
        assert {file.name for file in opened} == {name for name in names if name.startswith("psm_")}
        os.kill(process.pid, 9)
        process.wait()
        assert all(file.exists() for file in files)
        assert shared_memory_files([process.pid]) == frozenset()
        for file in files:
            file.unlink()


def test_a_resource_tracker_that_is_spared_removes_what_the_killed_left() -> None:
    command = [sys.executable, "-c", TRACKED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        file = Path("/dev/shm") / process.stdout.readline().strip()
        assert file.exists()
        eventually(lambda: len(session_processes(process.pid)) == 2)
        eventually(lambda: without_trackers(session_processes(process.pid)) == (process.pid,))
        os.kill(process.pid, 9)
        process.wait()
        eventually(lambda: session_processes(process.pid) == ())
        assert not file.exists()


BRIEF = """
import multiprocessing, os, signal, sys
from multiprocessing import shared_memory, resource_tracker
input()
if sys.argv[1] == "memory":
    made = shared_memory.SharedMemory(create=True, size=4096)
    name = made.name
else:
    made = multiprocessing.get_context("spawn").Lock()
    name = "sem." + made._semlock.name.lstrip("/")
os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
print(name, flush=True)
input()
os.kill(os.getpid(), signal.SIGKILL)
"""
"""An engine that fails soon: with its tracker gone, what it made stays and belongs to nobody."""


@pytest.mark.parametrize("kind", ["memory", "semaphore"])
def test_what_a_process_shared_that_ended_at_once_stays_known(kind: str) -> None:
    command = [sys.executable, "-c", BRIEF, kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watch = SharedMemoryWatch(lambda: session_processes(process.pid))
        process.stdin.write("\n")
        process.stdin.flush()
        file = Path("/dev/shm") / process.stdout.readline().strip()
        eventually(lambda: file in watch.found)
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait()
    assert file.exists()
    watch.end()
    assert file in watch.found
    file.unlink()

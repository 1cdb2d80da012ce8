"""Processes that outlive the shell which started them: found again by process id and start time, never by name.

Called by all of tools/cluster that starts or ends something. A record that no process matches any more, after a crash
or a restart of the machine, counts as not running.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.cluster.layout import ClusterError, Layout

PROC = Path("/proc")


@dataclass(frozen=True)
class Record:
    """What is kept of a process, in one file of its name."""

    name: str
    pid: int
    started: str
    """The boot, and the clock ticks after it: two processes of one id differ in it."""
    log: str

    @property
    def running(self) -> bool:
        return start_of(self.pid) == self.started


def start_of(pid: int) -> str | None:
    """Boot and start time of a process, or None where it has ended (a zombie has)."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"


def ensure(layout: Layout, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Record:
    """The running process of that name, started now, in a session of its own, where there is none."""
    record = recorded(layout, name)
    if record and record.running:
        return record
    log = layout.logs / f"{name}.log"
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        streams = ((nothing.fileno(), 0), (output.fileno(), 1), (output.fileno(), 2))
        pid = os.posix_spawn(
            command[0],
            [str(part) for part in command],
            {**os.environ, **(env or {})},
            file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for source, target in streams],
            setsid=True,
        )
    started = start_of(pid)
    record = Record(name, pid, started or "ended at once", str(log))
    path = layout.records / f"{name}.json"
    path.with_suffix(".partial").write_text(json.dumps(asdict(record)))
    path.with_suffix(".partial").rename(path)
    return record


def recorded(layout: Layout, name: str) -> Record | None:
    try:
        return Record(**json.loads((layout.records / f"{name}.json").read_text()))
    except FileNotFoundError:
        return None


def all_recorded(layout: Layout) -> tuple[Record, ...]:
    names = sorted(path.stem for path in layout.records.glob("*.json")) if layout.records.is_dir() else []
    return tuple(record for name in names if (record := recorded(layout, name)))


def stop(records: Sequence[Record], grace_s: float) -> None:
    """SIGTERM to all, then SIGKILL to those that are still there."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        running = [record for record in records if record.running]
        for record in running:
            kill(record.pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and any(record.running for record in running):
            reap()
            time.sleep(0.02)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def reap() -> None:
    """Ended children of this very process; none where another invocation started them."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def wait_until(check: Callable[[], bool], what: str, timeout_s: float, needs: Sequence[Record] = ()) -> None:
    """Polls until it holds. Raises ClusterError when time is up, or as soon as a process that it needs has ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = check()
        for record in needs:
            if not record.running:
                raise ClusterError(
                    f"{record.name} ended while waiting for {what}; {record.log} ends with:\n{tail(record)}"
                )
        if holds:
            return
        if time.monotonic() > deadline:
            logs = ", ".join(record.log for record in needs)
            raise ClusterError(f"{what}: not within {timeout_s:g} s; the logs are in {logs or 'the state folder'}")
        time.sleep(0.1)


def tail(record: Record, characters: int = 3000) -> str:
    return Path(record.log).read_text(errors="replace")[-characters:]

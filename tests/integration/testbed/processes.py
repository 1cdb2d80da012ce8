"""Processes of the test bed: each in a session of its own, logging to a file, killed with all its children at the end.

A process also dies when pytest itself is killed (setpriv's parent-death signal), so nothing is ever left running.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Process:
    """One running program and its log."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None):
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        """To the whole process group; for instance SIGSTOP and SIGCONT."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def stop(self, grace_s: float = 0.0) -> int:
        """SIGTERM where there is a grace period, then SIGKILL to the group; returns the exit code."""
        atexit.unregister(self.stop)
        if grace_s and self.running:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace_s)
        self.signal(signal.SIGKILL)
        return self._popen.wait()

    def require_running(self) -> None:
        """Raises RuntimeError with the end of the log where the process has ended."""
        if not self.running:
            raise RuntimeError(f"{self.name} exited {self._popen.returncode}; {self.log}:\n{self.tail()}")

    def tail(self, characters: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-characters:]

"""`conclave up` as a child of a test, with all processes that came of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

READY_TIMEOUT_S = 1200.0
END_TIMEOUT_S = 90.0

# A shell without job control starts what runs in its background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Up:
    """A child `conclave up`; a mark in its environment finds all processes that came of it."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.mark = f"CONCLAVE_TEST_MARK={uuid.uuid4()}"
        self.state = directory / "state"
        self.stdout, self.stderr = directory / "stdout", directory / "stderr"
        name, _, value = self.mark.partition("=")
        with self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "conclave_cli.main", "up", *arguments],
                env={**os.environ, name: value, "XDG_STATE_HOME": str(self.state)},
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
            )

    def said(self) -> str:
        return self.stdout.read_text() + self.stderr.read_text()

    def processes(self) -> list[str]:
        """Command lines of all live processes that carry the mark."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if self.mark.encode() in environment:
                found.append(f"{entry.name} {command}")
        return found

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"conclave up ended with {self.process.returncode}:\n{self.said()[-5000:]}")
        return "Ctrl-C ends it." in self.stdout.read_text()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=END_TIMEOUT_S)

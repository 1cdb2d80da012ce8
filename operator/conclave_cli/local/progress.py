"""What a user sees while a model starts: one live line on a terminal, plain lines elsewhere; and the plan, the end.

Prints only. Everything goes to stderr but the endpoint, so that stdout can be read by a program.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from conclave.api.plan import Plan
from conclave_cli.local.endpoint import AUTHORIZATION_FILE, Endpoint
from conclave_cli.terminal import LiveLine, say

GIB = 1024**3


class Progress:
    """Stages of a start with the seconds that each took."""

    def __init__(self) -> None:
        self._line = LiveLine()
        self._started_s = time.monotonic()
        self._stage = ""

    def __enter__(self) -> Progress:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._line.say(text)

    def stage(self, name: str) -> None:
        """What is going on now; calls that repeat the stage only move the clock."""
        elapsed_s = time.monotonic() - self._started_s
        self._line.update(f"{name} ({elapsed_s:.0f} s)")
        if name != self._stage:
            self._line.say(f"  {elapsed_s:5.1f} s  {name}", dim=True)
            self._stage = name

    def plan(self, name: str, plan: Plan) -> None:
        """The plan in three lines."""
        memory = plan.memory
        unit = "rank" if plan.accelerator == "cpu" else "GPU"
        self.say(f"{name}: {plan.parallelism} on {plan.accelerator}, context {plan.max_model_len} tokens")
        self.say(
            f"  each {unit}: weights {_size(memory.weights)}, KV cache {_size(memory.kv_cache)} "
            f"of {_size(memory.total)}; {plan.max_concurrency} requests of full length at once"
        )

    def ready(self, endpoint: Endpoint, state_directory: Path, log_directory: Path) -> None:
        """The endpoint, on stdout; from here on lines are logs.

        curl reads the key from a file: every user of the machine can read the arguments of a process.
        """
        self._line.stop()
        elapsed_s = time.monotonic() - self._started_s
        say(
            f"ready after {elapsed_s:.1f} s\n"
            f"  endpoint  {endpoint.url}\n"
            f"  model     {endpoint.model}\n"
            f"  key       {endpoint.key}\n"
            f"  try       curl {endpoint.url}/chat/completions -H '@{state_directory / AUTHORIZATION_FILE}' "
            "-H 'Content-Type: application/json' "
            f"""-d '{{"model": "{endpoint.model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'\n"""
            "  chat      conclave chat\n"
            f"  logs      {log_directory}\n"
            "Ctrl-C ends it."
        )

    def log(self, line: str) -> None:
        """A line of the engine's logs."""
        self._line.say(line, dim=True)


def _size(count_bytes: int) -> str:
    if count_bytes >= GIB:
        return f"{count_bytes / GIB:.1f} GiB"
    return f"{count_bytes / 1024**2:.1f} MiB"

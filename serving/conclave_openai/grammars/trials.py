"""Finds out whether a grammar compiles within limits of CPU, memory and time, in a process that may fail.

The gate before an engine asks once for each grammar; `trial_process.py` is the other process. The event loop waits for
nothing but the verdict. Nothing here knows an engine, and no message repeats a grammar.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from conclave_openai.grammars.trial_process import ACCEPTED, DECLINED, HEADER_BYTES

Kind = Literal["json", "regex", "ebnf", "lark", "structural_tag", "tools"]

MODULE = "conclave_openai.grammars.trial_process"
NICENESS = 5
OWN_LOGGER = logging.getLogger(__name__)


class TrialLimits(BaseModel):
    """What the trial of one grammar may take (request_limits.yaml, `schema.trial`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conversion_ms: int
    """CPU of the conversion, which vLLM does on the event loop of its frontend."""
    compile_ms: int
    """CPU of the compilation, over all threads."""
    step_ms: int
    """CPU of the engine for one token of an answer."""
    memory_bytes: int
    wall_s: float
    threads: int
    at_once: int
    waiting: int
    turn_s: float
    """How long a grammar may wait until its trial begins."""
    remembered: int
    start_s: float


class Verdict(Enum):
    """What a trial found out about a grammar."""

    ACCEPTED = "accepted"
    DECLINED = "declined"
    TOO_DEAR = "too dear"
    LATE = "late"
    """The machine gave the trial too little CPU or memory. The same grammar may pass later."""


@dataclass(frozen=True)
class Result:
    """The verdict of one trial, and the CPU that the trial took."""

    verdict: Verdict
    cpu_ms: int = 0


class Overfull(Exception):
    """Too many grammars wait for a trial, or this grammar waited too long for its turn."""


class TrialsUnavailable(Exception):
    """The process of the trials has ended, or has not started in time."""


@dataclass
class _Process:
    """The other process, and the trials that it has not answered yet."""

    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    asked: dict[int, asyncio.Future[Result]] = field(default_factory=dict)


class GrammarTrials:
    """Tries grammars and remembers their verdicts by digest. A grammar that many requests bring is tried once."""

    def __init__(self, limits: TrialLimits, *, logger: logging.Logger = OWN_LOGGER) -> None:
        self._limits = limits
        self._logger = logger
        self._setting: dict[str, Any] | None = None
        self._process: _Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(limits.at_once)
        self._starting = asyncio.Lock()
        self._number = 0
        self._open: dict[str, asyncio.Future[Result]] = {}
        self._known: OrderedDict[str, Result] = OrderedDict()

    async def begin(self) -> None:
        """Start the other process. It imports what it needs while the caller continues."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns at once; asyncio would need a watcher of children
                [sys.executable, "-m", MODULE, str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        reader, writer = await asyncio.open_connection(sock=ours)
        self._process = _Process(process, reader, writer)
        task = asyncio.create_task(self._listen(self._process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._setting is not None:
            _send(writer, self._setting)

    def set_vocabulary(self, serialized: str, *, any_whitespace: bool) -> None:
        """Set the vocabulary for all trials, as xgrammar's `TokenizerInfo.serialize_json()` gives it."""
        given = self._limits.model_dump(
            include={"conversion_ms", "compile_ms", "step_ms", "memory_bytes", "wall_s", "threads"}
        )
        self._setting = {**given, "vocabulary": serialized, "any_whitespace": any_whitespace}
        if self._process is not None:
            _send(self._process.writer, self._setting)

    async def end(self) -> None:
        """Close the connection, which ends the other process, and wait for its end."""
        if self._process is not None:
            self._process.writer.close()
        await asyncio.gather(*self._tasks)

    async def judge(self, kind: Kind, grammar: Any) -> Verdict:
        """The verdict on a grammar: remembered, from a running trial of the same grammar, or from a new trial.

        Raises Overfull and TrialsUnavailable.
        """
        return (await self.result(kind, grammar)).verdict

    async def result(self, kind: Kind, grammar: Any) -> Result:
        """The verdict, as `judge` gives it, with the CPU that the trial took."""
        text = grammar if isinstance(grammar, str) else json.dumps(grammar)
        digest = sha256(f"{kind} {text}".encode(errors="surrogatepass")).hexdigest()
        if known := self._known.get(digest):
            self._known.move_to_end(digest)
            return known
        running = self._open.get(digest)
        if running is None:
            if len(self._open) >= self._limits.waiting:
                raise Overfull
            running = asyncio.ensure_future(self._try(kind, grammar))
            self._open[digest] = running
            running.add_done_callback(lambda done: self._close(digest, done))
        return await asyncio.shield(running)

    def _close(self, digest: str, done: asyncio.Future[Result]) -> None:
        del self._open[digest]
        if done.cancelled() or done.exception() is not None or done.result().verdict is Verdict.LATE:
            return
        self._known[digest] = done.result()
        while len(self._known) > self._limits.remembered:
            self._known.popitem(last=False)

    async def _try(self, kind: Kind, grammar: Any) -> Result:
        await self._take_place()
        try:
            process = await self._started()
            self._number += 1
            answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
            process.asked[self._number] = answer
            _send(process.writer, {"number": self._number, "kind": kind, "grammar": grammar})
            return await answer
        finally:
            self._places.release()

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(self._limits.turn_s):
                await self._places.acquire()
        except TimeoutError:
            raise Overfull from None

    async def _started(self) -> _Process:
        """The other process when it is ready; a new process where the last one has ended."""
        async with self._starting:  # without the lock two grammars would start two processes, and one would never end
            if self._process is None:
                await self.begin()
            process = self._process
        if process is None:
            raise TrialsUnavailable
        try:
            await asyncio.wait_for(process.ready.wait(), self._limits.start_s)
        except TimeoutError:
            raise TrialsUnavailable from None
        if process is not self._process:
            raise TrialsUnavailable
        return process

    async def _listen(self, process: _Process) -> None:
        """Pass on the answers of one process until the process ends."""
        try:
            while True:
                size = int.from_bytes(await process.reader.readexactly(HEADER_BYTES), "big")
                message = json.loads(await process.reader.readexactly(size))
                if "ready" in message:
                    process.ready.set()
                elif answer := process.asked.pop(message["number"], None):
                    answer.set_result(_result(message))
        except (asyncio.IncompleteReadError, OSError):
            pass
        if self._process is process:
            self._process = None
        process.ready.set()  # callers that wait see that the process has ended
        process.writer.close()
        for answer in process.asked.values():
            if not answer.done():
                answer.set_exception(TrialsUnavailable())
        status = await asyncio.to_thread(process.process.wait)
        if status != 0:
            self._logger.warning(
                "the process that tries grammars ended with status %d; the next grammar starts a new one", status
            )


def _send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    body = json.dumps(message).encode()
    writer.write(len(body).to_bytes(HEADER_BYTES, "big") + body)


def _result(message: Mapping[str, Any]) -> Result:
    status = os.waitstatus_to_exitcode(message["status"])
    verdict = {
        ACCEPTED: Verdict.ACCEPTED,
        DECLINED: Verdict.DECLINED,
        -signal.SIGALRM: Verdict.LATE,
        # No limit of a trial sends this signal. The kernel does when the container has no memory left.
        -signal.SIGKILL: Verdict.LATE,
    }
    return Result(verdict.get(status, Verdict.TOO_DEAR), message["cpu_ms"])

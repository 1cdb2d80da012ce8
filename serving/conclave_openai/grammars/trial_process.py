"""Compiles grammars of clients in processes that may fail: `python -m conclave_openai.grammars.trial_process PARENT`.

`trials.py` starts this process and sends grammars over standard input, which is a socket. This process imports xgrammar
and reads the vocabulary once, then forks for each grammar. The kernel ends a fork that exceeds its CPU, memory or time.
This process ends with its parent. Standard error is dropped, because xgrammar writes there what clients sent.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

ACCEPTED, DECLINED = 0, 3
HEADER_BYTES = 4
TEXTS, STEPS = 3, 48
"""Each grammar writes TEXTS texts of at most STEPS characters."""
ENDINGS = 0.3
"""How often a text first tries a character that ends a string or a container, so that the text moves on."""
_PR_SET_PDEATHSIG = 1
_SOCKET = 0
_SIGNS = [chr(code) for code in range(32, 127)]
_ENDS = ' ]}:,"'


def main() -> int:
    """Try grammars until the parent has ended."""
    _end_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent decides
    _go_first_when_memory_runs_out()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold what clients sent
    setting = _read()
    if setting is None:
        return 0
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _Forks(setting).serve(woken)
    return 0


class _Forks:
    """The forks of this process, one for each grammar that is being tried."""

    def __init__(self, setting: Mapping[str, Any]) -> None:
        import xgrammar

        self._tokens = xgrammar.TokenizerInfo.deserialize_json(setting["vocabulary"])
        self._setting = setting
        self._running: dict[int, int] = {}
        _write({"ready": True})

    def serve(self, woken: int) -> None:
        while True:
            ready, _, _ = select.select([_SOCKET, woken], [], [])
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if _SOCKET in ready:
                trial = _read()
                if trial is None:
                    break
                self._fork(trial)
        for process in self._running:
            os.kill(process, signal.SIGKILL)

    def _fork(self, trial: Mapping[str, Any]) -> None:
        parent = os.getpid()
        process = os.fork()
        if process:
            self._running[process] = trial["number"]
            return
        result = DECLINED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _end_with(parent)
            result = self._try(trial["kind"], trial["grammar"])
        finally:
            os._exit(result)

    def _try(self, kind: str, grammar: Any) -> int:
        import xgrammar

        setting = self._setting
        memory_bytes = _data_bytes() + setting["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        signal.setitimer(signal.ITIMER_REAL, setting["wall_s"])
        try:
            _give_cpu(setting["conversion_ms"])
            converted = _convert(kind, grammar)
            if converted is None:
                return ACCEPTED
            _give_cpu(setting["compile_ms"])
            compiler = xgrammar.GrammarCompiler(self._tokens, max_threads=setting["threads"], cache_enabled=False)
            compact = not setting["any_whitespace"]
            if kind == "json":
                separators = (",", ":") if compact else None
                compiled = compiler.compile_json_schema(grammar, any_whitespace=not compact, separators=separators)
            elif kind == "regex":
                compiled = compiler.compile_regex(grammar)
            elif kind == "structural_tag":
                compiled = compiler.compile_structural_tag(grammar)
            else:
                compiled = compiler.compile_grammar(converted)
            self._follow(compiled)
        except MemoryError:
            os.abort()
        except Exception:  # noqa: BLE001 - xgrammar raises RuntimeError and others; all mean that it declines
            return DECLINED
        return ACCEPTED

    def _follow(self, compiled: Any) -> None:
        """Write texts that the grammar allows, as a model does.

        A grammar that compiles quickly may still take seconds of the engine for each token. Example: `(.{1,5}){0,10}`
        reads a text in many ways at the same time.
        """
        import xgrammar

        mask = xgrammar.allocate_token_bitmask(1, self._tokens.vocab_size)
        for seed in range(TEXTS):
            dice = random.Random(seed)  # noqa: S311 - the same grammar must get the same texts
            matcher = xgrammar.GrammarMatcher(compiled)
            for _ in range(STEPS):
                _give_cpu(self._setting["step_ms"])
                matcher.fill_next_token_bitmask(mask)
                matcher.accept_string(matcher.find_jump_forward_string())
                signs = dice.sample(_SIGNS, len(_SIGNS))
                if dice.random() < ENDINGS:
                    signs.sort(key=_ENDS.find, reverse=True)
                if matcher.is_terminated() or not any(map(matcher.accept_string, signs)):
                    break

    def _reap(self) -> None:
        while self._running:
            process, status, used = os.wait4(-1, os.WNOHANG)
            if process == 0:
                return
            _write(
                {
                    "number": self._running.pop(process),
                    "status": status,
                    "cpu_ms": round(1000 * (used.ru_utime + used.ru_stime)),
                }
            )


def _convert(kind: str, grammar: Any) -> Any:
    """Convert a grammar as the engine's frontend does on its event loop. None where nothing is compiled afterwards."""
    import xgrammar

    if kind == "tools":
        for schema in grammar:
            try:
                xgrammar.Grammar.from_json_schema(json.dumps(schema))
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001, S112 - an answer need not follow the tool's schema
                continue
        return None
    conversions: Mapping[str, Callable[[Any], Any]] = {
        "json": xgrammar.Grammar.from_json_schema,
        "regex": xgrammar.Grammar.from_regex,
        "ebnf": xgrammar.Grammar.from_ebnf,
        "lark": xgrammar.Grammar.from_lark,
        "structural_tag": xgrammar.Grammar.from_structural_tag,
    }
    return conversions[kind](grammar)


def _give_cpu(milliseconds: float) -> None:
    """SIGPROF ends this process when all its threads together have used this much more CPU."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, milliseconds / 1000)


def _data_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - a file of the kernel's
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData:"))


def _go_first_when_memory_runs_out() -> None:
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123 - the same
        score.write("1000")


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends in any way."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _read() -> dict[str, Any] | None:
    """The next message. None when the parent has closed its end of the socket."""
    header = _receive(HEADER_BYTES)
    if header is None:
        return None
    body = _receive(int.from_bytes(header, "big"))
    return None if body is None else dict(json.loads(body))


def _receive(size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(_SOCKET, min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _write(message: Mapping[str, Any]) -> None:
    body = json.dumps(message).encode()
    rest = memoryview(len(body).to_bytes(HEADER_BYTES, "big") + body)
    while rest:
        rest = rest[os.write(_SOCKET, rest) :]


if __name__ == "__main__":
    sys.exit(main())

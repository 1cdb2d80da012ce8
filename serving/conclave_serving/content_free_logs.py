"""No log holds what a client sent or a model answered, whoever writes it: vLLM, a library, Python, or C++ code.

vLLM's plugin (`conclave_serving.models.register`) calls both functions in the replica, the engine core and each worker;
the ingress calls `guard_logs`. What a record says of the place and the kind of a failure stays. Failures of a start
stay whole: `conclave explain` reads the root cause from their messages, and no client has sent anything by then.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from numbers import Number
from pathlib import Path
from typing import Any

REQUEST_LOGGERS = (
    "asyncio",  # repeats the exception of a task in its message
    "vllm.entrypoints",
    "vllm.inputs",
    "vllm.logging_utils.dump_input",  # the scheduler's output, when a step of the engine fails
    "vllm.multimodal",
    "vllm.outputs",
    "vllm.parser",
    "vllm.reasoning",
    "vllm.renderers",
    "vllm.sampling_params",
    "vllm.tokenizers",
    "vllm.tool_parsers",
    "vllm.v1.core.sched",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.detokenizer",
    "vllm.v1.engine.input_processor",
    "vllm.v1.engine.output_processor",
    "vllm.v1.engine.parallel_sampling",
    "vllm.v1.request",
    "vllm.v1.structured_output",
)
"""Loggers (and those below them) of code that handles requests and answers: of their records only numbers, types and
ids of requests stay beside the words that stand in the code."""

REQUEST_FUNCTIONS = frozenset(
    {
        # The ingress and the replica.
        *("answer_chat", "answer_completions", "_guarded", "create_chat_completion", "create_completion"),
        *("generate", "output_handler"),
        # The engine core; its threads for input and for grammars.
        *("run_busy_loop", "process_input_sockets", "_create_grammar"),
        # A worker. Its start calls neither: profiling runs a model without requests.
        *("execute_model", "sample_tokens"),
    }
)
"""Functions through which every request goes, and no start: an exception that passed one may hold content."""

_REQUEST_ROOMS = ("conclave_serving.", "vllm.")

TELLING = re.compile(
    r"(OutOfMemoryError|AcceleratorError|DistBackendError|EngineDeadError|TimeoutError): |"
    r"RuntimeError: (CUDA|HIP|NCCL|RCCL|Triton|cuDNN|CUBLAS|HIPBLAS)[ _]"
)
"""Exceptions whose messages are made of the engine's own numbers and names, and name what `conclave explain` mends."""

_PLACEHOLDER = re.compile(r"%(?:%|(?:\(\w+\))?[-#0 +]*[\d*]*(?:\.[\d*]+)?[hlL]?[a-zA-Z])")
_ID_OF_A_REQUEST = re.compile(r"[Rr]equest $")

RecordFactory = Callable[..., logging.LogRecord]


class Withheld:
    """Stands for a value in a log record, and says its type and size."""

    def __init__(self, value: object) -> None:
        size = f", {len(value)} characters" if isinstance(value, str) else ""
        self._text = f"<{type(value).__name__}{size}>"

    def __repr__(self) -> str:
        return self._text


def guard_logs() -> None:
    """Take content out of every log record and every uncaught exception of this process; harmless when repeated."""
    factory = logging.getLogRecordFactory()
    if getattr(guard_logs, "is_done", False):
        return
    guard_logs.is_done = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(guarded(factory))
    sys.excepthook = _uncaught(sys.excepthook)
    threading.excepthook = _uncaught_in_thread(threading.excepthook)
    # How multiprocessing tells the end of a child, such as the engine core.
    traceback.print_exc = _printed(traceback.print_exc)
    # They repeat the value that was not of its type.
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings")


def guarded(factory: RecordFactory) -> RecordFactory:
    """The factory of log records, which makes them without content."""

    @functools.wraps(factory)
    def make(
        name: str, level: int, path: str, line: int, message: object, args: Any, exc_info: Any, *rest: Any, **more: Any
    ) -> logging.LogRecord:
        error = exc_info[1] if isinstance(exc_info, tuple) else None
        is_of_requests = is_below(name, REQUEST_LOGGERS)
        if is_of_requests:
            message, args = without_content(message, args, path)
        if error is None or not (is_of_requests or is_of_a_request(error)):
            return factory(name, level, path, line, message, args, exc_info, *rest, **more)
        record = factory(name, level, path, line, message, args, None, *rest, **more)
        record.exc_text = traceback_without_content(error)
        return record

    return make


def is_below(name: str, loggers: tuple[str, ...]) -> bool:
    return any(name == logger or name.startswith(f"{logger}.") for logger in loggers)


def without_content(message: object, args: Any, path: str) -> tuple[object, Any]:
    """A record's message and arguments: a message without any stays where it stands in the code, word for word."""
    if not isinstance(message, str):
        return Withheld(message), ()
    if not args:
        return (message if message in _texts_of(path) else f"(withheld: {len(message)} characters)"), ()
    if isinstance(args, Mapping):
        return message, {name: _safe(value) for name, value in args.items()}
    placeholders = [match.start() for match in _PLACEHOLDER.finditer(message) if match.group() != "%%"]
    ids = {index for index, start in enumerate(placeholders) if _ID_OF_A_REQUEST.search(message[:start])}
    return message, tuple(value if index in ids else _safe(value) for index, value in enumerate(args))


def _safe(value: object) -> object:
    return value if value is None or isinstance(value, (Number, Enum, type)) else Withheld(value)


@functools.lru_cache(maxsize=64)
def _texts_of(path: str) -> frozenset[str]:
    """The strings that stand in a source file; none where it cannot be read."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    whole = {node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    return frozenset(str(node.value) for node in whole - parts)


def is_of_a_request(error: BaseException) -> bool:
    """Whether the exception, or one behind it, passed a function that handles requests."""
    return any(
        frame.f_code.co_name in REQUEST_FUNCTIONS and frame.f_globals.get("__name__", "").startswith(_REQUEST_ROOMS)
        for each in _chain(error)
        for frame, _line in traceback.walk_tb(each.__traceback__)
    )


def traceback_without_content(error: BaseException) -> str:
    """As Python prints it, the cause first; the message of an exception only where its type makes it of its own."""
    parts = []
    for each in reversed(list(_chain(error))):
        kind = type(each)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        said = str(each)
        if not TELLING.match(f"{kind.__qualname__}: {said}"):
            said = f"(withheld: {len(said)} characters)"
        frames = "".join(traceback.format_tb(each.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{name}: {said}")
    return "\n\n".join(parts)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came of, each once."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _uncaught(hook: Callable[..., Any]) -> Callable[..., Any]:
    def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if is_of_a_request(error):
            sys.stderr.write(f"{traceback_without_content(error)}\n")
        else:
            hook(kind, error, trace)

    return tell


def _uncaught_in_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    def tell(given: Any) -> None:
        if given.exc_value is not None and is_of_a_request(given.exc_value):
            name = given.thread.name if given.thread else "unknown"
            sys.stderr.write(f"Exception in thread {name}:\n{traceback_without_content(given.exc_value)}\n")
        else:
            hook(given)

    return tell


def _printed(print_exc: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(print_exc)
    def tell(limit: int | None = None, file: Any = None, chain: bool = True) -> None:
        error = sys.exc_info()[1]
        if error is not None and is_of_a_request(error):
            (file or sys.stderr).write(f"{traceback_without_content(error)}\n")
        else:
            print_exc(limit, file, chain)

    return tell


class _StandardError:
    """C++'s `std::cerr` of this process, which can be made to drop what is written; file descriptor 2 stays as it is,
    so that Python's log and the last words of a crash are never lost."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libstdc++.so.6")
        stream = ctypes.addressof(ctypes.c_char.in_dll(library, "_ZSt4cerr"))
        # Itanium C++ ABI: the offset of the virtual base `std::ios` stands three words before the virtual table.
        table = ctypes.c_void_p.from_address(stream).value or 0
        offset = ctypes.c_ssize_t.from_address(table - 3 * ctypes.sizeof(ctypes.c_void_p)).value
        self._ios = ctypes.c_void_p(stream + offset)
        # std::streambuf *std::ios::rdbuf(std::streambuf *)
        self._exchange = library._ZNSt9basic_iosIcSt11char_traitsIcEE5rdbufEPSt15basic_streambufIcS1_E
        self._exchange.restype = ctypes.c_void_p
        self._exchange.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._lock = threading.Lock()
        self._calls = 0
        self._buffer: int | None = None

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Nothing that C++ code writes there is seen, until the last of all calls that overlap has ended."""
        with self._lock:
            self._calls += 1
            if self._calls == 1:
                self._buffer = self._exchange(self._ios, None)
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                if self._calls == 0:
                    self._exchange(self._ios, self._buffer)


def silence_grammar_warnings() -> None:
    """xgrammar warns of a pattern or schema with its text, by `std::cerr` and with no level to set."""
    from xgrammar import Grammar, GrammarCompiler

    if getattr(silence_grammar_warnings, "is_done", False):
        return
    silence_grammar_warnings.is_done = True  # type: ignore[attr-defined]
    standard_error = _StandardError()
    for owner in (Grammar, GrammarCompiler):
        for name, method in list(vars(owner).items()):
            if not name.startswith(("from_", "compile_")):
                continue
            is_static = isinstance(method, staticmethod)
            silent = standard_error.dropped()(method.__func__ if is_static else method)
            setattr(owner, name, staticmethod(silent) if is_static else silent)

"""Takes what a client sent or a model answered out of logs, whichever library writes them.

A process says in a `RequestCode` which code handles requests, and calls `guard_logs` once. The place and the type of a
failure stay in the log. `conclave_models/content_free_logs.py` describes the processes of an engine.
"""

from __future__ import annotations

import ast
import functools
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from numbers import Number
from pathlib import Path
from typing import Any

_PLACEHOLDER = re.compile(r"%(?:%|(?:\(\w+\))?[-#0 +]*[\d*]*(?:\.[\d*]+)?[hlL]?[a-zA-Z])")
_ID_OF_A_REQUEST = re.compile(r"[Rr]equest $")

RecordFactory = Callable[..., logging.LogRecord]


@dataclass(frozen=True)
class RequestCode:
    """The code of a process that handles requests and answers."""

    loggers: tuple[str, ...]
    """Of the records of these loggers, and of the loggers below them, only numbers, types and ids of requests stay
    beside the words of the source code."""
    functions: frozenset[str]
    """Every request passes one of these functions. The message of an exception that passed one is withheld."""
    packages: tuple[str, ...]
    """Prefixes of the modules in which `functions` count."""
    telling: re.Pattern[str]
    """Exceptions (`Type: message`) whose messages stay, because they hold no content."""


class Withheld:
    """Replaces a value in a log record, and says the value's type and size."""

    def __init__(self, value: object) -> None:
        size = f", {len(value)} characters" if isinstance(value, str) else ""
        self._text = f"<{type(value).__name__}{size}>"

    def __repr__(self) -> str:
        return self._text


def guard_logs(code: RequestCode) -> None:
    """Take content out of every log record and every uncaught exception of this process; harmless when repeated."""
    if getattr(guard_logs, "is_done", False):
        return
    guard_logs.is_done = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(guarded(logging.getLogRecordFactory(), code))
    sys.excepthook = _uncaught(sys.excepthook, code)
    threading.excepthook = _uncaught_in_thread(threading.excepthook, code)
    # multiprocessing reports the end of a child, such as the engine core, by this function.
    traceback.print_exc = _printed(traceback.print_exc, code)
    # These warnings repeat the value that had the wrong type.
    warnings.filterwarnings("ignore", message="Pydantic serializer warnings")


def guarded(factory: RecordFactory, code: RequestCode) -> RecordFactory:
    """The same factory of log records, whose records hold no content."""

    @functools.wraps(factory)
    def make(
        name: str | None,
        level: int,
        path: str,
        line: int,
        message: object,
        args: Any,
        exc_info: Any,
        *rest: Any,
        **more: Any,
    ) -> logging.LogRecord:
        error = exc_info[1] if isinstance(exc_info, tuple) else None
        is_of_requests = is_below(name or "", code.loggers)  # `logging.makeLogRecord` gives no name
        if is_of_requests:
            message, args = without_content(message, args, path)
        if error is None or not (is_of_requests or is_of_a_request(error, code)):
            return factory(name, level, path, line, message, args, exc_info, *rest, **more)
        record = factory(name, level, path, line, message, args, None, *rest, **more)
        record.exc_text = traceback_without_content(error, code)
        return record

    return make


def is_below(name: str, loggers: tuple[str, ...]) -> bool:
    return any(name == logger or name.startswith(f"{logger}.") for logger in loggers)


def without_content(message: object, args: Any, path: str) -> tuple[object, Any]:
    """A record's message and arguments without content. A message without arguments stays if the source code has it."""
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
    """The strings of a source file; none where the file cannot be read."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    whole = {node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    return frozenset(str(node.value) for node in whole - parts)


def is_of_a_request(error: BaseException, code: RequestCode) -> bool:
    """Whether the exception, or one of its causes, passed a function that handles requests."""
    return any(
        frame.f_code.co_name in code.functions and frame.f_globals.get("__name__", "").startswith(code.packages)
        for each in _chain(error)
        for frame, _line in traceback.walk_tb(each.__traceback__)
    )


def traceback_without_content(error: BaseException, code: RequestCode) -> str:
    """The traceback as Python prints it, the cause first, without messages that may hold content."""
    parts = []
    for each in reversed(list(_chain(error))):
        kind = type(each)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        said = str(each)
        if not code.telling.match(f"{kind.__qualname__}: {said}"):
            said = f"(withheld: {len(said)} characters)"
        frames = "".join(traceback.format_tb(each.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{name}: {said}")
    return "\n\n".join(parts)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes, each once."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _uncaught(hook: Callable[..., Any], code: RequestCode) -> Callable[..., Any]:
    def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if is_of_a_request(error, code):
            sys.stderr.write(f"{traceback_without_content(error, code)}\n")
        else:
            hook(kind, error, trace)

    return tell


def _uncaught_in_thread(hook: Callable[..., Any], code: RequestCode) -> Callable[..., Any]:
    def tell(given: Any) -> None:
        if given.exc_value is not None and is_of_a_request(given.exc_value, code):
            name = given.thread.name if given.thread else "unknown"
            sys.stderr.write(f"Exception in thread {name}:\n{traceback_without_content(given.exc_value, code)}\n")
        else:
            hook(given)

    return tell


def _printed(print_exc: Callable[..., None], code: RequestCode) -> Callable[..., None]:
    @functools.wraps(print_exc)
    def tell(limit: int | None = None, file: Any = None, chain: bool = True) -> None:
        error = sys.exc_info()[1]
        if error is not None and is_of_a_request(error, code):
            (file or sys.stderr).write(f"{traceback_without_content(error, code)}\n")
        else:
            print_exc(limit, file, chain)

    return tell


def place_of(error: BaseException) -> str:
    """Type and frames of an error for the log, without the message, which may hold what a client sent."""
    return f"{type(error).__name__} at\n{''.join(traceback.format_tb(error.__traceback__))}"

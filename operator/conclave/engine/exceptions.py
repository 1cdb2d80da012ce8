"""Digs the exception that matters out of a traceback of many processes, as Ray Serve puts it into a status message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict

from conclave.api.reasons import Reason

_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Unfit|Refused)\b"
    r"(?:\(['\"].*|(?:\([^)]*\))?(?::.*)?)$"
)
"""`Name: message`, `Name(pid=1): message`, or the first line of a representation, `Name('message`."""
_COUNTED = re.compile(r"\d validation errors? for \w+$")
_DETAIL = re.compile(r"(?:Value error|Assertion failed), ")
_COLOUR = re.compile(r"\x1b\[[0-9;]{0,32}m")
_PREFIX = re.compile(
    r"^\s*(?:\(\w(?=[^)]{0,200}?pid=\d)[^)]{0,300}+\)\s*)?"
    r"(?:(?:ERROR|WARNING|INFO) [\d:., -]{1,64}(?:\[[^\]]{0,200}+\]|.{0,200}? --)\s*)?"
)
"""What Ray, vLLM and Serve put before a line: the process, then level, time and place."""
LONGEST_LINE = 2048
"""Characters of a line that are looked at, and MOST_LINES of those that hold an exception, the first and the last: the
text is anybody's, and each pattern is tried on each line.
"""
MOST_LINES = 64


class _Failure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: re.Pattern[str]
    reason: Reason
    remedy: str


class _Failures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    wrappers: tuple[re.Pattern[str], ...]
    failures: tuple[_Failure, ...]


class Cause(NamedTuple):
    """The exception that started it."""

    reason: Reason
    line: str
    """Its type and message."""
    remedy: str
    passed_on_by: tuple[str, ...]
    """The exceptions that only pass it on, outermost last."""
    is_consequence: bool
    """The text holds no more than such exceptions: what started them may still be on its way into the logs."""


def find_cause(text: str) -> Cause | None:
    """None where the text holds no exception. Python prints a cause before what it caused.

    A traceback that was put into another exception's representation has its line breaks as two characters.
    """
    broken = (line[:LONGEST_LINE] for line in text.replace("\\n", "\n").splitlines())
    lines = [_PREFIX.sub("", _COLOUR.sub("", line)).strip() for line in broken]
    raised = [line for line in _with_details(lines) if _EXCEPTION.match(line)]
    if not raised:
        return None
    if len(raised) > MOST_LINES:
        raised = raised[: MOST_LINES // 2] + raised[-MOST_LINES // 2 :]
    wrappers = [line for line in raised if any(wrapper.search(line) for wrapper in _failures().wrappers)]
    starting = [line for line in raised if line not in wrappers]
    causes = starting or wrappers[-1:]
    for failure in _failures().failures:
        for line in causes:
            if failure.pattern.search(line):
                return Cause(failure.reason, line, failure.remedy, _others(raised, line), is_consequence=False)
    return Cause(Reason.ENGINE_FAILED, causes[0], "", _others(raised, causes[0]), is_consequence=not starting)


def _with_details(lines: list[str]) -> Iterator[str]:
    """What pydantic says of the first field on a line of its own, behind the line that counts the errors."""
    for line, following in pairwise([*lines, ""]):
        yield f"{line}: {following}" if _COUNTED.search(line) and _DETAIL.match(following) else line


def _others(raised: list[str], line: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(other for other in raised if other != line))


@cache
def _failures() -> _Failures:
    text = files("conclave.engine").joinpath("engine_failures.yaml").read_text(encoding="utf-8")
    return _Failures.model_validate(yaml.safe_load(text))

"""Finds the one line of a long failure that says what was wrong: the first real error, not what followed from it.

Pure text work on Serve's messages and the engine's logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

ERROR_LINE = re.compile(
    r"(?:^|[\s\]|])((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Unfit|Refused)):"
    r" (?!Traceback )(.+)$"
)
CONSEQUENCES = (
    re.compile(r"Engine core initialization failed"),
    re.compile(r"WorkerProc initialization failed"),
    re.compile(r"^(?:RayTaskError|RayActorError|RaySystemError|ActorDiedError|ActorUnavailableError)"),
    re.compile(r"Failed to start engine|failed to start \d+ times|EngineDeadError"),
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
MAX_LENGTH = 600


def root_cause(*texts: str) -> str | None:
    """The first error that is nobody's consequence, as `ErrorType: message`; else the first error; None without any."""
    found = list(_errors(texts))
    causes = (error for error in found if not any(pattern.search(error) for pattern in CONSEQUENCES))
    return next(causes, found[0] if found else None)


def _errors(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.replace("\\n", "\n").splitlines():
            match = ERROR_LINE.search(ANSI.sub("", line).rstrip())
            if match is not None:
                yield f"{match.group(1).rpartition('.')[2]}: {match.group(2)}"[:MAX_LENGTH]

"""Lists the finished files of an interrupted conversion: a line that names the conversion, then a line for each file.

The journal is a hidden file in the working directory. A line that a crash cut off is ignored.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from conclave.errors import InvalidInput
from conclave_weights.files.durable import make_own
from conclave_weights.files.regular_files import open_to_read, open_to_write

NAME = ".conversion.jsonl"


@dataclass(frozen=True)
class FinishedFile:
    """A file that was written and flushed."""

    file: str
    size_bytes: int
    sha256: str


class Journal:
    """An open, locked journal: only one conversion works in a directory at a time."""

    def __init__(self, directory: Path, identity: str) -> None:
        """Raises InvalidInput where another conversion works, or worked, in the directory."""
        make_own(directory)
        strange = not (directory / NAME).exists() and any(directory.iterdir())
        if strange:
            raise InvalidInput(
                f"{directory}: exists and is not an interrupted conversion; remove it, or choose another target"
            )
        self._file = TextIOWrapper(open_to_write(directory / NAME), encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise InvalidInput(f"{directory}: another conversion is running there; wait for it") from error
        text = self._file.read()
        entries = [entry for line in text.splitlines() if (entry := _entry(line)) is not None]
        if entries and entries[0] != {"conversion": identity}:
            self._file.close()
            raise InvalidInput(
                f"{directory}: an interrupted conversion of other files or with other options; repeat that command, "
                "or remove the directory to start again"
            )
        self.finished = tuple(
            FinishedFile(str(entry["file"]), int(entry["size_bytes"]), str(entry["sha256"])) for entry in entries[1:]
        )
        if text and not text.endswith("\n"):
            self._file.write("\n")
        if not entries:
            self._append({"conversion": identity})

    def add(self, finished: FinishedFile) -> None:
        """Add a file. The line is on the disk when this returns."""
        self._append(vars(finished))

    def close(self) -> None:
        """Release the directory."""
        self._file.close()

    def _append(self, entry: dict[str, object]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def is_unchanged(directory: Path, finished: FinishedFile) -> bool:
    """Whether the file is still as the journal says. Reads the whole file."""
    path = directory / finished.file
    if path.is_symlink() or not path.is_file() or path.stat().st_size != finished.size_bytes:
        return False
    with open_to_read(path, follows_links=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == finished.sha256


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None

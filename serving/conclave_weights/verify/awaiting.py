"""Notes which weights `verify` found unfit, and waits until somebody has repaired them, so that the pod remains.

A model's pods run it between verification and engine. A look opens no file. The files are read again after a change,
once they no longer change, and otherwise rarely: a network file system may show a change late.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.regular_files import entries_below
from conclave_weights.verify.digest import WeightsFile, list_files, verify
from conclave_weights.verify.soundness import check_weights

LOOK_EVERY_S = 10.0
READ_EVERY_S = 600.0
LARGEST_SHARE_OF_READING = 0.1
"""The share of the time that reading may take where nothing changes: large weights are read less often."""


class Note(NamedTuple):
    """A directory that was found unfit."""

    digest: str
    look: str
    """The look of the directory before it was read."""


def verify_whole(root: Path, digest: str) -> tuple[WeightsFile, ...]:
    """The files. Raises WeightsUnfit where an engine could not read them, or the digest names other files."""
    list_files(root)  # refuses links and devices before any file is opened
    check_weights(root)
    return verify(root, digest)


def verify_or_note(root: Path, digest: str, notes: Path) -> tuple[WeightsFile, ...]:
    """The files of valid weights. Raises WeightsUnfit after it has noted unfit weights for `await_all`."""
    before, noted = look(root), read_notes(notes)
    noted.pop(root, None)
    try:
        return verify_whole(root, digest)
    except WeightsUnfit:
        noted[root] = Note(digest, before)
        raise
    finally:
        notes.write_text(json.dumps({str(path): note for path, note in noted.items()}), encoding="utf-8")


def read_notes(notes: Path) -> dict[Path, Note]:
    """The notes by directory; empty where nothing was noted."""
    try:
        noted = json.loads(notes.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {Path(path): Note(*note) for path, note in noted.items()}


def await_all(
    notes: Path,
    tell: Callable[[str], None],
    *,
    look_every_s: float = LOOK_EVERY_S,
    read_every_s: float = READ_EVERY_S,
    sleep: Callable[[float], None] = time.sleep,
    now_s: Callable[[], float] = time.monotonic,
) -> None:
    """Returns when all noted directories are valid. Raises WeightsUnfit where only another pod could see a repair."""
    for root, note in read_notes(notes).items():
        tell(f"{root}: the weights are wrong; waiting for a repair and checking the files every {look_every_s:g} s")
        seen = last = note.look
        due_s = now_s() + read_every_s
        while True:
            sleep(look_every_s)
            if _is_removed(root):
                raise WeightsUnfit(
                    f"weights {root}: the directory was removed, and this pod cannot see a new one; the next pod "
                    "reads the directory that is there then"
                )
            before, last = last, look(root)
            if last != before:
                tell(f"{root}: the files are changing; waiting until they no longer change")
            if now_s() < due_s and (last == seen or last != before):
                continue
            tell(f"{root}: reading the files")
            seen, began_s = last, now_s()
            try:
                files = verify_whole(root, note.digest)
            except WeightsUnfit as error:
                tell(f"{root}: the weights are still wrong: {error}")
            else:
                tell(f"{root}: the weights are correct, {len(files)} files: {note.digest}")
                break
            due_s = now_s() + max(read_every_s, (now_s() - began_s) / LARGEST_SHARE_OF_READING)


def look(root: Path) -> str:
    """A value that differs when names, kinds, sizes, times or rights below the directory differ. Opens no file."""
    seen = hashlib.sha256()
    for line in sorted(_lines(root)):
        seen.update(line)
    return seen.hexdigest()


def _lines(root: Path) -> list[bytes]:
    failures: list[OSError] = []
    lines = [_line(root), *(_line(Path(entry.path)) for entry in entries_below(root, failures.append))]
    return lines + [os.fsencode(f"{failure.filename}\0{failure.errno}\n") for failure in failures]


def _line(path: Path) -> bytes:
    """The inode's change time also changes with rights, and with content whose own time was set back."""
    try:
        state = path.lstat()
    except OSError as error:
        return os.fsencode(f"{path}\0{error.errno}\n")
    told = (state.st_mode, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return os.fsencode(f"{path}\0{told}\n")


def _is_removed(root: Path) -> bool:
    """Whether the directory was removed: a mount keeps a removed directory, empty and unnamed; on NFS it is stale."""
    try:
        return root.stat().st_nlink == 0
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ESTALE)

"""The working directory of a download or a conversion, and the flush of its names to the disk.

`transfer` and `convert` work in TARGET.partial until the result is whole. Anybody can guess this name.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from conclave.errors import InvalidInput


def make_own(directory: Path) -> None:
    """Make the directory where it is missing. Raises InvalidInput for a link, and for a directory of another user.

    The owner of the parent directory does not count as another user: that owner could replace the directory anyway, and
    on some network file systems one user owns everything.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir()
    except FileExistsError:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode):
            seen = "is a symbolic link" if stat.S_ISLNK(found.st_mode) else "is no directory"
        elif found.st_uid not in (os.geteuid(), directory.parent.stat().st_uid):
            seen = f"belongs to user {found.st_uid}"
        else:
            return
        raise InvalidInput(
            f"{directory}: {seen}, expected a directory of user {os.geteuid()}, since the command writes there; "
            "remove it, or choose another target"
        ) from None


def sync_directory(directory: Path) -> None:
    """Flush the names in the directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The directory that work is done in until its result is whole, and what has to be on the disk by then.

Called by `download` and `convert`, which work in TARGET.partial: a name that anybody can guess.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from conclave.errors import InvalidInput


def make_own(directory: Path) -> None:
    """Make it where it is not there; raises InvalidInput where it is a link, or whoever made it could change its files.

    Ours is what belongs to this user, or to the owner of the directory around it, who could replace it anyhow: on some
    network file systems everything belongs to one user.
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
            f"{directory}: {seen}, expected a directory of user {os.geteuid()}, for work is done in it; remove it, or "
            "choose another target"
        ) from None


def sync_directory(directory: Path) -> None:
    """Make the names in it as lasting as the files that they name."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

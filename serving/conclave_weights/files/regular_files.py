"""Opens regular files only, and reads at most as much as the caller asks for.

A directory may hold a pipe, a device or a link in the place of a file: a pipe would block a reader, a device would fill
its memory, a link would lead a writer to another file. The whole package opens files by these functions; a test holds
that. Readers of tensors and configs follow links, because a hub's cache consists of links. The digest and writers do
not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from io import BufferedRandom, BufferedReader
from pathlib import Path

from conclave_weights.errors import WeightsUnfit

LONGEST_JSON_BYTES = 64 * 2**20
"""The largest published index takes some 20 MB."""
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_to_read(path: Path, *, follows_links: bool = True) -> BufferedReader:
    """Never waits. Raises OSError as `open` does, and WeightsUnfit where the path is not a regular file."""
    return os.fdopen(_open(path, os.O_RDONLY, follows_links), "rb")


def read_at_most(path: Path, most_bytes: int, *, follows_links: bool = True) -> bytes:
    """The whole file. Raises WeightsUnfit where the file is larger than `most_bytes`."""
    with open_to_read(path, follows_links=follows_links) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise WeightsUnfit(f"{path}: larger than {most_bytes} bytes, the limit for this file; copy it again")
    return content


def open_to_write(path: Path) -> BufferedRandom:
    """The file, or a new file, open at its start. The content is not truncated, and a link is not followed."""
    return os.fdopen(_open(path, os.O_RDWR | os.O_CREAT, follows_links=False), "r+b")


def check_directory(root: Path, contents: str = "config.json") -> None:
    """Raises WeightsUnfit where the path is not a directory; `contents` is what the right one holds."""
    if root.is_dir():
        return
    if root.exists():
        raise WeightsUnfit(f"{root} is a file; expected the directory that holds {contents}")
    raise WeightsUnfit(f"{root}: no such directory; give the directory that holds {contents}")


def _raise(error: OSError) -> None:
    raise error


def entries_below(root: Path, on_error: Callable[[OSError], object] = _raise) -> Iterator[os.DirEntry[str]]:
    """All entries; links are not followed. Not recursive: directories may be nested deeper than Python's stack."""
    waiting = [str(root)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listed:
                entries = list(listed)
        except OSError as error:
            on_error(error)
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            yield entry


def _open(path: Path, flags: int, follows_links: bool) -> int:
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follows_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise WeightsUnfit(
                f"{path}: is a symbolic link to {path.readlink()}, expected a regular file; put a copy in its place"
            ) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise WeightsUnfit(f"{path}: is {_KINDS.get(stat.S_IFMT(mode), 'of another kind')}, expected a regular file")

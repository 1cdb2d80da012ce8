"""Which files a `-f` names, by kubectl's rules: a file, `-`, a directory or a quoted pattern such as 'models/*.yaml'.

Called by `validate`. Finds files and does not read them; what no file can be is left to the reader's message.
"""

from __future__ import annotations

from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from conclave_cli.manifest_files import UnreadableFileError, is_url

EXTENSIONS = (".json", ".yaml", ".yml")
"""Of files that are read when a directory is given; a file that is named itself may have any."""


class ManifestFile(NamedTuple):
    """A file to read."""

    path: str
    is_found: bool = False
    """Whether the user named its directory or a pattern, and not the file."""


def find_files(name: str, *, recursive: bool) -> tuple[ManifestFile, ...]:
    """The files of one `-f`, those of a directory in the order of their names; raises UnreadableFileError."""
    try:
        return _find(name, recursive=recursive)
    except OSError as error:
        raise UnreadableFileError(name, 1, f"cannot be read: {error.strerror}") from error


def _find(name: str, *, recursive: bool) -> tuple[ManifestFile, ...]:
    if name == "-" or is_url(name):
        return (ManifestFile(name),)
    if has_magic(name) and not Path(name).exists():
        matches = sorted(glob(name))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise UnreadableFileError(name, 1, "matches no file: check the pattern and the directory it starts from")
        found = (file for match in matches for file in _find(match, recursive=recursive))
        return tuple(file._replace(is_found=True) for file in found)
    if not Path(name).is_dir():
        return (ManifestFile(name),)
    files = tuple(ManifestFile(str(path), is_found=True) for path in _walk(Path(name), recursive=recursive))
    if not files:
        below = "" if recursive else "; -R reads its subdirectories too"
        raise UnreadableFileError(name, 1, f"is a directory without a file that ends with {_EXTENSIONS}{below}")
    return files


_EXTENSIONS = f"{', '.join(EXTENSIONS[:-1])} or {EXTENSIONS[-1]}"


def _walk(directory: Path, *, recursive: bool) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.is_symlink():  # a link to a directory could lead back to where it is
            yield from _walk(path, recursive=True) if recursive else ()
        elif path.suffix in EXTENSIONS:
            yield path

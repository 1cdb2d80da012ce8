"""Remembers, outside the tree, which tests have passed on which content of the tree.

Called by tools/suites.py. A record counts for exactly the files that the tests cover, as they lie in the working tree,
so that it holds for a dirty tree and holds again when an edit is undone.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Passed:
    """A run of all tests of a name, of which none failed."""

    date: str
    """ISO 8601, UTC, of its end."""
    seconds: int
    summary: str
    """What pytest counted."""


class Memory:
    """One file for each name and content."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, name: str, key: str) -> Passed | None:
        """None where no such run is known; a file that cannot be read is none."""
        try:
            return Passed(**json.loads(self._path(name, key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, name: str, key: str, run: Passed) -> None:
        """Whoever reads meanwhile gets the old record or the new one."""
        path = self._path(name, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")
        written.replace(path)

    def _path(self, name: str, key: str) -> Path:
        return self._directory / f"{name}-{key}.json"


def content_key(root: Path, paths: Iterable[str]) -> str | None:
    """Of all files below these paths that git tracks or would add: name, content, whether they can be executed.

    And of the Python that runs them. None where `root` is no work tree of git.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths],
        cwd=root,
        capture_output=True,
    )
    if listed.returncode:
        return None
    digest = hashlib.sha256(f"{platform.python_version()} {platform.machine()}\0".encode())
    for name in sorted(set(listed.stdout.split(b"\0")) - {b""}):
        path = root / os.fsdecode(name)
        if path.is_symlink():
            kind, content = b"link", os.fsencode(path.readlink())
        elif path.is_file():
            kind, content = b"program" if os.access(path, os.X_OK) else b"file", path.read_bytes()
        else:  # deleted, and not committed yet
            continue
        digest.update(b"%s\0%s\0%s" % (name, kind, hashlib.sha256(content).digest()))
    return digest.hexdigest()[:32]

"""What `download.py` needs of a place that has weights: an object store or a hub.

A source lists files, reads a file from an offset on, and knows a checksum of a file's content or only its size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from conclave_weights.files.regular_files import open_to_read

CHUNK_BYTES = 4 * 1024**2


@dataclass(frozen=True, order=True)
class StoredObject:
    """A file of a source. `path` is relative, with forward slashes."""

    path: str
    size_bytes: int
    etag: str
    """Changes whenever the content changes. Of an object store the ETag with its quotes; of a hub the hash."""


@dataclass(frozen=True)
class Checksum:
    """A checksum that a source gives for the content of a file."""

    algorithm: str
    """MD5, SHA-256, or SHA-1: of the git blob, as the hub has it, or of the bare content, as some mirrors have it."""
    hexadecimal: str

    def seen_in(self, file: Path) -> str:
        """The same checksum of a file on the disk."""
        starts = (f"blob {file.stat().st_size}\0".encode(), b"") if self.algorithm == "SHA-1" else (b"",)
        name = self.algorithm.replace("-", "").lower()
        hashed = [hashlib.new(name, start, usedforsecurity=False) for start in starts]
        with open_to_read(file, follows_links=False) as content:
            while chunk := content.read(CHUNK_BYTES):
                for each in hashed:
                    each.update(chunk)
        seen = [each.hexdigest() for each in hashed]
        return self.hexadecimal if self.hexadecimal in seen else seen[0]


class Source(Protocol):
    """A place that has weights."""

    uri: str
    where: str
    """The source as messages name it."""
    kind: str
    """`store` or `hub`."""
    has_sure_checksums: bool
    """Whether each checksum is one of the content. A store that encrypts gives ETags that only look so."""
    remedy: str
    """What to do if the files are not those that a digest names."""

    @property
    def asked(self) -> dict[str, object]:
        """What the source was asked for, as JSON: part of the record of a finished download."""

    def list(self) -> tuple[StoredObject, ...]:
        """The files, sorted. Raises DownloadFailed where there are none."""

    def read(self, item: StoredObject, offset: int) -> Generator[memoryview, None, None]:
        """Chunks of a file from an offset on. Closing it ends the request. Raises DownloadFailed."""

    def checksum(self, item: StoredObject) -> Checksum | None:
        """The checksum of the file's content, None where the source has none."""

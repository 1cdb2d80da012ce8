"""The digest of a model's weights: SHA-256 of the sorted lines `path NUL size NUL sha256 LF` of all files.

Used by `conclave weights`, `conclave up` and the init container of a model's pods. Hidden files and `lost+found` are no
part of the weights: no engine reads them. A symbolic link is refused, because what it leads to may change unseen.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from conclave_weights.errors import DigestMismatch, WeightsUnfit

CHUNK_BYTES = 4 * 1024**2
MAX_THREADS = 16
"""Beyond this, storage is the limit, not SHA-256."""


@dataclass(frozen=True, order=True)
class WeightsFile:
    """One file below the weights' directory; `path` is relative, with forward slashes."""

    path: str
    size_bytes: int
    sha256: str

    def line(self) -> bytes:
        return f"{self.path}\0{self.size_bytes}\0{self.sha256}\n".encode()


def list_files(root: Path) -> tuple[tuple[str, int], ...]:
    """Relative path and size of every file, sorted; refuses links, devices and names that are not UTF-8."""
    if not root.is_dir():
        raise WeightsUnfit(f"weights {root}: no such directory; give the directory that holds config.json")
    found = sorted(_walk(root, root.resolve(), ""))
    if not found:
        raise WeightsUnfit(f"weights {root}: the directory is empty, expected config.json and *.safetensors")
    return tuple(found)


def _walk(root: Path, directory: Path, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "lost+found":
                continue
            path = prefix + entry.name
            if not _is_utf8(path):
                raise WeightsUnfit(f"weights {root}: file name {path!r} is not UTF-8; rename it")
            if entry.is_symlink():
                raise WeightsUnfit(
                    f"weights {root}: {path} is a symbolic link to {Path(entry.path).readlink()}, "
                    "expected a regular file; copy the weights with their links resolved (cp -rL)"
                )
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, directory / entry.name, path + "/")
            elif entry.is_file(follow_symlinks=False):
                yield path, entry.stat(follow_symlinks=False).st_size
            else:
                raise WeightsUnfit(f"weights {root}: {path} is neither file nor directory; remove it")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def hash_files(
    root: Path, *, threads: int | None = None, on_progress: Callable[[int], None] = lambda _bytes: None
) -> tuple[WeightsFile, ...]:
    """Read and hash every file, several at a time; `on_progress` gets the bytes read since its last call."""
    listed = list_files(root)
    resolved = root.resolve()

    def hash_one(listed_file: tuple[str, int]) -> WeightsFile:
        path, size_bytes = listed_file
        return WeightsFile(path, size_bytes, _sha256(resolved / path, size_bytes, on_progress))

    with ThreadPoolExecutor(threads or min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return tuple(pool.map(hash_one, listed))


def _sha256(path: Path, size_bytes: int, on_progress: Callable[[int], None]) -> str:
    hashed = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    read_bytes = 0
    try:
        # O_NOFOLLOW: a link put in place of the file after it was listed is refused as well.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise WeightsUnfit(f"weights file {path}: is no regular file any more; keep the weights unchanged")
            while count := file.readinto(buffer):
                hashed.update(buffer[:count])
                read_bytes += count
                on_progress(count)
    except OSError as error:
        raise WeightsUnfit(f"weights file {path}: cannot be read: {error.strerror or error}") from error
    if read_bytes != size_bytes:
        raise WeightsUnfit(
            f"weights file {path}: {read_bytes} bytes read, {size_bytes} listed a moment before; "
            "the weights are still being written: wait until the copy is complete"
        )
    return hashed.hexdigest()


def digest_of(files: Iterable[WeightsFile]) -> str:
    """`sha256:...` over the lines of all files, sorted as bytes."""
    return "sha256:" + hashlib.sha256(b"".join(sorted(file.line() for file in files))).hexdigest()


def differences(expected: Iterable[WeightsFile], seen: Iterable[WeightsFile]) -> tuple[str, ...]:
    """One sentence for each file that is not as expected; a renamed file is named as such."""
    wanted = {file.path: file for file in expected}
    found = {file.path: file for file in seen}
    missing = {path: wanted[path] for path in sorted(wanted.keys() - found.keys())}
    extra = {path: found[path] for path in sorted(found.keys() - wanted.keys())}
    sentences = [_difference(wanted[path], found[path]) for path in sorted(wanted.keys() & found.keys())]
    for path, file in missing.items():
        twin = next((name for name, other in extra.items() if other.sha256 == file.sha256), None)
        if twin is not None:
            del extra[twin]
            sentences.append(f"{path}: renamed to {twin}")
        else:
            sentences.append(f"{path}: missing")
    sentences += [f"{path}: not part of the weights" for path in extra]
    return tuple(sentence for sentence in sentences if sentence)


def _difference(wanted: WeightsFile, found: WeightsFile) -> str:
    if found.size_bytes < wanted.size_bytes:
        return f"{wanted.path}: {found.size_bytes} bytes, expected {wanted.size_bytes}: truncated"
    if found.size_bytes > wanted.size_bytes:
        return f"{wanted.path}: {found.size_bytes} bytes, expected {wanted.size_bytes}"
    if found.sha256 != wanted.sha256:
        return f"{wanted.path}: sha256 {found.sha256}, expected {wanted.sha256}: content changed"
    return ""


def verify(
    root: Path,
    digest: str,
    *,
    manifest: Iterable[WeightsFile] | None = None,
    on_progress: Callable[[int], None] = lambda _bytes: None,
) -> tuple[WeightsFile, ...]:
    """The files, where their digest is `digest`; otherwise DigestMismatch, which names the files that differ from
    `manifest` (the lines that the digest was made of), or all files where there is none."""
    expected = None if manifest is None else tuple(manifest)
    if expected is not None and digest_of(expected) != digest:
        raise DigestMismatch(
            f"weights manifest: its digest is {digest_of(expected)}, expected {digest}; "
            "use the manifest that was written together with the digest"
        )
    seen = hash_files(root, on_progress=on_progress)
    if digest_of(seen) == digest:
        return seen
    if expected is not None:
        details = differences(expected, seen)
    else:
        details = tuple(f"{file.path}: {file.size_bytes} bytes, sha256 {file.sha256}" for file in seen)
    raise DigestMismatch(
        f"weights {root}: digest {digest_of(seen)}, expected {digest}; copy the weights anew, or correct "
        "spec.model.digest if these are the ones you want\n" + "\n".join(f"  {line}" for line in details)
    )


def write_manifest(files: Iterable[WeightsFile]) -> str:
    """Text form of the digest's lines, as `sha256sum` prints them with the size between: `sha256 size path`."""
    return "".join(f"{file.sha256} {file.size_bytes} {file.path}\n" for file in sorted(files))


def read_manifest(text: str) -> tuple[WeightsFile, ...]:
    """The inverse of `write_manifest`."""
    files = []
    for number, line in enumerate(text.splitlines(), 1):
        sha256, _, rest = line.partition(" ")
        size, _, path = rest.partition(" ")
        if len(sha256) != 64 or not size.isdigit() or not path:
            raise WeightsUnfit(f"weights manifest, line {number}: {line[:80]!r}, expected `sha256 size path`")
        files.append(WeightsFile(path, int(size), sha256))
    return tuple(files)

"""The digest of a model's weights: SHA-256 of the sorted lines `path NUL size NUL sha256 LF` of all files.

`conclave weights`, `conclave up` and the init container of a model's pods use it. Hidden files and `lost+found` are not
part of the weights, because no engine reads them. A symbolic link is refused: its target may change unnoticed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from conclave_weights.errors import DigestMismatch, WeightsUnfit, WeightsUnreadable
from conclave_weights.files.regular_files import check_directory, open_to_read

CHUNK_BYTES = 4 * 1024**2
MAX_THREADS = 16
"""More threads would not help: from here on storage is the limit, not SHA-256."""
_SHA256 = re.compile("[0-9a-f]{64}")
_SIZE = re.compile("[0-9]{1,18}")


@dataclass(frozen=True, order=True)
class WeightsFile:
    """One file below the weights' directory; `path` is relative, with forward slashes."""

    path: str
    size_bytes: int
    sha256: str

    def line(self) -> bytes:
        return f"{self.path}\0{self.size_bytes}\0{self.sha256}\n".encode()


def list_files(root: Path) -> tuple[tuple[str, int], ...]:
    """Relative path and size of every file, sorted. Refuses links, devices and names that are not UTF-8."""
    check_directory(root)
    try:
        found = sorted(_walk(root))
    except OSError as error:
        raise WeightsUnreadable(
            f"weights {root}: {error.filename} cannot be read: {error.strerror or error}"
        ) from error
    if not found:
        raise WeightsUnfit(f"weights {root}: the directory is empty, expected config.json and *.safetensors")
    return tuple(found)


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    """Not recursive: directories may be nested deeper than Python's call stack."""
    waiting = [(root.resolve(), "")]
    while waiting:
        directory, prefix = waiting.pop()
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
                    waiting.append((directory / entry.name, path + "/"))
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
    """Read and hash every file, several at a time. `on_progress` gets the bytes that were read since its last call."""
    resolved = root.resolve()
    listed = [(path, resolved / path, size_bytes) for path, size_bytes in list_files(root)]
    return hash_listed(listed, threads=threads, on_progress=on_progress)


def hash_listed(
    listed: Iterable[tuple[str, Path, int]],
    *,
    threads: int | None = None,
    on_progress: Callable[[int], None] = lambda _bytes: None,
) -> tuple[WeightsFile, ...]:
    """The same for files under other names: each has the name that counts, the place of the file, and its size."""

    def hash_one(named: tuple[str, Path, int]) -> WeightsFile:
        path, place, size_bytes = named
        return WeightsFile(path, size_bytes, _sha256(place, size_bytes, on_progress))

    with ThreadPoolExecutor(threads or min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return tuple(pool.map(hash_one, listed))


def _sha256(path: Path, size_bytes: int, on_progress: Callable[[int], None]) -> str:
    hashed = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    read_bytes = 0
    try:
        with open_to_read(path, follows_links=False) as file:
            while read_bytes <= size_bytes and (count := file.readinto(buffer)):
                hashed.update(buffer[:count])
                read_bytes += count
                on_progress(count)
    except OSError as error:
        raise WeightsUnreadable(f"weights file {path}: cannot be read: {error.strerror or error}") from error
    if read_bytes != size_bytes:
        raise WeightsUnfit(
            f"weights file {path}: {read_bytes} bytes read, {size_bytes} listed a moment before; "
            "the weights are still being written: wait until the copy is complete"
        )
    return hashed.hexdigest()


def digest_of(files: Iterable[WeightsFile]) -> str:
    """`sha256:...` of the lines of all files, sorted as bytes."""
    return "sha256:" + hashlib.sha256(b"".join(sorted(file.line() for file in files))).hexdigest()


def differences(expected: Iterable[WeightsFile], seen: Iterable[WeightsFile]) -> tuple[str, ...]:
    """One sentence for each file that differs: what was seen, what was expected, what to do."""
    wanted = {file.path: file for file in expected}
    found = {file.path: file for file in seen}
    missing = {path: wanted[path] for path in sorted(wanted.keys() - found.keys())}
    extra = {path: found[path] for path in sorted(found.keys() - wanted.keys())}
    sentences = [
        _difference(path, wanted, found)
        for path in sorted(wanted.keys() & found.keys())
        if wanted[path].line() != found[path].line()
    ]
    for path, file in missing.items():
        twin = next((name for name, other in extra.items() if other.sha256 == file.sha256), None)
        if twin is not None:
            del extra[twin]
            sentences.append(f"{path}: renamed to {twin}; rename it back")
        else:
            sentences.append(f"{path}: missing, expected {file.size_bytes} bytes; copy it")
    sentences += [
        f"{path}: not part of the weights ({file.size_bytes} bytes); remove it" for path, file in extra.items()
    ]
    return tuple(sentences)


def _difference(path: str, wanted: dict[str, WeightsFile], found: dict[str, WeightsFile]) -> str:
    want, have = wanted[path], found[path]
    origin = next((name for name, file in wanted.items() if name != path and file.sha256 == have.sha256), None)
    if origin is not None:
        is_exchanged = origin in found and found[origin].sha256 == want.sha256
        return f"{path}: has the contents of {origin} (sha256 {have.sha256}), expected sha256 {want.sha256}: " + (
            f"exchanged with {origin}; exchange their names" if is_exchanged else "overwritten; copy it again"
        )
    if have.size_bytes != want.size_bytes:
        kind = "truncated" if have.size_bytes < want.size_bytes else "too long"
        return f"{path}: {have.size_bytes} bytes, expected {want.size_bytes}: {kind}; copy it again"
    return f"{path}: sha256 {have.sha256}, expected {want.sha256}: content changed; copy it again"


def verify(
    root: Path,
    digest: str | None,
    *,
    manifest: Iterable[WeightsFile] | None = None,
    on_progress: Callable[[int], None] = lambda _bytes: None,
) -> tuple[WeightsFile, ...]:
    """The files, after a comparison with `digest`, with `manifest` (the lines of a digest), or with both.

    Raises DigestMismatch, which names the files that differ from the manifest, or all files where there is no manifest.
    """
    expected = None if manifest is None else tuple(manifest)
    own = None if expected is None else digest_of(expected)
    if digest is None and own is None:
        raise ValueError("verify: give a digest, a manifest, or both")
    if None not in (digest, own) and digest != own:
        raise DigestMismatch(
            f"weights manifest: its digest is {own}, expected {digest}; "
            "use the manifest that was written together with the digest"
        )
    seen = hash_files(root, on_progress=on_progress)
    seen_digest, wanted_digest = digest_of(seen), digest or own
    if seen_digest == wanted_digest:
        return seen
    details = listing(seen) if expected is None else differences(expected, seen)
    raise DigestMismatch(
        (
            f"weights {root}: digest {seen_digest}, expected {wanted_digest}; copy the weights again, or correct "
            "spec.model.digest if you want these files\n"
        )
        + "\n".join(f"  {line}" for line in details)
    )


def listing(files: Iterable[WeightsFile]) -> tuple[str, ...]:
    """One line for each file, for a reader who compares."""
    return tuple(f"{file.path}: {file.size_bytes} bytes, sha256 {file.sha256}" for file in files)


def write_manifest(files: Iterable[WeightsFile]) -> str:
    """The digest's lines as text: `sha256 size path`, as `sha256sum` prints them with the size in between."""
    return "".join(f"{file.sha256} {file.size_bytes} {file.path}\n" for file in sorted(files))


def read_manifest(text: str) -> tuple[WeightsFile, ...]:
    """The inverse of `write_manifest`. Refuses a malformed line, and a file that is named twice."""
    files: dict[str, WeightsFile] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        sha256, _, rest = line.partition(" ")
        size, _, path = rest.partition(" ")
        if not _SHA256.fullmatch(sha256) or not _SIZE.fullmatch(size) or not path:
            raise WeightsUnfit(f"line {number} is {line[:80]!r}, expected `sha256 size path`")
        if path in files:
            raise WeightsUnfit(f"line {number} has {path} for the second time, expected each file once")
        files[path] = WeightsFile(path, int(size), sha256)
    return tuple(files.values())

"""Downloads weights from a store or hub into PATH.partial, which becomes PATH when they are whole and compared.

`conclave weights download` and the download Job of a model call it. PATH.partial holds one growing file for each
object. The file's name contains the object's ETag, so that a changed object is fetched again and nothing is fetched
twice. The only other state is MARKER, the list beside the complete files.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Lock
from typing import Any

from conclave.errors import InvalidInput
from conclave_weights.errors import DigestMismatch, DownloadFailed, WeightsUnfit, WeightsUnreadable
from conclave_weights.files.durable import make_own, sync_directory
from conclave_weights.files.regular_files import (
    LONGEST_JSON_BYTES,
    entries_below,
    open_to_write,
    read_at_most,
)
from conclave_weights.transfer.source import Checksum, Source, StoredObject
from conclave_weights.verify.digest import digest_of, hash_listed, listing, verify
from conclave_weights.verify.soundness import check_weights

MARKER = ".conclave-weights.json"
"""The name is hidden, so the file is not part of the digest."""
THREADS = 16
"""So many objects are read at the same time. Each holds one or two chunks of 4 MiB."""
DURABLE_BYTES = 64 * 1024**2
"""So much of an object is written between two flushes. A crash of the machine costs at most this."""
_LOCK = ".conclave-download.lock"

Progress = Callable[[int], None]


def quiet(_: int) -> None:
    """Ignores the progress."""


@dataclass(frozen=True)
class Download:
    """The state of a download."""

    total_bytes: int
    done_bytes: int
    fetched_bytes: int
    """The bytes that this run fetched."""
    is_whole: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Part:
    """The growing file of an object."""

    item: StoredObject
    file: Path

    @property
    def done_bytes(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0


class _Budget:
    """The bytes that all threads together may still fetch."""

    def __init__(self, budget_bytes: int, on_progress: Progress) -> None:
        self.fetched_bytes = 0
        self.is_spent = Event()
        self._budget_bytes, self._on_progress, self._lock = budget_bytes, on_progress, Lock()

    def spend(self, count_bytes: int) -> None:
        with self._lock:
            self.fetched_bytes += count_bytes
            if self.fetched_bytes >= self._budget_bytes:
                self.is_spent.set()
            self._on_progress(count_bytes)


def download(
    store: Source,
    target: Path,
    digest: str | None = None,
    *,
    keep: Iterable[str] | None = None,
    until_percent: int = 100,
    on_listed: Callable[[int, int], None] = lambda _total, _done: None,
    on_progress: Progress = quiet,
) -> Download:
    """Fetch what is missing. At 100 percent, compare the weights, check them and rename the directory.

    `keep` names the directories that may stay beside the target; the others are removed. With `keep` a target that
    differs from its marker is downloaded again. Without `keep` everything stays. `on_listed` gets the bytes of all
    objects and the bytes that are present, `on_progress` the bytes since its last call.
    Raises DownloadFailed; DigestMismatch where all files are present and differ; WeightsUnfit where the engine could
    not load the weights.
    """
    mended: tuple[str, ...] = ()
    with _as_failure(target):
        if keep is not None:
            _clear(target.parent, {target.name, *keep})
        if os.path.lexists(target):
            marked = _read_marker(target)
            is_asked_for = marked is not None and marked | {"objects": []} == _marker(store, digest, ())
            # A step before the last step reads nothing. The last step compares the files and repairs them.
            if marked and is_asked_for and (until_percent < 100 or _is_intact(target, digest)):
                size_bytes = sum(item["size_bytes"] for item in marked["objects"])
                on_listed(size_bytes, size_bytes)
                return Download(size_bytes, size_bytes, 0, is_whole=True)
            if keep is None and is_asked_for:
                raise DigestMismatch(
                    f"{target}: {_changed(digest)}; remove {target}, then repeat the command to "
                    "download the files again"
                )
            if keep is None:
                raise DownloadFailed(
                    f"{target} exists and was not downloaded from {_named(store, digest)}; remove it, or name another "
                    "directory"
                )
            _begin_anew(target)
            mended = (f"{target}: {_changed(digest) if is_asked_for else 'had other weights'}; downloaded again",)
        with _alone_in(_partial(target)):
            done = _download(store, target, digest, until_percent, on_listed, on_progress)
    return replace(done, notes=(*mended, *done.notes))


def _changed(digest: str | None) -> str:
    return f"the files were changed after the download and do not match {digest}"


def _named(store: Source, digest: str | None) -> str:
    """What a target was asked to be, as far as it was said."""
    return f"{store.where} with digest {digest}" if digest else store.where


def _is_intact(directory: Path, digest: str | None) -> bool:
    """Whether the files are still those that were compared. Whoever can change the files can also write a marker."""
    try:
        return digest is None or bool(verify(directory, digest))
    except WeightsUnreadable:
        raise
    except WeightsUnfit:
        return False


def _begin_anew(target: Path) -> None:
    """Renames the target to its partial name. It stays the same directory, so that pods that mount it see new files."""
    partial = _partial(target)
    with _alone_in(partial):
        shutil.rmtree(partial)
        if target.is_dir() and not target.is_symlink():
            target.rename(partial)
            (partial / MARKER).unlink(missing_ok=True)
        else:
            target.unlink()


def _download(
    store: Source,
    target: Path,
    digest: str | None,
    until_percent: int,
    on_listed: Callable[[int, int], None],
    on_progress: Progress,
) -> Download:
    objects = store.list()
    partial = _partial(target)
    notes: tuple[str, ...] = ()
    fetched_bytes = 0
    total_bytes = sum(item.size_bytes for item in objects)
    marked = _read_marker(partial)
    if marked == _marker(store, digest, objects):
        _give_names(partial, objects)
        if not _is_intact(partial, digest):
            marked = None
    if marked != _marker(store, digest, objects):
        if marked is not None:
            _take_names(partial, (StoredObject(**item) for item in marked["objects"]))
        parts = _parts(partial, objects)
        done_bytes = sum(part.done_bytes for part in parts)
        on_listed(total_bytes, done_bytes)
        wanted_bytes = -(-total_bytes * until_percent // 100)
        fetched_bytes = _fetch(store, parts, wanted_bytes - done_bytes, on_progress)
        if until_percent < 100:
            return Download(total_bytes, done_bytes + fetched_bytes, fetched_bytes, is_whole=False)
        notes = _compare(store, parts, digest)
        _write_marker(partial, _marker(store, digest, objects))
    _give_names(partial, objects)
    check_weights(partial)
    (partial / _LOCK).unlink()
    partial.rename(target)
    sync_directory(target.parent)
    return Download(total_bytes, total_bytes, fetched_bytes, is_whole=True, notes=notes)


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _parts(partial: Path, objects: tuple[StoredObject, ...]) -> list[_Part]:
    """The growing files of these objects. Other files are removed, and files of earlier versions of the objects."""
    parts = [_Part(item, partial / _part_name(item)) for item in objects]
    wanted = {partial / _LOCK, *(part.file for part in parts)}
    for entry in list(entries_below(partial)):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if path in wanted:
                shutil.rmtree(path)
        elif path not in wanted or not entry.is_file(follow_symlinks=False):
            path.unlink(missing_ok=True)
    for part in parts:
        part.file.parent.mkdir(parents=True, exist_ok=True)
        if part.done_bytes > part.item.size_bytes:
            part.file.unlink()
        part.file.touch()
    _check_room(partial, sum(part.item.size_bytes - part.done_bytes for part in parts))
    return parts


def _part_name(item: StoredObject) -> Path:
    identity = hashlib.sha256(f"{item.etag}\0{item.size_bytes}".encode()).hexdigest()[:16]
    path = Path(item.path)
    return path.with_name(f".{path.name}.{identity}")


def _check_room(directory: Path, missing_bytes: int) -> None:
    free_bytes = shutil.disk_usage(directory).free
    if missing_bytes > free_bytes:
        raise DownloadFailed(_no_room(directory, f"{missing_bytes} bytes are missing and {free_bytes} are free"))


def _no_room(directory: Path, seen: str) -> str:
    return f"{directory}: {seen}; free space; in a cluster, raise spec.model.cache.size if the volume can grow"


def _fetch(store: Source, parts: list[_Part], budget_bytes: int, on_progress: Progress) -> int:
    """Fetches about so many bytes, several objects at a time. A failure ends all threads; fetched bytes stay."""
    budget = _Budget(budget_bytes, on_progress)

    def fetch(part: _Part) -> None:
        try:
            _fetch_one(store, part, budget)
        except BaseException:
            budget.is_spent.set()
            raise

    if budget_bytes > 0:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(fetch, parts):
                pass
    return budget.fetched_bytes


def _fetch_one(store: Source, part: _Part, budget: _Budget) -> None:
    """Fetches an object from the end of its file on."""
    done_bytes = part.done_bytes
    if done_bytes == part.item.size_bytes or budget.is_spent.is_set():
        return
    with open_to_write(part.file) as file, closing(store.read(part.item, done_bytes)) as chunks:
        file.seek(done_bytes)
        unsynced_bytes = 0
        for chunk in chunks:
            file.write(chunk)
            file.flush()
            done_bytes += len(chunk)
            unsynced_bytes += len(chunk)
            budget.spend(len(chunk))
            if unsynced_bytes >= DURABLE_BYTES or done_bytes == part.item.size_bytes:
                os.fsync(file.fileno())
                unsynced_bytes = 0
            if budget.is_spent.is_set():
                return
    if done_bytes != part.item.size_bytes:
        raise DownloadFailed(
            f"{store.where}: {part.item.path}: the {store.kind} sent {done_bytes} bytes, expected "
            f"{part.item.size_bytes}; the download continues from there"
        )


def _compare(store: Source, parts: list[_Part], digest: str | None) -> tuple[str, ...]:
    """Compares the files with the source's checksums and with the digest.

    A digest replaces checksums that may be none.
    """
    if digest is None:
        return _compare_checksums(store, parts, {})
    seen = hash_listed([(part.item.path, part.file, part.item.size_bytes) for part in parts])
    notes: tuple[str, ...] = ()
    if store.has_sure_checksums:
        notes = _compare_checksums(store, parts, {file.path: file.sha256 for file in seen})
    if digest_of(seen) != digest:
        raise DigestMismatch(
            (
                f"the objects have digest {digest_of(seen)}, expected {digest}; {store.remedy}, or correct "
                "spec.model.digest if you want these\n"
            )
            + "\n".join(f"  {line}" for line in listing(seen))
        )
    return notes


def _compare_checksums(store: Source, parts: list[_Part], known: Mapping[str, str]) -> tuple[str, ...]:
    """`known` are SHA-256 of files that were read already, by path."""

    def seen(pair: tuple[_Part, Checksum]) -> str:
        part, checksum = pair
        is_known = checksum.algorithm == "SHA-256" and part.item.path in known
        return known[part.item.path] if is_known else checksum.seen_in(part.file)

    expected = [(part, checksum) for part in parts if (checksum := store.checksum(part.item))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(seen, expected))
    pairs = list(zip(expected, found, strict=True))
    wrong = [(part, checksum, has) for (part, checksum), has in pairs if has != checksum.hexadecimal]
    compared = len(expected) - len(wrong)
    if wrong and (compared or store.has_sure_checksums):
        for part, _, _ in wrong:
            part.file.unlink()
        part, checksum, has = wrong[0]
        raise DownloadFailed(
            f"{store.where}: {', '.join(part.item.path for part, _, _ in wrong)}: the bytes that arrived do not match "
            f"the {store.kind}'s {checksum.algorithm} ({part.item.path}: {has}, expected {checksum.hexadecimal}); "
            "the next try fetches them again"
        )
    if compared == len(parts):
        return ()
    return (
        (
            f"{len(parts) - compared} of {len(parts)} objects were compared by size only, since the {store.kind} has "
            "no checksum of their content; give a digest to compare it"
        ),
    )


def _give_names(partial: Path, objects: tuple[StoredObject, ...]) -> None:
    """Gives the files their names. May be repeated: the marker says that all files are whole under either name."""
    for item in objects:
        part = partial / _part_name(item)
        if part.exists():
            part.rename(partial / item.path)
    for directory in {(partial / item.path).parent for item in objects}:
        sync_directory(directory)


def _take_names(partial: Path, objects: Iterable[StoredObject]) -> None:
    """The inverse, where the store now has other objects. Objects that did not change are not fetched again."""
    for item in objects:
        if (partial / item.path).exists():
            (partial / item.path).rename(partial / _part_name(item))


def _marker(store: Source, digest: str | None, objects: tuple[StoredObject, ...]) -> dict[str, object]:
    listed = [asdict(item) for item in objects]
    return {**store.asked, "digest": digest, "objects": listed}


def _read_marker(directory: Path) -> dict[str, Any] | None:
    """The objects of a marker. None where the file is not a valid marker."""
    try:
        content = json.loads(read_at_most(directory / MARKER, LONGEST_JSON_BYTES, follows_links=False))
    except (OSError, ValueError, RecursionError, WeightsUnfit):
        return None
    is_marker = isinstance(content, dict) and isinstance(content.get("objects"), list)
    return content if is_marker and all(map(_is_object, content["objects"])) else None


def _is_object(item: object) -> bool:
    """Whether the value is a StoredObject whose path stays below the directory."""
    match item:
        case {"path": str(path), "size_bytes": int(size_bytes), "etag": str(), **others}:
            return not others and size_bytes >= 0 and all(part and part[0] != "." for part in path.split("/"))
        case _:
            return False


def _write_marker(directory: Path, content: dict[str, object]) -> None:
    new = directory / f"{MARKER}.new"
    new.unlink(missing_ok=True)
    with open_to_write(new) as file:
        file.write(json.dumps(content, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    new.rename(directory / MARKER)
    sync_directory(directory)


def _clear(directory: Path, kept: set[str]) -> None:
    """Removes files of other sources that no deployment uses any more, whole or begun. Foreign files stay."""
    for entry in directory.iterdir() if directory.is_dir() else ():
        is_ours = (entry / MARKER).exists() or entry.name.endswith(".partial")
        is_directory = entry.is_dir() and not entry.is_symlink()
        if is_ours and is_directory and entry.name.removesuffix(".partial") not in kept:
            shutil.rmtree(entry)


@contextmanager
def _alone_in(partial: Path) -> Iterator[None]:
    """Lets only one process write. Example: a Job's node is lost, a new pod starts, and the old pod still writes."""
    try:
        make_own(partial)
    except InvalidInput as error:
        raise DownloadFailed(str(error)) from error
    lock = partial / _LOCK
    if lock.is_symlink():
        lock.unlink()
    with open_to_write(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadFailed(f"{partial}: another download is running there; wait for it, or end it") from error
        yield


@contextmanager
def _as_failure(target: Path) -> Iterator[None]:
    """An error of the file system, in plain words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadFailed(_no_room(target, "the disk is full")) from error
        raise DownloadFailed(f"{error.filename or target}: cannot be written: {error.strerror or error}") from error

"""Writes the converted model: shards one after the other into TARGET.partial, which becomes TARGET at the end.

`conclave weights convert` calls it with the result of `plan`. After an interruption the next run keeps the shards that
the journal lists and that are unchanged, and writes the other shards.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from conclave import __version__
from conclave.errors import EnvironmentUnfit
from conclave_weights.convert.journal import NAME as JOURNAL_NAME
from conclave_weights.convert.journal import FinishedFile, Journal, is_unchanged
from conclave_weights.files.durable import sync_directory
from conclave_weights.files.headers import DTYPE_BITS, write_header
from conclave_weights.files.regular_files import open_to_read, open_to_write


@dataclass(frozen=True)
class Tensor:
    """A tensor of the target. `dtype` is safetensors' name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bands: Callable[[], Iterator[bytes]] = field(repr=False, compare=False)
    """The tensor's bytes, in pieces that fit into memory."""

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class Shard:
    """A file of the target."""

    file: str
    tensors: tuple[Tensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True)
class Outcome:
    """The result of a conversion."""

    shards: int
    size_bytes: int
    kept_shards: int
    """Kept from an interrupted run before this run."""


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion before its first byte is written."""

    target: Path
    sources: tuple[Path, ...]
    """The files that hold the tensors."""
    shards: tuple[Shard, ...]
    contents: Mapping[str, bytes]
    """Small files of the target by name."""
    copied: Mapping[str, Path]
    """Files of the source directory, links resolved, by their name in the target."""
    is_complete: bool
    """Whether the target has a tokenizer, or is an adapter, which needs none."""

    @property
    def size_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self.shards)

    def identity(self) -> str:
        """A hash over the sources and over the planned target."""
        seen = [(path.name, (status := path.stat()).st_size, status.st_mtime_ns) for path in self.sources]
        headers = [(shard.file, _header(shard).hex()) for shard in self.shards]
        contents = {name: content.hex() for name, content in self.contents.items()}
        return hashlib.sha256(json.dumps([__version__, seen, headers, contents]).encode()).hexdigest()


def convert(plan: ConversionPlan, on_progress: Callable[[int], None] = lambda _bytes: None) -> Outcome:
    """Carry the plan out. `on_progress` gets the bytes of the target that were written since its last call.

    Raises EnvironmentUnfit where the disk is too small or fails, and InvalidInput where the partial directory belongs
    to another conversion or user.
    """
    try:
        return _convert(plan, on_progress)
    except OSError as error:
        raise EnvironmentUnfit(
            f"{plan.target}: stopped: {error}; correct this, then repeat the command to continue"
        ) from error


def _convert(plan: ConversionPlan, on_progress: Callable[[int], None]) -> Outcome:
    partial = plan.target.with_name(plan.target.name + ".partial")
    journal = Journal(partial, plan.identity())
    try:
        finished = _unchanged(partial, journal.finished)
        to_do = [shard for shard in plan.shards if shard.file not in finished]
        on_progress(sum(shard.size_bytes for shard in plan.shards if shard.file in finished))
        _check_space(partial, sum(shard.size_bytes for shard in to_do))
        for shard in to_do:
            journal.add(_write_shard(partial, shard, on_progress))
        for name, content in plan.contents.items():
            with _new_file(partial / name) as file:
                file.write(content)
        for name, path in plan.copied.items():
            with open_to_read(path, follows_links=False) as source, _new_file(partial / name) as file:
                shutil.copyfileobj(source, file)
        sync_directory(partial)
        partial.rename(plan.target)
        (plan.target / JOURNAL_NAME).unlink()
        sync_directory(plan.target.parent)
    finally:
        journal.close()
    return Outcome(len(plan.shards), plan.size_bytes, len(plan.shards) - len(to_do))


def _unchanged(partial: Path, finished: Iterable[FinishedFile]) -> set[str]:
    return {file.file for file in finished if is_unchanged(partial, file)}


def _header(shard: Shard) -> bytes:
    return write_header({tensor.name: (tensor.dtype, tensor.shape) for tensor in shard.tensors})


def _write_shard(partial: Path, shard: Shard, on_progress: Callable[[int], None]) -> FinishedFile:
    hashed = hashlib.sha256()
    size_bytes = 0
    with _new_file(partial / shard.file) as file:

        def write(data: bytes) -> None:
            nonlocal size_bytes
            file.write(data)
            hashed.update(data)
            size_bytes += len(data)

        write(_header(shard))
        for tensor in shard.tensors:
            for band in tensor.bands():
                write(band)
                on_progress(len(band))
    return FinishedFile(shard.file, size_bytes, hashed.hexdigest())


def _check_space(partial: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(partial).free
    if free_bytes < needed_bytes:
        raise EnvironmentUnfit(
            f"{partial}: {free_bytes / 2**30:.1f} GiB free, {needed_bytes / 2**30:.1f} GiB still to write; "
            "choose a target on a larger disk"
        )


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file, flushed at the end of the block. An old file or link of the same name is removed first."""
    path.unlink(missing_ok=True)
    with open_to_write(path) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())

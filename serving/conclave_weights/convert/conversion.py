"""Writes the converted model: shards one after the other into TARGET.partial, which becomes TARGET when all is there.

Called by `conclave weights convert`. Repeated after an interruption, it keeps the shards that its journal has and that
are unchanged, and writes the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from conclave import __version__
from conclave.errors import EnvironmentUnfit, InvalidInput
from conclave_weights.convert.journal import NAME as JOURNAL_NAME
from conclave_weights.convert.journal import FinishedFile, Journal, is_unchanged
from conclave_weights.convert.release import (
    KEPT_IN_FLOAT32,
    Conversion,
    grok_1_config,
    read_release,
    release_directory,
)
from conclave_weights.convert.values import TargetType, bands
from conclave_weights.headers import DTYPE_BITS, write_header
from conclave_weights.soundness import INDEX_NAME, TOKENIZER_FILES

DTYPES: dict[str, TargetType] = {"bfloat16": "BF16", "float32": "F32"}
DEFAULT_SHARD_BYTES = 5 * 10**9
_TOKENIZER_SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class _Tensor:
    conversion: Conversion
    dtype: TargetType

    @property
    def size_bytes(self) -> int:
        return math.prod(self.conversion.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class Shard:
    """One file of the target."""

    file: str
    tensors: tuple[_Tensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True)
class Outcome:
    """What was made."""

    shards: int
    size_bytes: int
    kept_shards: int
    """Of an interrupted run before this one."""
    has_tokenizer: bool


@dataclass(frozen=True)
class ConversionPlan:
    """Everything that is known before the first byte is written."""

    source: Path
    target: Path
    dtype: str
    config: Mapping[str, object]
    shards: tuple[Shard, ...]

    @property
    def size_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self.shards)

    def identity(self) -> str:
        """A hash over the source's files and over what is to be written."""
        files = sorted(release_directory(self.source).glob("tensor*"))
        seen = [(path.name, (status := path.stat()).st_size, status.st_mtime_ns) for path in files]
        headers = [(shard.file, _header(shard).hex()) for shard in self.shards]
        return hashlib.sha256(json.dumps([__version__, seen, headers, dict(self.config)]).encode()).hexdigest()


def plan_conversion(
    source: Path,
    target: Path,
    *,
    dtype: str = "bfloat16",
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    config: Mapping[str, object] | None = None,
) -> ConversionPlan:
    """Look at every file of the source and lay out the target; `config` is of another size only in tests.

    Raises WeightsUnfit for a source that is not the whole release, InvalidInput where the target exists.
    """
    if target.exists():
        raise InvalidInput(f"{target}: exists; remove it, or choose another target")
    config = dict(config or grok_1_config()) | {"torch_dtype": dtype}
    tensors = [
        _Tensor(conversion, "F32" if conversion.name.endswith(KEPT_IN_FLOAT32) else DTYPES[dtype])
        for conversion in read_release(source, config)
    ]
    groups: list[list[_Tensor]] = [[]]
    filled_bytes = 0
    for tensor in tensors:
        if groups[-1] and filled_bytes + tensor.size_bytes > shard_bytes:
            groups.append([])
            filled_bytes = 0
        groups[-1].append(tensor)
        filled_bytes += tensor.size_bytes
    shards = tuple(
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    )
    return ConversionPlan(source, target, dtype, config, shards)


def convert(plan: ConversionPlan, on_progress: Callable[[int], None] = lambda _bytes: None) -> Outcome:
    """Carry the plan out; `on_progress` gets the bytes of the target that are done since its last call.

    Raises EnvironmentUnfit where the disk is too small or fails, InvalidInput where the partial directory is another's.
    """
    try:
        return _convert(plan, on_progress)
    except OSError as error:
        raise EnvironmentUnfit(f"{plan.target}: stopped: {error}; mend that, then repeat to go on") from error


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
        has_tokenizer = _write_small_files(partial, plan)
        _sync_directory(partial)
        partial.rename(plan.target)
        (plan.target / JOURNAL_NAME).unlink()
        _sync_directory(plan.target.parent)
    finally:
        journal.close()
    return Outcome(len(plan.shards), plan.size_bytes, len(plan.shards) - len(to_do), has_tokenizer)


def _unchanged(partial: Path, finished: Iterable[FinishedFile]) -> set[str]:
    return {file.file for file in finished if is_unchanged(partial, file)}


def _header(shard: Shard) -> bytes:
    return write_header({tensor.conversion.name: (tensor.dtype, tensor.conversion.shape) for tensor in shard.tensors})


def _write_shard(partial: Path, shard: Shard, on_progress: Callable[[int], None]) -> FinishedFile:
    hashed = hashlib.sha256()
    size_bytes = 0
    with (partial / shard.file).open("wb") as file:

        def write(data: bytes) -> None:
            nonlocal size_bytes
            file.write(data)
            hashed.update(data)
            size_bytes += len(data)

        write(_header(shard))
        for tensor in shard.tensors:
            for band in bands(tensor.conversion, tensor.dtype):
                write(band)
                on_progress(len(band))
        file.flush()
        os.fsync(file.fileno())
    return FinishedFile(shard.file, size_bytes, hashed.hexdigest())


def _write_small_files(partial: Path, plan: ConversionPlan) -> bool:
    """Index, config and the tokenizer that lies with the release; whether there was one."""
    weight_map = {tensor.conversion.name: shard.file for shard in plan.shards for tensor in shard.tensors}
    index = {"metadata": {"total_size": plan.size_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(partial / INDEX_NAME, index)
    _write_json(partial / "config.json", plan.config)
    beside = [plan.source, release_directory(plan.source).parent]
    found = {
        path.name: path
        for directory in beside
        for pattern in (*TOKENIZER_FILES, *_TOKENIZER_SIDE_FILES)
        for path in sorted(directory.glob(pattern))
    }
    for name, path in found.items():
        shutil.copyfile(path, partial / name)
    return any(name not in _TOKENIZER_SIDE_FILES for name in found)


def _check_space(partial: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(partial).free
    if free_bytes < needed_bytes:
        raise EnvironmentUnfit(
            f"{partial}: {free_bytes / 2**30:.1f} GiB free, {needed_bytes / 2**30:.1f} GiB still to write; "
            "choose a target on a larger disk"
        )


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Plans the conversion of a directory to safetensors: Grok-1 as released, or the pickled weights of any model.

`conclave weights convert` calls it. It reads every file of the source and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from conclave.errors import InvalidInput
from conclave_weights.convert.conversion import ConversionPlan, Shard, Tensor
from conclave_weights.convert.release import (
    KEPT_IN_FLOAT32,
    Conversion,
    grok_1_config,
    read_release,
    release_directory,
)
from conclave_weights.convert.torch_files import Storage, StridedTensor, find_tensors
from conclave_weights.convert.values import TargetType, bands, stored_bands
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.headers import REMEDY
from conclave_weights.files.regular_files import check_directory
from conclave_weights.verify.adapter import TENSORS as ADAPTER_TENSORS
from conclave_weights.verify.adapter import is_adapter
from conclave_weights.verify.soundness import (
    BESIDE_PATTERNS,
    INDEX_NAME,
    PICKLED_INDEX_NAME,
    TOKENIZER_FILES,
    is_release_of_grok_1,
    pickled_weights,
    read_config,
    read_weight_map,
)

DTYPES: dict[str, TargetType] = {"bfloat16": "BF16", "float32": "F32"}
DEFAULT_SHARD_BYTES = 5 * 10**9
_SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def plan_conversion(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    config: Mapping[str, object] | None = None,
) -> ConversionPlan:
    """Look at every file of the source and lay out the target.

    `dtype` is for Grok-1 alone, and bfloat16 where it is None; `config` is Grok-1's, of another size only in tests.
    Raises WeightsUnfit for a source that is not whole, InvalidInput where the target exists or the dtype is not asked.
    """
    if target.exists():
        raise InvalidInput(f"{target}: exists; remove it, or choose another target")
    check_directory(source, "the pickled weights")
    if not is_release_of_grok_1(source):
        if pickled := pickled_weights(source):
            if dtype is not None:
                raise InvalidInput(
                    f"--dtype {dtype}: for Grok-1 only; PyTorch's weights keep their types: leave it out"
                )
            return _of_pickled(source, pickled, target, shard_bytes)
        raise WeightsUnfit(
            f"{source}: no pickled weights (pytorch_model*.bin, *.pt), and no checkpoint of Grok-1 "
            "(tensor00000_000, or ckpt-0 with it); give the directory of the model, or the released checkpoint "
            "xai-org/grok-1"
        )
    return _of_release(source, target, dtype or "bfloat16", shard_bytes, dict(config or grok_1_config()))


def _of_release(source: Path, target: Path, dtype: str, shard_bytes: int, config: dict[str, object]) -> ConversionPlan:
    config |= {"torch_dtype": dtype}
    tensors = [_of_grok_1(conversion, DTYPES[dtype]) for conversion in read_release(source, config)]
    directory = release_directory(source)
    beside = _found((source, directory.parent), (*TOKENIZER_FILES, *_SIDE_FILES))
    shards = _cut(tensors, shard_bytes)
    return ConversionPlan(
        target,
        tuple(sorted(directory.glob("tensor*"))),
        shards,
        {INDEX_NAME: _index(shards), "config.json": _json(config)},
        beside,
        is_complete=any(name not in _SIDE_FILES for name in beside),
    )


def _of_grok_1(conversion: Conversion, dtype: TargetType) -> Tensor:
    stored: TargetType = "F32" if conversion.name.endswith(KEPT_IN_FLOAT32) else dtype
    return Tensor(conversion.name, stored, conversion.shape, partial(bands, conversion, stored))


def _of_pickled(source: Path, pickled: tuple[Path, ...], target: Path, shard_bytes: int) -> ConversionPlan:
    of_adapter = is_adapter(source)
    if not of_adapter:
        read_config(source)
    checked: set[Storage] = set()
    tensors = [
        Tensor(name, tensor.dtype, tensor.shape, partial(stored_bands, tensor, checked))
        for name, tensor in _pickled_tensors(source, pickled)
    ]
    shards = (Shard(ADAPTER_TENSORS, tuple(tensors)),) if of_adapter else _cut(tensors, shard_bytes)
    beside = {
        name: path
        for name, path in _found((source,), (*BESIDE_PATTERNS, *_SIDE_FILES)).items()
        if not name.endswith(".index.json") and source / name not in pickled
    }
    return ConversionPlan(
        target,
        pickled,
        shards,
        {} if of_adapter else {INDEX_NAME: _index(shards)},
        beside,
        is_complete=of_adapter or any(any(source.glob(pattern)) for pattern in TOKENIZER_FILES),
    )


def _pickled_tensors(source: Path, pickled: Iterable[Path]) -> Iterator[tuple[str, StridedTensor]]:
    """The tensors of all files. Each tensor is in one file only: where there is an index, in the file that it names."""
    places: dict[str, str] = {}
    for path in pickled:
        for name, tensor in find_tensors(path).items():
            if name in places:
                raise WeightsUnfit(
                    f"weights {source}: {name} is in {places[name]} and {path.name}, expected in one file: remove "
                    "one of two copies; parts of a tensor-parallel checkpoint are not joined"
                )
            places[name] = path.name
            yield name, tensor
    index = source / PICKLED_INDEX_NAME
    if index.exists():
        for name, file in read_weight_map(index).items():
            if places.get(name) != file:
                raise WeightsUnfit(
                    f"weights {source}: {name} is in {places.get(name, 'no file')}, {index.name} says {file}; {REMEDY}"
                )


def _cut(tensors: Iterable[Tensor], shard_bytes: int) -> tuple[Shard, ...]:
    groups: list[list[Tensor]] = [[]]
    filled_bytes = 0
    for tensor in tensors:
        if groups[-1] and filled_bytes + tensor.size_bytes > shard_bytes:
            groups.append([])
            filled_bytes = 0
        groups[-1].append(tensor)
        filled_bytes += tensor.size_bytes
    return tuple(
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    )


def _index(shards: tuple[Shard, ...]) -> bytes:
    weight_map = {tensor.name: shard.file for shard in shards for tensor in shard.tensors}
    size_bytes = sum(shard.size_bytes for shard in shards)
    return _json({"metadata": {"total_size": size_bytes}, "weight_map": dict(sorted(weight_map.items()))})


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _found(directories: Iterable[Path], patterns: Iterable[str]) -> dict[str, Path]:
    """The files by name. Raises WeightsUnfit where a link leaves the directory: the target may be given to others."""
    return {
        path.name: _resolved(path)
        for directory in directories
        for pattern in patterns
        for path in sorted(directory.glob(pattern))
        if path.is_file()
    }


def _resolved(path: Path) -> Path:
    """The files of a snapshot in a hub's cache are links into the directory `blobs` beside `snapshots`."""
    home, target = path.parent.resolve(), path.resolve()
    blobs = home.parent.with_name("blobs") if home.parent.name == "snapshots" else home
    if not target.is_relative_to(home) and not target.is_relative_to(blobs):
        raise WeightsUnfit(
            f"{path}: is a link to {target}, outside of {home}, expected a file of the model; put a copy of the file "
            "in place of the link, or remove it"
        )
    return target

"""What a directory, or an index file alone, tells of weights that no reader of config.json can size.

`conclave plan --weights` calls it. The files need not be whole models: no tokenizer is asked for, and no digest.
"""

from __future__ import annotations

from pathlib import Path

from conclave.catalogue.measured import StoredTotal
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.headers import REMEDY, TensorHeader, read_header
from conclave_weights.files.regular_files import check_directory
from conclave_weights.verify.soundness import (
    INDEX_NAME,
    embedding_problem,
    no_safetensors,
    read_json_object,
    read_weight_map,
    without_second_copy,
)


def read_headers(root: Path) -> dict[str, TensorHeader]:
    """The tensors of the files of the index, or of all. Raises WeightsUnfit for a file that is missing or damaged."""
    check_directory(root)
    if problem := embedding_problem(root):
        raise WeightsUnfit(f"weights {root}: {problem}")
    index = root / INDEX_NAME
    shards = sorted(set(read_weight_map(index).values())) if index.exists() else []
    shards = shards or without_second_copy(sorted(path.name for path in root.glob("*.safetensors")))
    if not shards:
        raise WeightsUnfit(no_safetensors(root))
    if absent := [name for name in shards if Path(name).name != name or not (root / name).is_file()]:
        raise WeightsUnfit(
            f"weights {root}: {len(absent)} of {len(shards)} files of {INDEX_NAME} are missing: {', '.join(absent[:5])}"
            "; copy them, or give config.json with --config and leave the index file beside it"
        )
    return {tensor: header for name in shards for tensor, header in read_header(root / name).items()}


def read_total(index: Path) -> StoredTotal:
    """The size that an index file tells. Raises WeightsUnfit where it tells none."""
    metadata = read_json_object(index).get("metadata")
    size_bytes = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(size_bytes, float) and size_bytes.is_integer():  # as some tools write it
        size_bytes = int(size_bytes)
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or not 0 < size_bytes <= 2**60:
        raise WeightsUnfit(
            f"{index}: metadata.total_size is {size_bytes!r:.40}, expected the bytes of all tensors; {REMEDY}, or give "
            "the files with --weights"
        )
    return StoredTotal(size_bytes=size_bytes)

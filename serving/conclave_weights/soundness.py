"""Whether a directory of weights is whole and of a kind that is loaded; reads headers, never tensors.

Called before an engine is started, so that what would fail after minutes of loading fails at once, by name.
Links to files are followed here (a hub cache is made of them); only the digest refuses them.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from conclave_weights.errors import WeightsUnfit

MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit."""
DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32,
    "BF16": 16, "F16": 16, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "*.tiktoken")
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_weights(root: Path) -> None:
    """Raise WeightsUnfit with the first thing that is wrong."""
    if not root.is_dir():
        raise WeightsUnfit(f"weights {root}: no such directory; give the directory that holds config.json")
    read_config(root)
    if not any(any(root.glob(pattern)) for pattern in TOKENIZER_FILES):
        raise WeightsUnfit(f"weights {root}: no tokenizer, expected one of {', '.join(TOKENIZER_FILES)}")
    shards = sorted(root.glob("*.safetensors"))
    index = root / "model.safetensors.index.json"
    if not shards and not index.exists():
        raise WeightsUnfit(_no_safetensors(root))
    tensors = {shard.name: tensors_of(shard) for shard in shards}
    if index.exists():
        _check_index(index, tensors)


def read_config(root: Path) -> dict[str, object]:
    """`config.json` as an object."""
    config = _read_json_object(root / "config.json")
    if not config.get("architectures"):
        raise WeightsUnfit(f"{root / 'config.json'}: no `architectures`, expected the name of the model's class")
    return config


def tensors_of(shard: Path) -> frozenset[str]:
    """Names of the tensors in a safetensors file, once its header is valid and the file as long as it says."""
    try:
        with shard.open("rb") as file:
            prefix = file.read(8)
            header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            text = file.read(header_bytes) if header_bytes <= MAX_HEADER_BYTES else b""
            size_bytes = shard.stat().st_size
    except OSError as error:
        raise WeightsUnfit(f"weights file {shard}: cannot be read: {error.strerror or error}") from error
    if header_bytes > MAX_HEADER_BYTES:
        raise WeightsUnfit(f"weights file {shard}: {_damaged('its first 8 bytes are no safetensors header length')}")
    if len(prefix) < 8 or len(text) < header_bytes:
        raise WeightsUnfit(f"weights file {shard}: {size_bytes} bytes, shorter than its header: truncated; {REMEDY}")
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [_end(name, entry) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsUnfit(
            f"weights file {shard}: {_damaged(f'its safetensors header is invalid ({error})')}"
        ) from error
    expected_bytes = 8 + header_bytes + max(ends, default=0)
    if size_bytes < expected_bytes:
        raise WeightsUnfit(
            f"weights file {shard}: {size_bytes} bytes, its header says {expected_bytes}: truncated; {REMEDY}"
        )
    if size_bytes > expected_bytes:
        raise WeightsUnfit(f"weights file {shard}: {size_bytes} bytes, its header says {expected_bytes}; {REMEDY}")
    return frozenset(entries)


REMEDY = "copy it anew"


def _damaged(what: str) -> str:
    return f"{what}: damaged; {REMEDY}"


def _end(name: str, entry: dict[str, Any]) -> int:
    """End of the tensor's data, relative to the header's end; ValueError where offsets and shape disagree."""
    begin, end = entry["data_offsets"]
    bits = DTYPE_BITS.get(entry["dtype"])
    if bits is not None and (end - begin) * 8 != bits * math.prod(entry["shape"]):
        raise ValueError(f"{name}: {end - begin} bytes for shape {entry['shape']} of {entry['dtype']}")
    return int(end)


def _check_index(index: Path, tensors: dict[str, frozenset[str]]) -> None:
    weight_map = _read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightsUnfit(f"{index}: no `weight_map`; {REMEDY}")
    if missing := sorted(set(map(str, weight_map.values())) - tensors.keys()):
        raise WeightsUnfit(
            f"weights {index.parent}: {len(missing)} of {len(set(weight_map.values()))} files of {index.name} are "
            f"missing: {', '.join(missing[:5])}; copy them"
        )
    for tensor, shard in weight_map.items():
        if tensor not in tensors[shard]:
            raise WeightsUnfit(
                f"weights file {index.parent / shard}: holds no {tensor}, which {index.name} places there"
            )


def _no_safetensors(root: Path) -> str:
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in root.glob(pattern))
    if pickles:
        return (
            f"weights {root}: only pickled weights ({', '.join(pickles[:3])}), which can run code when loaded; "
            "expected *.safetensors: take the safetensors variant of the model"
        )
    return f"weights {root}: no *.safetensors files; give the directory that holds them"


def _read_json_object(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise WeightsUnfit(f"weights {path.parent}: no {path.name}; give the directory that holds it") from None
    except (OSError, ValueError) as error:
        raise WeightsUnfit(f"{path}: cannot be read: {error}; {REMEDY}") from error
    if not isinstance(content, dict):
        raise WeightsUnfit(f"{path}: holds a JSON {type(content).__name__}, expected an object; {REMEDY}")
    return content

"""The header of a safetensors file: names, types and shapes of its tensors, and whether the file is whole.

The file is 8 bytes of length, JSON of that length, and the data without gaps. This module reads no tensor, and needs
the standard library only.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conclave_weights.errors import WeightsUnfit, WeightsUnreadable
from conclave_weights.files.regular_files import open_to_read

MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit."""
_MOST_DIMENSIONS = 64
"""torch's own limit. Without a limit the product of very many dimensions would take hours."""
DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32,
    "BF16": 16, "F16": 16, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
REMEDY = "copy it again"


@dataclass(frozen=True)
class TensorHeader:
    """The header of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(shard: Path) -> Mapping[str, TensorHeader]:
    """The tensors of a safetensors file by name. Raises WeightsUnfit where the file is damaged or has another size."""
    try:
        with open_to_read(shard) as file:
            prefix = file.read(8)
            header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            text = file.read(header_bytes) if header_bytes <= MAX_HEADER_BYTES else b""
            size_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise WeightsUnreadable(f"weights file {shard}: cannot be read: {error.strerror or error}") from error
    if header_bytes > MAX_HEADER_BYTES:
        raise _damaged(shard, "its first 8 bytes are no safetensors header length")
    if len(prefix) < 8 or len(text) < header_bytes:
        raise WeightsUnfit(f"weights file {shard}: {size_bytes} bytes, shorter than its header: truncated; {REMEDY}")
    try:
        tensors, data_bytes = _parse(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(shard, f"its safetensors header is invalid ({error})") from error
    expected_bytes = 8 + header_bytes + data_bytes
    if size_bytes != expected_bytes:
        kind = ": truncated" if size_bytes < expected_bytes else ""
        raise WeightsUnfit(
            f"weights file {shard}: {size_bytes} bytes, its header says {expected_bytes}{kind}; {REMEDY}"
        )
    return tensors


def write_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The length and header of a safetensors file that holds these tensors (type, shape), one after the other."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * DTYPE_BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _parse(text: bytes) -> tuple[dict[str, TensorHeader], int]:
    """Tensors and bytes of data. An invalid header raises ValueError, KeyError, TypeError or AttributeError."""
    header = json.loads(text)
    spans = {name: _span(name, entry) for name, entry in header.items() if name != "__metadata__"}
    reached = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != reached:
            raise ValueError(f"{name:.100}: data from byte {begin}, expected {reached}")
        reached = end
    tensors = {
        name: TensorHeader(str(header[name]["dtype"]), tuple(header[name]["shape"]), end - begin)
        for name, (begin, end) in spans.items()
    }
    return tensors, reached


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    """Begin and end of the tensor's data, counted from the header's end."""
    (begin, end), shape = entry["data_offsets"], entry["shape"]
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{name:.100}: {len(shape)} dimensions, expected at most {_MOST_DIMENSIONS}")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (begin, end - begin, *shape)):
        raise ValueError(
            f"{name:.100}: offsets {begin!r:.40}, {end!r:.40} and shape {shape!r:.200}, expected whole numbers in order"
        )
    bits = DTYPE_BITS.get(entry["dtype"])
    if bits is not None and (end - begin) * 8 != bits * math.prod(shape):
        raise ValueError(f"{name:.100}: {end - begin} bytes for shape {shape} of {entry['dtype']}")
    return begin, end


def _damaged(shard: Path, what: str) -> WeightsUnfit:
    return WeightsUnfit(f"weights file {shard}: {what}: damaged; {REMEDY}")

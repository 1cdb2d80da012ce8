"""Finds the arrays in a pickle of NumPy arrays, as xAI released Grok-1, without running the pickle.

Array contents are not read. The pickle reconstructs arrays as NumPy's `ndarray.__reduce__` does.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from conclave_weights.convert.pickles import PLAIN, Name, PickleReader, is_name
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.regular_files import open_to_read

ArrayType = Literal["float32", "bfloat16", "int8"]
ITEM_BYTES: dict[ArrayType, int] = {"float32": 4, "bfloat16": 2, "int8": 1}

_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY = ("numpy ndarray",)
_DTYPE = ("numpy dtype",)
_BFLOAT16 = "ml_dtypes bfloat16"
_QUANTIZED = ("__main__ QuantizedWeight8bit",)
_ALLOWED = frozenset((*_RECONSTRUCT, *_NDARRAY, *_DTYPE, _BFLOAT16, *_QUANTIZED))
_TYPES: dict[str, ArrayType] = {"f4": "float32", "i1": "int8", _BFLOAT16: "bfloat16"}
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: little-endian, rows first, `offset` bytes from the file's start."""

    path: Path
    offset: int
    dtype: ArrayType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class QuantizedArray:
    """The release's QuantizedWeight8bit: int8 weights and their scales."""

    weight: StoredArray
    scales: StoredArray


@dataclass
class _Dtype:
    dtype: ArrayType


@dataclass(frozen=True)
class _Bytes:
    offset: int
    size_bytes: int


@dataclass
class _Array:
    stored: StoredArray | None = None


@dataclass
class _Quantized:
    stored: QuantizedArray | None = None


def find_arrays(path: Path) -> StoredArray | QuantizedArray:
    """The only array, or quantised weight, of the file.

    Raises WeightsUnfit naming the file and what it holds instead: a forbidden name or instruction, another type, a
    length that the file does not have.
    """
    try:
        with open_to_read(path) as file:
            return _Reader(path, file, os.fstat(file.fileno()).st_size).array()
    except OSError as error:
        raise WeightsUnfit(f"weights file {path}: cannot be read: {error.strerror or error}") from error


class _Reader(PickleReader):
    """Knows NumPy's arrays and the release's QuantizedWeight8bit."""

    names = _ALLOWED
    protocols = (3, 4)
    most_instructions = 500  # a quantised weight takes about 120
    needed_by = "pickled array"
    expected = (
        "a pickled NumPy array of float32 or bfloat16, or a QuantizedWeight8bit of two, as xAI released them: "
        "download it again from a source that you trust"
    )

    def array(self) -> StoredArray | QuantizedArray:
        found = self.run()
        if isinstance(found, _Array | _Quantized) and found.stored:
            return found.stored
        raise self.refusal("no array")

    def skip_bytes(self, length_code: str) -> None:
        size_bytes, offset = self.number(length_code), self.file.tell()
        if offset + size_bytes > self.size_bytes:
            raise self.truncated(f"{offset + size_bytes} and more")
        self.push(_Bytes(offset, size_bytes))
        self.file.seek(size_bytes, 1)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if is_name(function, _RECONSTRUCT):
            self.push(_Array())
        elif is_name(function, _DTYPE) and isinstance(arguments, tuple) and arguments:
            first = arguments[0]
            name = first.text if isinstance(first, Name) else first
            if not isinstance(name, str) or name not in _TYPES:
                raise self.refusal(
                    f"an array of dtype {name!r:.60}" if isinstance(name, str) else "an array of no plain dtype"
                )
            self.push(_Dtype(_TYPES[name]))
        else:
            raise self.refusal("a call of something that is neither NumPy's dtype nor its _reconstruct")

    def new_object(self) -> None:
        _, kind = self.pop(), self.pop()
        if not is_name(kind, _QUANTIZED):
            raise self.refusal("an object that is no QuantizedWeight8bit")
        self.push(_Quantized())

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, _Array) and target.stored is None:
            target.stored = self._array(state)
        elif isinstance(target, _Dtype):
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
                raise self.refusal("a dtype that is not little-endian")
        elif isinstance(target, _Quantized) and target.stored is None:
            target.stored = self._quantized(state)
        else:
            raise self.refusal("state for something that has none")

    def _array(self, state: object) -> StoredArray:
        if not isinstance(state, tuple) or len(state) != 5:
            raise self.refusal("an array in an unknown form")
        _, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, _Bytes) or not isinstance(shape, tuple):
            raise self.refusal("an array without plain contents")
        if len(shape) > _MOST_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
            raise self.refusal(f"an array of {len(shape)} dimensions that are no sizes")
        if fortran_order is not False:
            raise self.refusal("an array in Fortran order")
        wanted_bytes = math.prod(shape) * ITEM_BYTES[dtype.dtype]
        if data.size_bytes != wanted_bytes:
            raise self.refusal(
                f"{data.size_bytes} bytes for shape {list(shape)} of {dtype.dtype}, which takes {wanted_bytes}"
            )
        return StoredArray(self.path, data.offset, dtype.dtype, shape)

    def _quantized(self, state: object) -> QuantizedArray:
        if not isinstance(state, dict) or set(state) != {"weight", "scales"}:
            raise self.refusal("a QuantizedWeight8bit without exactly weight and scales")
        weight, scales = (
            part.stored if isinstance(part, _Array) else None for part in (state["weight"], state["scales"])
        )
        if weight is None or scales is None or weight.dtype != "int8" or scales.dtype == "int8":
            raise self.refusal("a QuantizedWeight8bit that is not of int8 weights and float scales")
        return QuantizedArray(weight, scales)


_Reader.instructions = {
    **PLAIN,
    "SHORT_BINBYTES": lambda reader: reader.skip_bytes("B"),
    "BINBYTES": lambda reader: reader.skip_bytes("I"),
    "BINBYTES8": lambda reader: reader.skip_bytes("Q"),
    "REDUCE": _Reader.reduce,
    "NEWOBJ": _Reader.new_object,
    "BUILD": _Reader.build,
}

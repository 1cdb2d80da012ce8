"""The values of the target, in bands. Grok-1's are dequantised, transposed and rounded; torch's stay as stored.

This is the only module that uses NumPy.

A dequantised value is int8 * scale, where a row of scales covers an equal share of the rows (`mul` and
`moe_slow_matmul2` in xai-org/grok-1's model.py: eight devices held one share each). The product of an int8 and a
bfloat16 is exact in float32, so rounding it once to bfloat16 gives what the release computes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

from conclave.errors import EnvironmentUnfit
from conclave_weights.convert.arrays import QuantizedArray, StoredArray
from conclave_weights.convert.release import Conversion
from conclave_weights.convert.torch_files import Storage, StridedTensor
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.regular_files import open_to_read

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise EnvironmentUnfit(
        "converting weights needs NumPy, which is not installed: pip install numpy (requirements/local.txt and "
        "requirements/serving.txt have it too)"
    ) from error

_ReadRows = Callable[[int, int], NDArray[np.float32]]
"""Rows of the target, from the first to before the last."""
TargetType = Literal["BF16", "F32"]
BAND_BYTES = 32 * 2**20
"""The float32 values in work at a time. A matrix that is transposed is also held whole, as it is stored."""
_STORED: dict[str, str] = {"float32": "<f4", "bfloat16": "<u2", "int8": "<i1"}


def bands(conversion: Conversion, dtype: TargetType) -> Iterator[bytes]:
    """The tensor's bytes, from its first row to its last. Raises WeightsUnfit for values that are not finite."""
    rows, row_elements = conversion.shape[0], math.prod(conversion.shape[1:])
    band_rows = max(1, BAND_BYTES // (4 * row_elements))
    read_rows = _transposed(conversion) if conversion.transposed else _as_stored(conversion, row_elements)
    for first in range(0, rows, band_rows):
        band = read_rows(first, min(first + band_rows, rows))
        yield _bfloat16(band).tobytes() if dtype == "BF16" else band.astype("<f4").tobytes()


def stored_bands(tensor: StridedTensor, checked: set[Storage]) -> Iterator[bytes]:
    """The elements in the order of their indices, with unchanged bits. A strided tensor is held whole beside a band.

    Raises WeightsUnfit where the storage is not the saved storage. Adds a valid storage to `checked`.
    """
    stored = tensor.storage
    if not tensor.span:
        return
    first_byte, size_bytes = tensor.offset * tensor.item_bytes, tensor.span * tensor.item_bytes
    if tensor.is_contiguous and size_bytes == stored.size_bytes:
        yield from _checked(stored)
        checked.add(stored)
        return
    if stored not in checked:
        for _ in _checked(stored):  # read once more, for the elements around this view
            pass
        checked.add(stored)
    if tensor.is_contiguous:
        yield from _read_bytes(stored, first_byte, size_bytes)
        return
    values = _values(stored, tensor.offset, tensor.span, f"V{tensor.item_bytes}")
    strides = [stride * tensor.item_bytes for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values, tensor.shape, strides, writeable=False)
    for part in _parts(tensor.shape, max(1, BAND_BYTES // tensor.item_bytes)):
        yield view[part].tobytes()


def _parts(shape: tuple[int, ...], most_elements: int) -> Iterator[tuple[Any, ...]]:
    """Indices that cut an array row by row into parts of at most so many elements."""
    axis, elements = len(shape), 1
    while axis and elements * shape[axis - 1] <= most_elements:
        axis -= 1
        elements *= shape[axis]
    if not axis:
        yield (...,)
        return
    step = most_elements // elements
    for leading in np.ndindex(*shape[: axis - 1]):
        for first in range(0, shape[axis - 1], step):
            yield (*leading, slice(first, first + step))


def _checked(stored: Storage) -> Iterator[bytes]:
    """All bytes of the storage. Raises WeightsUnfit at the end where they differ from the saved bytes."""
    checksum = 0
    for band in _read_bytes(stored, 0, stored.size_bytes):
        checksum = zlib.crc32(band, checksum)
        yield band
    if stored.crc32 and checksum != stored.crc32:
        raise WeightsUnfit(
            f"weights file {stored.path}: CRC-32 {checksum:08x} of {stored.size_bytes} bytes from byte "
            f"{stored.offset}, expected {stored.crc32:08x}: damaged; copy it again"
        )


def _read_bytes(stored: Storage, first_byte: int, size_bytes: int) -> Iterator[bytes]:
    with open_to_read(stored.path) as file:
        file.seek(stored.offset + first_byte)
        while size_bytes:
            band = file.read(min(BAND_BYTES, size_bytes))
            if not band:
                raise _shortened(stored)
            size_bytes -= len(band)
            yield band


def _as_stored(conversion: Conversion, row_elements: int) -> _ReadRows:
    stored = conversion.source
    if isinstance(stored, QuantizedArray):
        raise TypeError(f"{conversion.name}: only what is transposed may be quantised")
    return lambda first, last: _finite(_read(stored, first * row_elements, (last - first) * row_elements), stored)


def _transposed(conversion: Conversion) -> _ReadRows:
    stored = conversion.source
    if isinstance(stored, StoredArray):
        matrix = _matrix(stored, conversion.expert)
        return lambda first, last: _finite(matrix[:, first:last], stored).T
    quantized = _matrix(stored.weight, conversion.expert)
    scales = _finite(_matrix(stored.scales, conversion.expert), stored.scales)[:, None, :]

    def dequantized(first: int, last: int) -> NDArray[np.float32]:
        shares = quantized[:, first:last].astype(np.float32).reshape(len(scales), -1, last - first)
        return (shares * scales[:, :, first:last]).reshape(-1, last - first).T

    return dequantized


def _matrix(stored: StoredArray, expert: int | None) -> NDArray[Any]:
    *_, rows, columns = stored.shape
    return _read(stored, (expert or 0) * rows * columns, rows * columns).reshape(rows, columns)


def _read(stored: StoredArray, first_element: int, elements: int) -> NDArray[Any]:
    return _values(stored, first_element, elements, _STORED[stored.dtype])


def _values(stored: StoredArray | Storage, first_element: int, elements: int, code: str) -> NDArray[Any]:
    dtype = np.dtype(code)
    with open_to_read(stored.path) as file:
        values = np.fromfile(file, dtype, count=elements, offset=stored.offset + first_element * dtype.itemsize)
    if len(values) != elements:
        raise _shortened(stored)
    return values


def _shortened(stored: StoredArray | Storage) -> WeightsUnfit:
    return WeightsUnfit(
        f"weights file {stored.path}: became shorter during the conversion; do not change it, then repeat the command"
    )


def _finite(values: NDArray[Any], stored: StoredArray) -> NDArray[np.float32]:
    """The stored values as float32. A bfloat16 is the upper half of a float32."""
    if stored.dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    if not np.isfinite(values).all():
        raise WeightsUnfit(f"weights file {stored.path}: has infinite values or NaN: damaged; download it again")
    return values


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")

"""Where the arrays lie in a pickle of NumPy arrays, found without running it.

A pickle is a program, and this is no unpickler: the few instructions that a pickled array consists of are followed on
plain data, nothing is imported, called or built, and every other instruction and name is refused. Array contents are
not read. The instructions are those of Python's `pickletools`, the reconstruction is NumPy's `ndarray.__reduce__`.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from conclave_weights.errors import WeightsUnfit

ArrayType = Literal["float32", "bfloat16", "int8"]
ITEM_BYTES: dict[ArrayType, int] = {"float32": 4, "bfloat16": 2, "int8": 1}

_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY = ("numpy ndarray",)
_DTYPE = ("numpy dtype",)
_BFLOAT16 = "ml_dtypes bfloat16"
_QUANTIZED = ("__main__ QuantizedWeight8bit",)
_ALLOWED = frozenset((*_RECONSTRUCT, *_NDARRAY, *_DTYPE, _BFLOAT16, *_QUANTIZED))
_TYPES: dict[str, ArrayType] = {"f4": "float32", "i1": "int8", _BFLOAT16: "bfloat16"}
_MOST_INSTRUCTIONS = 500
"""A quantised weight takes about 120."""
_LONGEST_NAME_BYTES = 200
_MOST_DIMENSIONS = 4
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: little-endian, rows first, `offset` bytes from the file's start."""

    path: Path
    offset: int
    dtype: ArrayType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class QuantizedArray:
    """What the release calls QuantizedWeight8bit: int8 weights and their scales."""

    weight: StoredArray
    scales: StoredArray


@dataclass(frozen=True)
class _Name:
    text: str


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


class _Mark:
    pass


def find_arrays(path: Path) -> StoredArray | QuantizedArray:
    """The one array, or quantised weight, that the file holds.

    Raises WeightsUnfit naming the file and what it holds instead: a forbidden name or instruction, another type, a
    length that the file does not have.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file).read()
    except OSError as error:
        raise WeightsUnfit(f"weights file {path}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """Follows one pickle on a stack of plain data."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size_bytes = path.stat().st_size
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def read(self) -> StoredArray | QuantizedArray:
        for _ in range(_MOST_INSTRUCTIONS):
            name = _NAMES.get(code := self._bytes(1)[0], f"byte {code:#04x}")
            if name == "STOP":
                return self._result()
            instruction = _INSTRUCTIONS.get(name)
            if instruction is None:
                raise self._refusal(f"the pickle instruction {name}, which no pickled array needs")
            instruction(self)
        raise self._refusal(f"more than {_MOST_INSTRUCTIONS} pickle instructions")

    def _result(self) -> StoredArray | QuantizedArray:
        if excess := self._size_bytes - self._file.tell():
            raise self._refusal(f"{excess} bytes after its end")
        if len(self._stack) == 1 and isinstance(top := self._stack[0], _Array | _Quantized) and top.stored:
            return top.stored
        raise self._refusal("no array")

    def _refusal(self, found: str) -> WeightsUnfit:
        return WeightsUnfit(
            f"weights file {self._path}: refused, for it holds {found}; expected a pickled NumPy array of float32 or "
            "bfloat16, or a QuantizedWeight8bit of two, as xAI released them: download it anew from where you trust"
        )

    def _truncated(self, expected_bytes: str) -> WeightsUnfit:
        return WeightsUnfit(
            f"weights file {self._path}: {self._size_bytes} bytes, expected {expected_bytes}: truncated; "
            "download it anew"
        )

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise self._truncated("more")
        return data

    def _number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self._bytes(struct.calcsize(code)))[0])

    def _pop(self) -> object:
        if not self._stack:
            raise self._refusal("an instruction without its operands")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while not isinstance(item := self._pop(), _Mark):
            items.append(item)
        return items[::-1]

    def push_number(self, code: str) -> None:
        self._stack.append(self._number(code))

    def push_text(self, length_code: str) -> None:
        length = self._number(length_code)
        if length > _LONGEST_NAME_BYTES:
            raise self._refusal(f"a text of {length} bytes")
        self._stack.append(self._bytes(length).decode("utf-8", errors="replace"))

    def skip_bytes(self, length_code: str) -> None:
        size_bytes, offset = self._number(length_code), self._file.tell()
        if offset + size_bytes > self._size_bytes:
            raise self._truncated(f"{offset + size_bytes} and more")
        self._stack.append(_Bytes(offset, size_bytes))
        self._file.seek(size_bytes, 1)

    def push(self, value: object) -> None:
        self._stack.append(value)

    def make_tuple(self, count: int | None) -> None:
        items = self._pop_to_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self._stack.append(tuple(items))

    def name_from_stack(self) -> None:
        name, module = self._pop(), self._pop()
        text = f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else "a name that is no text"
        if text not in _ALLOWED:
            raise self._refusal(f"the name {text!r}, which is neither imported nor called here")
        self._stack.append(_Name(text))

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if _is_name(function, _RECONSTRUCT):
            self._stack.append(_Array())
        elif _is_name(function, _DTYPE) and isinstance(arguments, tuple) and arguments:
            first = arguments[0]
            name = first.text if isinstance(first, _Name) else first
            if not isinstance(name, str) or name not in _TYPES:
                raise self._refusal(
                    f"an array of dtype {name!r:.60}" if isinstance(name, str) else "an array of no plain dtype"
                )
            self._stack.append(_Dtype(_TYPES[name]))
        else:
            raise self._refusal("a call of something that is neither NumPy's dtype nor its _reconstruct")

    def new_object(self) -> None:
        _, kind = self._pop(), self._pop()
        if not _is_name(kind, _QUANTIZED):
            raise self._refusal("an object that is no QuantizedWeight8bit")
        self._stack.append(_Quantized())

    def set_items(self, items: list[object]) -> None:
        target = self._stack[-1] if self._stack else None
        if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise self._refusal("items of something that is no mapping of names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def build(self) -> None:
        state, target = self._pop(), self._stack[-1] if self._stack else None
        if isinstance(target, _Array) and target.stored is None:
            target.stored = self._array(state)
        elif isinstance(target, _Dtype):
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
                raise self._refusal("a dtype that is not little-endian")
        elif isinstance(target, _Quantized) and target.stored is None:
            target.stored = self._quantized(state)
        else:
            raise self._refusal("state for something that has none")

    def _array(self, state: object) -> StoredArray:
        if not isinstance(state, tuple) or len(state) != 5:
            raise self._refusal("an array in a form of its own")
        _, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, _Bytes) or not isinstance(shape, tuple):
            raise self._refusal("an array without plain contents")
        if len(shape) > _MOST_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
            raise self._refusal(f"an array of {len(shape)} dimensions that are no sizes")
        if fortran_order is not False:
            raise self._refusal("an array in Fortran order")
        wanted_bytes = math.prod(shape) * ITEM_BYTES[dtype.dtype]
        if data.size_bytes != wanted_bytes:
            raise self._refusal(
                f"{data.size_bytes} bytes for shape {list(shape)} of {dtype.dtype}, which takes {wanted_bytes}"
            )
        return StoredArray(self._path, data.offset, dtype.dtype, shape)

    def _quantized(self, state: object) -> QuantizedArray:
        if not isinstance(state, dict) or set(state) != {"weight", "scales"}:
            raise self._refusal("a QuantizedWeight8bit without exactly weight and scales")
        weight, scales = (
            part.stored if isinstance(part, _Array) else None for part in (state["weight"], state["scales"])
        )
        if weight is None or scales is None or weight.dtype != "int8" or scales.dtype == "int8":
            raise self._refusal("a QuantizedWeight8bit that is not of int8 weights and float scales")
        return QuantizedArray(weight, scales)

    def memoize(self, index: int) -> None:
        if not self._stack:
            raise self._refusal("an instruction without its operands")
        self._memo[index] = self._stack[-1]

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise self._refusal("a reference to nothing")
        self._stack.append(self._memo[index])

    def check_protocol(self) -> None:
        if (protocol := self._number("B")) not in (3, 4):
            raise self._refusal(f"pickle protocol {protocol}")


def _is_name(value: object, texts: tuple[str, ...]) -> bool:
    return isinstance(value, _Name) and value.text in texts


_INSTRUCTIONS: dict[str, Callable[[_Reader], object]] = {
    "PROTO": _Reader.check_protocol,
    "FRAME": lambda reader: reader._number("Q"),
    "MARK": lambda reader: reader.push(_Mark()),
    "NONE": lambda reader: reader.push(None),
    "NEWTRUE": lambda reader: reader.push(True),
    "NEWFALSE": lambda reader: reader.push(False),
    "BININT": lambda reader: reader.push_number("i"),
    "BININT1": lambda reader: reader.push_number("B"),
    "BININT2": lambda reader: reader.push_number("H"),
    "SHORT_BINUNICODE": lambda reader: reader.push_text("B"),
    "BINUNICODE": lambda reader: reader.push_text("I"),
    "SHORT_BINBYTES": lambda reader: reader.skip_bytes("B"),
    "BINBYTES": lambda reader: reader.skip_bytes("I"),
    "BINBYTES8": lambda reader: reader.skip_bytes("Q"),
    "EMPTY_TUPLE": lambda reader: reader.push(()),
    "TUPLE": lambda reader: reader.make_tuple(None),
    "TUPLE1": lambda reader: reader.make_tuple(1),
    "TUPLE2": lambda reader: reader.make_tuple(2),
    "TUPLE3": lambda reader: reader.make_tuple(3),
    "EMPTY_DICT": lambda reader: reader.push({}),
    "SETITEM": lambda reader: reader.set_items([reader._pop(), reader._pop()][::-1]),
    "SETITEMS": lambda reader: reader.set_items(reader._pop_to_mark()),
    "STACK_GLOBAL": _Reader.name_from_stack,
    "REDUCE": _Reader.reduce,
    "NEWOBJ": _Reader.new_object,
    "BUILD": _Reader.build,
    "MEMOIZE": lambda reader: reader.memoize(len(reader._memo)),
    "BINPUT": lambda reader: reader.memoize(reader._number("B")),
    "LONG_BINPUT": lambda reader: reader.memoize(reader._number("I")),
    "BINGET": lambda reader: reader.recall(reader._number("B")),
    "LONG_BINGET": lambda reader: reader.recall(reader._number("I")),
}

"""Finds the tensors in a file of `torch.save`, without torch and without running the file's pickle.

The file is a zip archive, stored and not compressed: `data.pkl` says which tensor is which part of which storage, each
storage is an entry of its own. The tensor's reconstruction is that of `torch/_utils.py`. Contents are not read here.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from conclave_weights.convert.pickles import PLAIN, Name, PickleReader, is_name
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.headers import DTYPE_BITS
from conclave_weights.files.regular_files import open_to_read

_MOST_PICKLE_BYTES = 64 * 2**20
"""The most instructions for one tensor. A tensor takes about 150."""
_MOST_DIMENSIONS = 32
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, length of the name, length of the extra field."""
_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number at the start of older files."""

_ORDERED_DICT = ("collections OrderedDict",)
_TENSOR = ("torch._utils _rebuild_tensor_v2",)
_TENSOR_OF_DTYPE = ("torch._utils _rebuild_tensor_v3",)
_PARAMETER = ("torch._utils _rebuild_parameter",)
_UNTYPED = ("torch.storage UntypedStorage",)
_STORAGES = {
    f"torch {name}Storage": dtype
    for name, dtype in {
        "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16",
        "Long": "I64", "Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64",
    }.items()
}  # fmt: skip
_DTYPES = {
    f"torch {name}": dtype
    for name, dtype in {
        "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
        "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
        "uint16": "U16", "uint32": "U32", "uint64": "U64",
    }.items()
}  # fmt: skip
"""Types that have no storage class of their own. safetensors has no name for the other types."""


@dataclass(frozen=True)
class Storage:
    """Bytes of a file, with their CRC-32 (0: not recorded)."""

    path: Path
    offset: int
    size_bytes: int
    crc32: int


@dataclass(frozen=True)
class StridedTensor:
    """A view of a storage: `offset` and `strides` in elements, `dtype` as safetensors names it."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        return DTYPE_BITS[self.dtype] // 8

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other."""
        wanted = 1
        for size, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if size != 1 and stride != wanted:
                return False
            wanted *= size
        return True

    @property
    def span(self) -> int:
        """Elements of the storage from the tensor's first to its last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


@dataclass(frozen=True)
class _Typed:
    storage: Storage
    dtype: str | None
    """None: the tensor names its own type."""


def find_tensors(path: Path) -> Mapping[str, StridedTensor]:
    """The tensors that the file holds, by name.

    Raises WeightsUnfit naming the file and what it holds instead: a forbidden name or instruction, no mapping of
    tensors, parts that the file does not have.
    """
    try:
        with open_to_read(path) as file:
            return _find_tensors(path, file)
    except OSError as error:
        raise WeightsUnfit(f"weights file {path}: cannot be read: {error.strerror or error}") from error


def _find_tensors(path: Path, file: BinaryIO) -> Mapping[str, StridedTensor]:
    if file.read(len(_BEFORE_1_6)) == _BEFORE_1_6:
        raise WeightsUnfit(
            f"weights file {path}: in the format of PyTorch before 1.6, expected the zip format; if you trust the "
            "file, load it with torch.load(path, weights_only=True) and save it again with torch.save"
        )
    archive = _Archive(path, file)
    pickle = archive.read("data.pkl", _MOST_PICKLE_BYTES)
    return _Reader(path, pickle, archive).tensors()


class _Archive:
    """The entries of the zip file by the names that torch gave them."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error, UnicodeError) as error:
            raise self._refusal(f"no complete zip file ({error}): truncated, or another format") from error
        self._size_bytes = os.fstat(file.fileno()).st_size
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise self._refusal("two entries with the same name")
        roots = [name.removesuffix("data.pkl") for name in self._entries if name.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise self._refusal("no data.pkl of its own")
        self._root = roots[0]
        if self._root + "byteorder" in self._entries and self.read("byteorder", 16).read() != b"little":
            raise self._refusal("numbers that are not little-endian")

    def read(self, name: str, most_bytes: int) -> BytesIO:
        stored = self.storage(name)
        if stored.size_bytes > most_bytes:
            raise self._refusal(f"{name} of {stored.size_bytes} bytes")
        self._file.seek(stored.offset)
        return BytesIO(self._file.read(stored.size_bytes))

    def storage(self, name: str) -> Storage:
        """Where the entry's bytes lie."""
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise self._refusal(f"no entry {name!r:.60}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise self._refusal(f"{name} compressed or encrypted, which torch.save does not do")
        self._file.seek(max(0, entry.header_offset))  # the offset is below 0 where the archive claims to be longer
        header = self._file.read(_LOCAL_HEADER.size)
        if entry.header_offset < 0 or len(header) != _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise self._refusal(f"no beginning of {name}")
        _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        offset = entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if offset + entry.file_size > self._size_bytes:
            raise self._refusal(f"{name} beyond its end: truncated")
        return Storage(self._path, offset, entry.file_size, entry.CRC)

    def _refusal(self, found: str) -> WeightsUnfit:
        return WeightsUnfit(f"weights file {self._path}: refused, since it has {found}; expected {_Reader.expected}")


class _Reader(PickleReader):
    """Knows torch's tensors, parameters and storages, and the mapping that holds them."""

    names = frozenset((*_ORDERED_DICT, *_TENSOR, *_TENSOR_OF_DTYPE, *_PARAMETER, *_UNTYPED, *_STORAGES, *_DTYPES))
    protocols = (2, 3, 4, 5)
    most_instructions = 10_000_000
    needed_by = "mapping of tensors"
    expected = (
        "a state_dict as torch.save writes it, a mapping from names to plain tensors; copy the file again, or use "
        "the safetensors variant of the model"
    )

    def __init__(self, path: Path, pickle: BytesIO, archive: _Archive) -> None:
        super().__init__(path, pickle, len(pickle.getbuffer()))
        self._archive = archive
        self._storages: dict[str, Storage] = {}

    def tensors(self) -> Mapping[str, StridedTensor]:
        found = self.run()
        if not isinstance(found, dict) or not found:
            raise self.refusal("no mapping of tensors")
        for name, value in found.items():
            if not isinstance(value, StridedTensor) or name == "__metadata__":  # safetensors reserves this name
                raise self.refusal(f"{name!r:.60}, which is no tensor")
        return found

    def storage(self) -> None:
        match self.pop():
            case ("storage", Name(text), str(key), str(), int(elements)) if text in _STORAGES or is_name(
                Name(text), _UNTYPED
            ):
                dtype = _STORAGES.get(text)
            case _:
                raise self.refusal("a reference outside that is no storage")
        if key not in self._storages:
            self._storages[key] = self._archive.storage(f"data/{key}")
        stored, wanted_bytes = self._storages[key], elements * (DTYPE_BITS[dtype] // 8 if dtype else 1)
        if stored.size_bytes != wanted_bytes:
            raise self.refusal(f"{stored.size_bytes} bytes in data/{key}, for a storage of {wanted_bytes}")
        self.push(_Typed(stored, dtype))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple):
            raise self.refusal("a call without its arguments")
        if is_name(function, _ORDERED_DICT) and not arguments:
            self.push({})
        elif is_name(function, _TENSOR) and len(arguments) in (6, 7):
            self._tensor(arguments[:4], None, arguments[6:])
        elif is_name(function, _TENSOR_OF_DTYPE) and len(arguments) in (7, 8):
            self._tensor(arguments[:4], arguments[6], arguments[7:])
        elif is_name(function, _PARAMETER) and len(arguments) == 3 and isinstance(arguments[0], StridedTensor):
            self.push(arguments[0])
        else:
            raise self.refusal("a call that does not make a tensor, or has other arguments")

    def _tensor(self, view: tuple[Any, ...], dtype: object, metadata: tuple[object, ...]) -> None:
        """Push the view (storage, offset, sizes, strides). Metadata would mark the view as conjugate or negative."""
        typed, offset, shape, strides = view
        if not isinstance(typed, _Typed) or (typed.dtype is None) != isinstance(dtype, Name) or any(metadata):
            raise self.refusal("a tensor in an unknown form")
        name = _DTYPES.get(dtype.text) if isinstance(dtype, Name) else typed.dtype
        if name is None:
            raise self.refusal("a tensor of no plain type")
        if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
            raise self.refusal("a tensor without sizes and strides")
        if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
            raise self.refusal(f"a tensor of {len(shape)} dimensions that are no sizes")
        tensor = StridedTensor(typed.storage, name, offset, shape, strides)
        if tensor.span and (offset + tensor.span) * tensor.item_bytes > typed.storage.size_bytes:
            raise self.refusal(f"a tensor of shape {list(shape)} that reaches beyond its storage")
        self.push(tensor)

    def build(self) -> None:
        """Drop the state of a mapping: the versions of its modules, which are not needed."""
        state = self.pop()
        if not isinstance(state, dict) or not isinstance(self.top(), dict) or state.keys() != {"_metadata"}:
            raise self.refusal("state for something that has none")


_Reader.instructions = {
    **PLAIN,
    "GLOBAL": _Reader.name_from_lines,
    "LONG1": _Reader.push_long,
    "BINPERSID": _Reader.storage,
    "REDUCE": _Reader.reduce,
    "BUILD": _Reader.build,
}

"""Reads a pickle on plain data without unpickling: the restricted reader under `arrays` and `torch_files`.

A pickle is a program. This reader follows the few instructions that a kind of file consists of. It imports, calls and
builds nothing, and refuses every other instruction and name. The instructions are those of Python's `pickletools`. A
subclass says what the allowed names mean.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from conclave_weights.errors import WeightsUnfit

_LONGEST_TEXT_BYTES = 1000
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_MARK = object()


@dataclass(frozen=True)
class Name:
    """A global name of the pickle. It is neither imported nor called."""

    text: str


Instructions = Mapping[str, Callable[[Any], object]]


class PickleReader:
    """Follows a pickle on a stack of plain data. A subclass says which names and calls it knows."""

    instructions: ClassVar[Instructions]
    names: ClassVar[frozenset[str]]
    """The global names that may occur, as `module name`."""
    protocols: ClassVar[tuple[int, ...]]
    most_instructions: ClassVar[int]
    needed_by: ClassVar[str]
    """What such a file is, for the message of a refusal."""
    expected: ClassVar[str]
    """What the file should hold, and what to do, for the message of a refusal."""

    def __init__(self, path: Path, file: BinaryIO, size_bytes: int) -> None:
        self.path, self.file, self.size_bytes = path, file, size_bytes
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """The only value that the pickle leaves.

        Raises WeightsUnfit naming the file and what it holds instead.
        """
        for _ in range(self.most_instructions):
            name = _NAMES.get(code := self.bytes(1)[0], f"byte {code:#04x}")
            if name == "STOP":
                if excess := self.size_bytes - self.file.tell():
                    raise self.refusal(f"{excess} bytes after its end")
                return self.stack[0] if len(self.stack) == 1 else None
            instruction = self.instructions.get(name)
            if instruction is None:
                raise self.refusal(f"the pickle instruction {name}, which no {self.needed_by} needs")
            instruction(self)
        raise self.refusal(f"more than {self.most_instructions} pickle instructions")

    def refusal(self, found: str) -> WeightsUnfit:
        """The error that says what the file holds and what it should hold."""
        return WeightsUnfit(f"weights file {self.path}: refused, since it has {found}; expected {self.expected}")

    def truncated(self, expected_bytes: str) -> WeightsUnfit:
        return WeightsUnfit(
            f"weights file {self.path}: {self.size_bytes} bytes, expected {expected_bytes}: truncated; download it "
            "again"
        )

    def bytes(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise self.truncated("more")
        return data

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.bytes(struct.calcsize(code)))[0])

    def pop(self) -> object:
        if not self.stack:
            raise self.refusal("an instruction without its operands")
        return self.stack.pop()

    def pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while (item := self.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def top(self) -> object:
        return self.stack[-1] if self.stack else None

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_text(self, length_code: str) -> None:
        length = self.number(length_code)
        if length > _LONGEST_TEXT_BYTES:
            raise self.refusal(f"a text of {length} bytes")
        self.push(self.bytes(length).decode("utf-8", errors="replace"))

    def push_long(self) -> None:
        if (length := self.number("B")) > 8:
            raise self.refusal(f"a number of {length} bytes")
        self.push(int.from_bytes(self.bytes(length), "little", signed=True))

    def make_tuple(self, count: int | None) -> None:
        items = self.pop_to_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self.push(tuple(items))

    def name(self, module: object, name: object) -> None:
        text = f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else "a name that is no text"
        if text not in self.names:
            raise self.refusal(f"the name {text!r}, which is neither imported nor called here")
        self.push(Name(text))

    def name_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def name_from_lines(self) -> None:
        module, name = (self._line() for _ in range(2))
        self.name(module, name)

    def _line(self) -> str:
        line = self.file.readline(_LONGEST_TEXT_BYTES)
        if not line.endswith(b"\n"):
            raise self.refusal("a name without an end")
        return line[:-1].decode("utf-8", errors="replace")

    def set_items(self, items: list[object]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise self.refusal("items of something that is no mapping of names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def memoize(self, index: int) -> None:
        if not self.stack:
            raise self.refusal("an instruction without its operands")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise self.refusal("a reference to nothing")
        self.push(self.memo[index])

    def check_protocol(self) -> None:
        if (protocol := self.number("B")) not in self.protocols:
            raise self.refusal(f"pickle protocol {protocol}")


def is_name(value: object, texts: tuple[str, ...]) -> bool:
    """Whether the value is one of these global names."""
    return isinstance(value, Name) and value.text in texts


PLAIN: Instructions = {
    "PROTO": PickleReader.check_protocol,
    "FRAME": lambda reader: reader.number("Q"),
    "MARK": lambda reader: reader.push(_MARK),
    "NONE": lambda reader: reader.push(None),
    "NEWTRUE": lambda reader: reader.push(True),
    "NEWFALSE": lambda reader: reader.push(False),
    "BININT": lambda reader: reader.push(reader.number("i")),
    "BININT1": lambda reader: reader.push(reader.number("B")),
    "BININT2": lambda reader: reader.push(reader.number("H")),
    "SHORT_BINUNICODE": lambda reader: reader.push_text("B"),
    "BINUNICODE": lambda reader: reader.push_text("I"),
    "EMPTY_TUPLE": lambda reader: reader.push(()),
    "TUPLE": lambda reader: reader.make_tuple(None),
    "TUPLE1": lambda reader: reader.make_tuple(1),
    "TUPLE2": lambda reader: reader.make_tuple(2),
    "TUPLE3": lambda reader: reader.make_tuple(3),
    "EMPTY_DICT": lambda reader: reader.push({}),
    "SETITEM": lambda reader: reader.set_items([reader.pop(), reader.pop()][::-1]),
    "SETITEMS": lambda reader: reader.set_items(reader.pop_to_mark()),
    "STACK_GLOBAL": PickleReader.name_from_stack,
    "MEMOIZE": lambda reader: reader.memoize(len(reader.memo)),
    "BINPUT": lambda reader: reader.memoize(reader.number("B")),
    "LONG_BINPUT": lambda reader: reader.memoize(reader.number("I")),
    "BINGET": lambda reader: reader.recall(reader.number("B")),
    "LONG_BINGET": lambda reader: reader.recall(reader.number("I")),
}
"""Instructions that every kind of file has."""

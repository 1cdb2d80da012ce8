"""Strict JSON within bounds that are counted before anything is built: `edge.py` parses bodies with it.

Strict: UTF-8, no key twice in an object, no NaN or infinity, no half of a surrogate pair. A container of three bytes
becomes 64 or more in memory, so values are counted in the text, outside of strings; a prompt full of commas is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from conclave_serving.errors import invalid

DECODER = msgspec.json.Decoder()
"""The one parser of the lock that is strict in all this but keys that come twice, and 2 to 5 times as fast as json."""

PAIR = b"[]"
_MARKS = b'"[]{},:'
_OTHERS = bytes(set(range(256)) - set(_MARKS))
_ONE_KIND_OF_BRACKET = bytes.maketrans(b"{}", b"[]")
_PIECE_BYTES = 65536


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of one JSON text."""

    depth: int
    containers: int
    values: int


@dataclass(frozen=True)
class Outline:
    """The brackets, commas and colons of a JSON text, outside of its strings.

    Right for every text that is JSON, and for every other one as far as a parser reads it.
    """

    marks: bytes

    @classmethod
    def of(cls, text: bytes) -> Outline:
        """In time and memory that are linear in the text, whatever it holds."""
        if b"\\" in text:
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        # Two quotes side by side hold nothing, and which quotes open does not change without them.
        marks = text.translate(None, _OTHERS).replace(b'""', b"")
        if b'"' not in marks:
            return cls(marks)
        outside = []
        within_string = 0
        for start in range(0, len(marks), _PIECE_BYTES):
            pieces = marks[start : start + _PIECE_BYTES].split(b'"')
            outside.append(b"".join(pieces[within_string::2]))
            within_string ^= (len(pieces) - 1) & 1
        return cls(b"".join(outside))

    @property
    def objects(self) -> int:
        """Objects, empty ones too."""
        return self.marks.count(b"{")

    @property
    def containers(self) -> int:
        """Objects and arrays, empty ones too."""
        return self.objects + self.marks.count(b"[")

    @property
    def members(self) -> int:
        """Members of all objects."""
        return self.marks.count(b":")

    @property
    def values(self) -> int:
        """Scalars, containers and keys, at most: each but the first follows a comma, a colon or an opening bracket."""
        return 1 + self.containers + self.members + self.marks.count(b",")

    def excess(self, bounds: Bounds) -> str | None:
        """The bound that is exceeded, in words; depth is told by `beyond`."""
        if self.values > bounds.values:
            return f"more than {bounds.values} JSON values and keys"
        if self.containers > bounds.containers:
            return f"more than {bounds.containers} JSON arrays and objects"
        return None

    def beyond(self, levels: int) -> bytes:
        """What is left of the brackets when the innermost pairs are taken away so many times.

        Holds a pair where containers are nested deeper; without one it is what never matches.
        """
        brackets = self.marks.translate(_ONE_KIND_OF_BRACKET, b",:")
        if brackets.count(b"[") <= levels:
            return b""
        for _ in range(levels):
            outer = brackets.replace(PAIR, b"")
            if len(outer) == len(brackets):
                break
            brackets = outer
        return brackets


def parse_object(body: bytes, bounds: Bounds) -> dict[str, Any]:
    """The JSON object that the body holds; every other body is a 400."""
    outline = Outline.of(body)
    excess = outline.excess(bounds)
    if excess is not None:
        raise invalid(f"The request body holds {excess}.", code="invalid_json")
    beyond = outline.beyond(bounds.depth)
    if PAIR in beyond:
        raise invalid(f"The request body is nested deeper than {bounds.depth} levels.", code="invalid_json")
    parsed = None if beyond else decode(body)
    if parsed is None:
        raise invalid("The request body is not valid JSON in UTF-8.", code="invalid_json")
    if not isinstance(parsed, dict):
        raise invalid("The request body must be a JSON object.", code="invalid_json")
    if _count_members(parsed, outline.objects) != outline.members:
        raise invalid("A JSON object has the same key twice.", code="invalid_json")
    return parsed


def decode(text: bytes) -> Any:
    """The value of a text whose size and depth were judged; None where it is not JSON, and for null."""
    try:
        return DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _count_members(parsed: dict[str, Any], objects: int) -> int:
    """Members that are left of so many objects: fewer than in the text where a key came twice."""
    members = 0
    waiting: list[Any] = [parsed]
    while waiting and objects:
        container = waiting.pop()
        if isinstance(container, dict):
            objects -= 1
            members += len(container)
            container = container.values()
        waiting += [value for value in container if isinstance(value, dict | list)]
    return members

"""Reads the API server's JSON: fields without a schema (a ControllerRevision's `data`) hold what anybody wrote.

Called by `client`: one value that Python does not read must not make a whole list unreadable.
"""

from __future__ import annotations

import json
import re

from conclave.kubernetes.objects import JsonObject

DEEPEST = 200
"""Levels below which a value is read as null where the whole is nested too deeply for Python."""
LONGEST_INTEGER = 400
"""Digits above which a number is read as null where the whole holds one that is too long for Python."""

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{\]}]', re.DOTALL)


def read_object(text: bytes) -> JsonObject:
    """Raises ValueError where the text is no JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = json.loads(_flattened(text.decode()), parse_int=_integer)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got a {type(value).__name__}")
    return value


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= LONGEST_INTEGER else None


def _flattened(text: str) -> str:
    """With null in place of each object or list that is deeper than DEEPEST."""
    kept, depth, begin = [], 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in ("[", "{"):
            depth += 1
            if depth == DEEPEST + 1:
                kept += [text[begin : token.start()], "null"]
        elif token[0] in ("]", "}"):
            if depth == DEEPEST + 1:
                begin = token.end()
            depth -= 1
    if depth != 0:
        raise ValueError("it is cut off")
    return "".join([*kept, text[begin:]])

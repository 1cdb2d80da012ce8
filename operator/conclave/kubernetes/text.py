"""Words of others, made fit for a condition, an event or a line of the log."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]")
"""What terminals take as a command: colours, cursor, title."""


def one_line(text: str, longest: int) -> str:
    """On one line and printable; of at most `longest` characters, the last an ellipsis where something is missing."""
    shown = printable(text[: longest + 1].replace("\n", " "))
    return shown if len(text) <= longest else shown[: longest - 1] + "…"


def printable(text: str) -> str:
    """Without control characters and sequences, which would reach a terminal; lines stay lines."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in _SEQUENCE.sub("", text))

"""`visible(text)`: foreign text as people may be shown it, with every character that steers or hides spelled out.

Called wherever a program of ours prints or reports: `conclave_cli.terminal`, the operator's log, conditions and events,
the commands of pods. Each character is judged alone, so a stream that is cut in the middle of a sequence is as harmless
as a whole one.
"""

from __future__ import annotations

import re
import unicodedata

BLOCK = "\n\t"
"""What a text of several lines keeps."""

_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode: controls (ESC, C1), format (bidi, zero width, tags), lone surrogates, line separators."""
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point outside these categories: drawn as nothing, so that two names look alike."""
_SEQUENCE = re.compile(r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]")
_JOINERS, _VARIANTS = frozenset("\u200c\u200d"), frozenset("\ufe0e\ufe0f")
"""Persian and Hindi are written with (non-)joiners, emoji with both."""


def visible(text: str, kept: str = BLOCK) -> str:
    """`text` with each steering or unseen character as Python writes it (`\\x1b`, `\\u202e`), but those `kept`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each in kept or not _is_hidden(each) else _spelled_out(each) for each in text)


def visible_prose(text: str, before: str = "") -> str:
    """As `visible`, for what people read and nobody compares: a model's answer, of which `before` was shown already.

    Keeps joiners and emoji variants where writing needs them: one, behind a visible character of a script that has it.
    """
    shown = []
    for each in text:
        shown.append(each if _is_needed(each, before[-1:]) else visible(each))
        before = each
    return "".join(shown)


def one_line(text: str, longest: int | None = None) -> str:
    """As `visible`, where a line break could pass for a line of ours.

    Of at most `longest` characters, the last an ellipsis where something is missing.
    """
    if longest is None:
        return visible(text, kept="")
    shown = visible(text[: longest + 1], kept="")
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def without_styles(text: str) -> str:
    """Without the colours and cursor movements that programs write into their logs."""
    return _SEQUENCE.sub("", text) if "\x1b" in text else text


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _STEERING or _UNSEEN.match(character) is not None


def _is_needed(character: str, before: str) -> bool:
    if not before or unicodedata.category(before)[0] not in "LMNS" or (before in _VARIANTS and character in _VARIANTS):
        return False
    return character in _VARIANTS or (character in _JOINERS and not before.isascii())


def _spelled_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

"""The names of modules in a `quantization_config`, checked where they are read, and the rules that they make."""

from __future__ import annotations

import re
from collections.abc import Iterable

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.modules import ModuleFormats, PatternUnread
from conclave.catalogue.shapes import FormatRule, MatrixFormat, WeightFormat
from conclave.errors import InvalidInput

HEAD = ("lm_head",)


def rule(quantization: Fields, field: str, names: Iterable[str], matrices: MatrixFormat | None) -> FormatRule:
    """The rule for these names; raises InvalidInput that shows the field they come from."""
    made = FormatRule(names=tuple(names), format=matrices)
    try:
        ModuleFormats(WeightFormat(rules=(made,)))
    except InvalidInput as error:
        if isinstance(error, PatternUnread) and all(map(_is_read_by_python, made.names)):
            raise quantization.not_planned(f"patterns with look-around or back-references in {field!r}") from error
        expected = f"names, globs or regular expressions without look-around and back-references: {error}"
        raise quantization.refuse(field, expected) from error
    return made


def _is_read_by_python(name: str) -> bool:
    """As by vLLM, which matches with it."""
    try:
        re.compile(name.removeprefix("re:"))
    except (re.error, OverflowError, RecursionError):
        return not name.startswith("re:")
    return True


def unconverted(quantization: Fields, *fields: str) -> tuple[FormatRule, ...]:
    """The modules that stay as they are, from the first of these fields that names any."""
    for field in fields:
        if names := quantization.texts(field):
            return (rule(quantization, field, names, None),)
    return ()

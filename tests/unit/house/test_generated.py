"""What is generated is committed as its source would make it now: run tools/generate.py after a change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tools.generate import GENERATED

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("path", "text"), GENERATED.items(), ids=GENERATED)
def test_a_generated_file_is_current(path: str, text: Callable[[], str]) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == text(), "run `make verify`"

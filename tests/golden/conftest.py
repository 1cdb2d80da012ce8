"""`python -m pytest tests/golden --update-golden` rewrites what the cases expect; review the difference."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the bases, and what each case has otherwise")

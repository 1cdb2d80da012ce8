"""Reads tests/data/manifests/refused.yaml: the one table of manifests that admission takes and refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

_TABLE = yaml.safe_load((Path(__file__).parent / "data" / "manifests" / "refused.yaml").read_text(encoding="utf-8"))


class Case(NamedTuple):
    """One manifest of the table."""

    id: str
    manifest: dict[str, Any]
    expected: str = ""
    applied: str = ""
    """What server-side apply says."""


def merge(base: Any, change: Any) -> Any:
    """A JSON merge patch."""
    if not isinstance(change, Mapping):
        return change
    merged = dict(base) if isinstance(base, Mapping) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def _case(row: Mapping[str, Any]) -> Case:
    expected = row.get("expected", "")
    return Case(row["id"], merge(_TABLE["base"], row["change"]), expected, row.get("applied", expected))


BASE: dict[str, Any] = _TABLE["base"]
REFUSED = [_case(row) for row in _TABLE["refused"]]
ACCEPTED = [_case(row) for row in _TABLE["accepted"]]

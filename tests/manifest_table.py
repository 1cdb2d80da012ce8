"""Reads tests/data/manifests/refused.yaml: the one table of manifests that admission takes and refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

_TABLE = yaml.safe_load((Path(__file__).parent / "data" / "manifests" / "refused.yaml").read_text(encoding="utf-8"))


class Accepted(NamedTuple):
    """A manifest that is taken."""

    id: str
    manifest: dict[str, Any]


class Refused(NamedTuple):
    """A manifest that is refused."""

    id: str
    manifest: dict[str, Any]
    expected: str
    """Part of the message."""
    applied: str
    """The same of server-side apply."""


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


def _refused(row: Mapping[str, Any]) -> Refused:
    refused = Refused(row["id"], _manifest(row), row["expected"], row.get("applied", row["expected"]))
    if not (refused.expected and refused.applied):
        raise ValueError(f"row {refused.id}: an empty message is part of every message; give the words expected")
    return refused


def _manifest(row: Mapping[str, Any]) -> dict[str, Any]:
    manifest: dict[str, Any] = merge(BASE, row["change"])
    return manifest


BASE: dict[str, Any] = _TABLE["base"]
REFUSED = [_refused(row) for row in _TABLE["refused"]]
ACCEPTED = [Accepted(row["id"], _manifest(row)) for row in _TABLE["accepted"]]

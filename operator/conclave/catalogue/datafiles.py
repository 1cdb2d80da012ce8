"""Reads the catalogue's packaged files; the one place of the core that touches files.

Called once a table by `models`, `licences`, `accelerators` and `engine_classes`, which keep what they parsed.
"""

from __future__ import annotations

import json
from importlib.resources import files

import yaml
from pydantic import TypeAdapter

_DATA = files("conclave.catalogue") / "data"


def read_rows(name: str) -> list[dict[str, object]]:
    """The rows of one data file, for instance `licences.yaml`."""
    return _parse((_DATA / name).read_text(encoding="utf-8"))


def read_folder(name: str) -> list[dict[str, object]]:
    """The rows of every data file of a folder, in the order of the files' names."""
    entries = sorted((_DATA / name).iterdir(), key=lambda entry: entry.name)
    return [row for entry in entries if entry.name.endswith(".yaml") for row in _parse(entry.read_text("utf-8"))]


def read_table(name: str) -> dict[str, object]:
    """A generated data file, which is JSON: it is long, and read many times faster than YAML."""
    table: dict[str, object] = json.loads((_DATA / name).read_text(encoding="utf-8"))
    return table


_ROWS: TypeAdapter[list[dict[str, object]]] = TypeAdapter(list[dict[str, object]])


def _parse(text: str) -> list[dict[str, object]]:
    return _ROWS.validate_python(yaml.safe_load(text))

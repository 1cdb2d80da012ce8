"""Tells, without a request, whether a live object is what is wanted: values, fields that we dropped, fields of others.

Pure. Field ownership comes from `metadata.managedFields`, whose format is that of structured-merge-diff
(`f:` a field, `k:` the list item with these keys, `v:` a set's value, `.` the item itself).
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from conclave.kubernetes.objects import JsonObject, controller_uid
from conclave.names import FIELD_MANAGER


def needs_apply(desired: JsonObject, live: JsonObject) -> bool:
    """Whether a value differs, a field is no longer ours, or we still own one that is no longer wanted."""
    content = {key: value for key, value in desired.items() if key not in ("apiVersion", "kind", "metadata")}
    ours = _owned(live)
    return not (
        _holds(live["metadata"], desired["metadata"])
        and _holds(live, content)
        and bool(ours)
        and _is_owned(content, ours, live)
        and _covers(ours, desired)
    )


def has_foreign_spec(desired: JsonObject, live: JsonObject) -> bool:
    """Whether somebody else put fields into `spec` that we do not want: an apply of ours would leave them there."""
    ours = _owned(live).get("f:spec", {})
    return any(
        _exceeds(entry.get("fieldsV1", {}).get("f:spec", {}), ours, live.get("spec"), desired.get("spec"))
        for entry in live["metadata"].get("managedFields", [])
        if not entry.get("subresource") and not _is_ours(entry)
    )


def has_same_controller(live: JsonObject, desired: JsonObject) -> bool:
    """Whether the controller of the live object is the one that the desired object names."""
    return controller_uid(desired) == controller_uid(live)


def _is_ours(entry: JsonObject) -> bool:
    return entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"


def _owned(live: JsonObject) -> JsonObject:
    entries = live["metadata"].get("managedFields", [])
    return next((entry["fieldsV1"] for entry in entries if _is_ours(entry) and not entry.get("subresource")), {})


def _holds(live: Any, desired: Any) -> bool:
    """Whether the live value is the desired one plus what the API server filled in."""
    if isinstance(desired, dict):
        return all(_holds(live.get(key) if isinstance(live, dict) else None, value) for key, value in desired.items())
    if isinstance(desired, list):
        found = live if isinstance(live, list) else []
        if all(isinstance(item, dict) and "uid" in item for item in desired):  # owner references: others may add theirs
            return all(any(_holds(item, wanted) for item in found) for wanted in desired)
        return len(found) == len(desired) and all(map(_holds, found, desired))
    return bool(live == desired)


def _covers(fields: JsonObject, desired: Any) -> bool:
    """Whether every field of an ownership tree is set in the desired value."""
    for key, below in fields.items():
        kind, _, rest = key.partition(":")
        if kind == "f":
            if not isinstance(desired, dict) or rest not in desired or not _covers(below, desired[rest]):
                return False
        elif kind in ("k", "v") and not any(_names(key, item) and _covers(below, item) for item in desired or []):
            return False
    return True


def _is_owned(desired: Any, fields: JsonObject, live: Any) -> bool:
    """Whether every desired value is in the ownership tree or as it should be; a leaf owns all that is below it."""
    if not fields:
        return True
    if isinstance(desired, dict):
        return all(
            _is_owned(value, fields[f"f:{key}"], _at(f"f:{key}", live))
            if f"f:{key}" in fields
            else _equals(value, _at(f"f:{key}", live))
            for key, value in desired.items()
        )
    if isinstance(desired, list):
        return all(
            any(_names(key, item) and _is_owned(item, fields[key], _at(key, live)) for key in fields)
            for item in desired
        )
    return True


def _names(key: str, item: Any) -> bool:
    """Whether an entry of an ownership tree is about this item of a list."""
    kind, _, rest = key.partition(":")
    if kind == "k":
        return all(item.get(name, value) == value for name, value in _read(rest).items())
    return kind == "v" and bool(_read(rest) == item)


@lru_cache(maxsize=1024)
def _read(key: str) -> Any:
    """Not to be changed. The same few keys are in each object of a kind."""
    return json.loads(key)


def _exceeds(fields: JsonObject, others: JsonObject, live: Any, desired: Any) -> bool:
    """Whether an ownership tree has a field that the other one lacks and that is not as it should be."""
    return any(
        _exceeds(below, others[key], _at(key, live), _at(key, desired))
        if key in others
        else not _equals(_at(key, live), _at(key, desired))
        for key, below in fields.items()
        if key != "."
    )


def _at(key: str, live: Any) -> Any:
    kind, _, rest = key.partition(":")
    if kind == "f":
        return live.get(rest) if isinstance(live, dict) else None
    return next((item for item in live or [] if _names(key, item)), None)


def _equals(one: Any, other: Any) -> bool:
    """Equal but for empty fields, which typed clients add: KubeRay writes back all it read to set its finalizer."""
    if isinstance(one, dict) or isinstance(other, dict):
        left, right = one or {}, other or {}
        if not isinstance(left, dict) or not isinstance(right, dict):
            return False
        return all(_equals(left.get(key), right.get(key)) for key in left.keys() | right.keys())
    if isinstance(one, list) or isinstance(other, list):
        left, right = one or [], other or []
        return (
            isinstance(left, list)
            and isinstance(right, list)
            and len(left) == len(right)
            and all(map(_equals, left, right))
        )
    return bool(one == other) or (one in (None, "") and other in (None, ""))

"""Kubernetes events of an object of ours: one when a condition that people wait for changes, none otherwise.

Pure but for the budget, which bounds a flapping object as client-go's recorder does.
"""

from __future__ import annotations

from datetime import datetime

from conclave.api.reasons import ConditionType
from conclave.kubernetes.objects import JsonObject
from conclave_operator.kinds import AnyKind

COMPONENT = "conclave-operator"
BURST, REFILL_S = 25, 300.0
MOST_REMEMBERED = 10_000
"""Objects whose budgets are remembered before those are forgotten that are full again."""
LONGEST_MESSAGE = 1024


def build_events(item: JsonObject, status: JsonObject, now: datetime, of: AnyKind) -> list[JsonObject]:
    """For each reported condition whose status or reason differs from what the object showed before."""
    before, after = conditions_of(item.get("status")), conditions_of(status)
    is_stalled = after.get(ConditionType.STALLED, {}).get("status") == "True"
    events = []
    for kind in of.reported:
        old, new = before.get(kind), after.get(kind)
        if new is None or (old is not None and _state(old) == _state(new)):
            continue
        if old is None and kind == ConditionType.UPDATE_AVAILABLE and new["status"] == "False":
            continue
        if kind in of.informs and new["status"] != "False":
            continue  # each start of a pod, and each read that fails, makes one unknown first
        is_bad = new["status"] == "False" and _is_warned_of(kind, is_stalled, of)
        events.append(_event(item, new, "Warning" if is_bad else "Normal", now))
    return events


def conditions_of(status: object) -> dict[str, JsonObject]:
    """By type. Nothing is believed of a status that is there: anybody may have forged it."""
    listed = status.get("conditions") if isinstance(status, dict) else None
    conditions = listed if isinstance(listed, list) else []
    return {str(known["type"]): known for known in conditions if isinstance(known, dict) and "type" in known}


class Budget:
    """A token bucket for each object."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, uid: str, now_s: float) -> bool:
        """Whether one more event of this object may be recorded."""
        if len(self._left) >= MOST_REMEMBERED:  # objects come and go; a full bucket is as good as none
            full_before = now_s - BURST * REFILL_S
            self._left = {known: bucket for known, bucket in self._left.items() if bucket[1] > full_before}
        left, at = self._left.get(uid, (float(BURST), now_s))
        left = min(float(BURST), left + (now_s - at) / REFILL_S)
        self._left[uid] = (left - 1 if left >= 1 else left, now_s)
        return left >= 1


def _is_warned_of(kind: ConditionType, is_stalled: bool, of: AnyKind) -> bool:
    """Whether somebody has to act where it is false."""
    return kind in of.informs or (is_stalled and kind != ConditionType.UPDATE_AVAILABLE)


def _state(condition: JsonObject) -> tuple[object, object]:
    return condition.get("status"), condition.get("reason")


def _event(item: JsonObject, condition: JsonObject, kind: str, now: datetime) -> JsonObject:
    metadata = item["metadata"]
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    what = f"{condition['type']} is {condition['status']}: {condition.get('message', '')}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{int(now.timestamp() * 1e6):x}.{condition['type'].lower()}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": item["apiVersion"],
            "kind": item["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": kind,
        "reason": condition["reason"],
        "message": what if len(what) <= LONGEST_MESSAGE else f"{what[: LONGEST_MESSAGE - 1]}…",
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }

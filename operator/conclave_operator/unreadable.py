"""The status of a ModelDeployment that the types cannot read: one that an older or newer CRD let in."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import ConditionType, Reason
from conclave.observation import JsonObject
from conclave.policy.admission import explain

LONGEST_MESSAGE = 4096


def unreadable_status(item: JsonObject, error: ValidationError, now: datetime) -> JsonObject:
    """What the object showed before, with the three conditions that tell its owner what to change."""
    problems = "; ".join(map(str, explain(error, ModelDeployment)))
    message = f"this version of the operator cannot read the object: {problems}; correct these fields"[:LONGEST_MESSAGE]
    status = item.get("status") or {}
    before = {condition["type"]: condition for condition in status.get("conditions", [])}
    verdicts = {ConditionType.READY: "False", ConditionType.PLAN_READY: "False", ConditionType.STALLED: "True"}
    conditions = []
    for kind, verdict in verdicts.items():
        old = before.get(kind, {})
        since = old.get("lastTransitionTime") if old.get("status") == verdict else None
        conditions.append(
            {
                "type": kind.value,
                "status": verdict,
                "reason": Reason.INVALID_SPEC.value,
                "message": message,
                "observedGeneration": item["metadata"].get("generation", 0),
                "lastTransitionTime": since or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )
    kept = [condition for kind, condition in before.items() if kind not in verdicts]
    generation = item["metadata"].get("generation", 0)
    return {**status, "observedGeneration": generation, "conditions": [*conditions, *kept]}

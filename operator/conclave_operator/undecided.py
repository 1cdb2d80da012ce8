"""The status of an object for which a pass decided nothing: the types cannot read it, or the pass failed.

Called by `controller`. What the object showed before stays, but for the conditions that tell what has happened.
"""

from __future__ import annotations

from datetime import datetime
from types import TracebackType

from pydantic import ValidationError

from conclave.api.reasons import ConditionType, Reason
from conclave.kubernetes.objects import JsonObject
from conclave.policy.admission import explain
from conclave.visible_text import one_line
from conclave_operator.kinds import AnyKind
from conclave_operator.transitions import conditions_of
from conclave_operator.work_queue import LONGEST_RETRY_S

LONGEST_MESSAGE = 4096
_ACT = "; correct these fields"
LONGEST_LOGGED = 200
"""Characters of an exception's own words in the log: they may be anybody's."""


def unreadable_status(item: JsonObject, error: ValidationError, now: datetime, kind: AnyKind) -> JsonObject:
    """Of an object that an older or newer CRD let in: its owner is told what to change."""
    problems = "; ".join(map(str, explain(error, kind.model)))
    message = one_line(f"this version of the operator cannot read the object: {problems}", LONGEST_MESSAGE - len(_ACT))
    verdicts = {**dict.fromkeys(kind.unread, "False"), ConditionType.STALLED: "True"}
    return _with_verdicts(item, verdicts, Reason.INVALID_SPEC, message + _ACT, now)


def failed_status(item: JsonObject, error: Exception, now: datetime) -> JsonObject:
    """Of an object whose pass raised. Nobody has looked, so that Ready is unknown; whatever ran goes on.

    Equal for equal failures: the exception's own words, which may hold an address or a time, are in the log only.
    """
    metadata = item["metadata"]
    message = (
        f"{item.get('kind')} {metadata.get('namespace')}/{metadata.get('name')}: the operator failed while it looked "
        f"at this object and at what belongs to it ({type(error).__name__} in {place_of(error)}). What runs keeps "
        f"running. It is tried again, at the latest after {LONGEST_RETRY_S:.0f} s. The operator's log "
        "has the details under this name; please report them"
    )
    verdicts = {ConditionType.READY: "Unknown", ConditionType.RECONCILING: "False", ConditionType.STALLED: "True"}
    return _with_verdicts(item, verdicts, Reason.INTERNAL_ERROR, message, now)


def place_of(error: BaseException) -> str:
    """The innermost function of ours that was left."""
    return next((f"{module}.{function}" for module, function, _ in reversed(_frames(error))), "a library")


def described(error: BaseException) -> str:
    """One line for the log: type, words, and the lines of ours that led there, the innermost first."""
    steps = " < ".join(f"{module}.{function}:{line}" for module, function, line in reversed(_frames(error)[-6:]))
    return f"{type(error).__name__}: {one_line(str(error), LONGEST_LOGGED)} (in {steps or 'a library'})"


def _frames(error: BaseException) -> list[tuple[str, str, int]]:
    """Module, function and line of each frame of ours, the innermost last."""
    frames = []
    step: TracebackType | None = error.__traceback__
    while step is not None:
        module = str(step.tb_frame.f_globals.get("__name__", ""))
        if module.startswith("conclave"):
            frames.append((module, step.tb_frame.f_code.co_name, step.tb_lineno))
        step = step.tb_next
    return frames


def _with_verdicts(
    item: JsonObject, verdicts: dict[ConditionType, str], reason: Reason, message: str, now: datetime
) -> JsonObject:
    status = item["status"] if isinstance(item.get("status"), dict) else {}
    before = conditions_of(status)
    generation = item["metadata"].get("generation", 0)
    told = []
    for kind, verdict in verdicts.items():
        old = before.get(kind, {})
        since = old.get("lastTransitionTime") if old.get("status") == verdict else None
        told.append(
            {
                "type": kind.value,
                "status": verdict,
                "reason": reason.value,
                "message": message,
                "observedGeneration": generation,
                "lastTransitionTime": since or now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )
    kept = [condition for kind, condition in before.items() if kind not in verdicts]
    return {**status, "observedGeneration": generation, "conditions": [*told, *kept]}

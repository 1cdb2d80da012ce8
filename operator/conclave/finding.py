"""A finding: one fact that keeps an object from being as its spec wants it, with the remedy. Data from check to status.

Conditions, events and `conclave explain` render findings; nobody parses the rendered words.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from conclave.api.reasons import ConditionType, Reason

Status = Literal["True", "False", "Unknown"]


class Verdict(NamedTuple):
    """What a condition says."""

    status: Status
    reason: Reason
    message: str


class Finding(BaseModel):
    """One fact with its remedy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    condition: ConditionType
    """The condition that the fact makes false, besides Ready."""
    reason: Reason
    subject: str
    """The object that shows the fact, for instance `Pod llm/mixtral-8x7b-head-abcde`"""
    seen: str
    """The fact, with the value that was expected."""
    remedy: str = ""
    """What to do; empty where waiting is enough."""
    evidence: tuple[str, ...] = ()
    """Where the fact was seen, from the object down to the line."""
    is_stalled: bool = True
    """Whether somebody has to act before the object can make progress."""

    is_whole: bool = False
    """Whether `seen` is a whole message, as a condition has it."""

    @property
    def fact(self) -> str:
        """Object and fact."""
        return self.seen if self.is_whole else f"{self.subject}: {self.seen}"

    @property
    def message(self) -> str:
        """Object, fact, remedy."""
        return self.fact + (f"; {self.remedy}" if self.remedy else "")


def reported(condition: ConditionType, reason: str, subject: str, message: str) -> Finding:
    """A finding of which only its condition is known: the words stay whole, and nothing is read out of them."""
    return Finding(condition=condition, reason=Reason(reason), subject=subject, seen=message, is_whole=True)

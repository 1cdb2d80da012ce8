"""The contract of a part, `needs(scene) -> PartResult`: what one concern of a ModelDeployment needs, what blocks it.

`sync` asks every part and folds the results. What one step has found, later steps read from the scene.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from conclave.api.reasons import ConditionType, Reason
from conclave.catalogue.inspected import InspectedWeights
from conclave.finding import Finding
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.records.check import History
from conclave.modeldeployment.records.record import Keys, Record
from conclave.modeldeployment.scene import Scene
from conclave.planning.checks import Unfit, check_runtime
from conclave.planning.roles import Plan
from conclave.settings import OperatorSettings

_ONLY_EXPLAINS = ("events", "persistentvolumeclaims")
"""Resources that no decision depends on. A failed read of any other resource leaves everything unchanged."""


class PartResult(NamedTuple):
    """The objects that a part needs, and the finding that keeps it from being ready."""

    blocked_by: Finding | None = None
    """None: the part is ready."""
    create: tuple[JsonObject, ...] = ()
    apply: tuple[JsonObject, ...] = ()
    delete: tuple[JsonObject, ...] = ()


class Inspected(NamedTuple):
    """What the weights themselves say of a model that the catalogue does not know."""

    weights: InspectedWeights | None = None
    refusal: Finding | None = None
    """The files are there and no model can be planned from them."""
    job: JsonObject | None = None
    """The Job that has succeeded for these weights."""
    is_lost: bool = False
    """Whether no pod of that Job will ever report: a pod that is gone took its report along."""


class PartScene(Scene):
    """A scene with what was decided before, and what the earlier steps of this pass have found."""

    settings: OperatorSettings
    keys: Keys
    """Of the spec as it is now, computed once a pass."""
    history: History
    token: str = ""
    """A fresh random value, used only where the endpoint has no token yet."""
    inspected: Inspected = Inspected()
    plan: Plan | None = None
    """The plan of this spec; None before there is one."""
    refusal: Finding | None = None
    """Why there is no plan for this spec."""
    record: Record | None = None
    """What is to be served: the record of this spec, or of an older one that is kept; None where nothing is."""

    def knowing(self, **found: object) -> PartScene:
        """The scene with what a step has found. Facts that are resolved already are kept."""
        return self.model_copy(update=found)

    @cached_property
    def unlisted(self) -> tuple[Unfit, ...]:
        """What the operator's lists do not allow of the spec's image and service account."""
        return check_runtime(self.deployment, self.settings.runtime_lists)

    @property
    def current(self) -> Record | None:
        """The latest valid record, of this spec or of an earlier one."""
        return self.history.current

    @property
    def is_blind(self) -> bool:
        """Whether a read that decisions depend on has failed, so that an object is unknown, not absent."""
        return any(failure.resource not in _ONLY_EXPLAINS for failure in self.observed.failures)

    @property
    def is_in_doubt(self) -> bool:
        """Whether the running model may come from a refused record: no valid record is for this spec."""
        return bool(self.history.refused) and not (self.current and self.is_for_this_spec(self.current))

    def is_for_this_spec(self, record: Record) -> bool:
        """Whether the record describes the pods of the present spec."""
        return record.shape == self.keys.shape and self.asks_nothing_new(record)

    def asks_nothing_new(self, record: Record) -> bool:
        """Whether the record was made for the present value of the refresh annotation."""
        return self.keys.refresh in ("", record.refresh)

    def refuse(self, reason: Reason, message: str, remedy: str = "") -> Finding:
        """Why there is no plan for this spec."""
        return Finding(
            condition=ConditionType.PLAN_READY, reason=reason, subject=self.subject, seen=message, remedy=remedy
        )

    def objection(self, reason: Reason, message: str) -> Finding:
        """What the operator's lists do not allow, of what may run already."""
        return Finding(condition=ConditionType.WITHIN_POLICY, reason=reason, subject=self.subject, seen=message)

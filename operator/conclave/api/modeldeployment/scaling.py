"""`spec.scaling`: how many replicas serve, and from which load."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import TargetConcurrency
from conclave.api.rules import Message, OnlyNewValues, Rule

NO_SCALE_TO_ZERO = OnlyNewValues(
    Rule(
        "self != 0",
        lambda replicas: replicas != 0,
        Message(
            "minReplicas is 0, expected 1 or more: scaling to zero comes with a later version. "
            "Set scaling.minReplicas to 1, or stop all pods with spec.suspend: true"
        ),
    )
)
"""The schema of 0.1.0 allowed 0, so an object that was stored with 0 keeps it."""


class Scaling(ApiModel):
    """How many replicas serve the model, and at which load their number changes."""

    rules = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            Message(
                "minReplicas {minReplicas} is more than maxReplicas {maxReplicas}: "
                "raise scaling.maxReplicas to at least {minReplicas}, or lower scaling.minReplicas"
            ),
        ),
    )

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest replicas. `kubectl scale` sets this field. An object that version 0.1.0 stored with 0 keeps the 0."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Most replicas. `kubectl scale` to more is refused."""
    target_concurrency: TargetConcurrency = "auto"
    """Requests in flight that one replica should serve at a time. `auto` takes the number from the plan."""
    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900
    """Seconds of low load before a replica is removed."""

"""`spec.scaling`: how many replicas serve, and from which load."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import TargetConcurrency
from conclave.api.rules import Message, Rule


class Scaling(ApiModel):
    """How many replicas, and from which load."""

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
    """Floor of replicas, what `kubectl scale` sets; 0 scales to zero when idle."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Ceiling of replicas; `kubectl scale` beyond it is refused."""
    target_concurrency: TargetConcurrency = "auto"
    """Requests in flight that a replica should carry; `auto` takes it from the plan."""
    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900
    """Seconds of low load before a replica is taken away."""

"""The status of a ModelDeployment, which only the operator writes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.plan import Plan


class Condition(ApiModel):
    """A Kubernetes condition."""

    type: Annotated[str, Field(max_length=63)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    message: Annotated[str, Field(max_length=32768)] = ""
    observed_generation: Annotated[int, Field(ge=0)]
    last_transition_time: Annotated[str, Field(max_length=32)]


class Endpoint(ApiModel):
    """Address, model name and token of the model."""

    url: Annotated[str, Field(max_length=512)]
    model: Annotated[str, Field(max_length=96)]
    token_secret: Annotated[str, Field(max_length=253)]
    """Secret of the same namespace. Its key `token` has the token that clients send."""


class ModelDeploymentStatus(ApiModel):
    """What the operator observed. The operator never decides by it."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()
    plan: Plan | None = None
    replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that are wanted: scaling.minReplicas, or more when the load has asked for more pods."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that answer. Condition Scaled says what the other replicas wait for."""
    selector: Annotated[str, Field(max_length=512)] = ""
    endpoint: Endpoint | None = None

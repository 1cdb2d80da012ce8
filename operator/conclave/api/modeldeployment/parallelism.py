"""`spec.parallelism`: the sizes of parallel groups that the user fixes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.rules import Message, Rule


class Parallelism(ApiModel):
    """Sizes of parallel groups. The planner chooses a size that is left out and checks a size that is given."""

    rules = (
        Rule(
            "self.data == 1",
            lambda parallelism: parallelism.data == 1,
            Message("data {data} is not served yet: only 1 is allowed; scale with scaling.maxReplicas instead"),
        ),
    )

    tensor: Annotated[int, Field(ge=1, le=64)] | None = None
    """Tensor-parallel size."""
    pipeline: Annotated[int, Field(ge=1, le=64)] | None = None
    """Pipeline-parallel size."""
    data: Annotated[int, Field(ge=1, le=64)] = 1
    """Data-parallel size. Only 1 is served today."""
    expert_parallel: bool | None = None
    """Whether each tensor-parallel rank holds whole experts (true) or a slice of every expert (false)."""

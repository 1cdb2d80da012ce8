"""`spec.parallelism`: the sizes of parallel groups that the user fixes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.rules import Message, Rule


class Parallelism(ApiModel):
    """What is left out is planned, what is given is checked."""

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
    """Data-parallel size; only 1 is served today."""
    expert_parallel: bool | None = None
    """Whether experts are spread over the tensor-parallel ranks instead of being sliced."""

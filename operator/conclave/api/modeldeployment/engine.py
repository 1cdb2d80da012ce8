"""`spec.engine`: how vLLM runs the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.rules import Message, Rule


class Dtype(StrEnum):
    """Type of weights without quantization, and of activations."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Quantization(StrEnum):
    """`none` keeps what the checkpoint says; `fp8_per_tensor` quantizes at load, as does `fp8`, its older name."""

    NONE = "none"
    FP8_PER_TENSOR = "fp8_per_tensor"
    FP8 = "fp8"
    AWQ = "awq"
    GPTQ = "gptq"


class KvCacheDtype(StrEnum):
    """Type of the KV cache's entries."""

    AUTO = "auto"
    FP8 = "fp8"


def _at_most(values: Mapping[str, str], less: str, more: str) -> bool:
    """Whether two whole numbers are in order; what is no whole number is refused by the allowlist."""
    numbers = [values.get(name, "") for name in (less, more)]
    return not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers) or int(numbers[0]) <= int(numbers[1])


class Engine(ApiModel):
    """How vLLM runs the model; what is left out is planned."""

    rules = (
        Rule(
            "!has(self.extraArgs) || !('enable_auto_tool_choice' in self.extraArgs)"
            " || self.extraArgs['enable_auto_tool_choice'] != 'true' || 'tool_call_parser' in self.extraArgs",
            lambda engine: (
                engine.extra_args.get("enable_auto_tool_choice") != "true" or "tool_call_parser" in engine.extra_args
            ),
            Message("extraArgs: enable_auto_tool_choice is 'true' without a tool_call_parser: give one as well"),
        ),
        Rule(
            "!has(self.extraArgs) || !['max_num_seqs', 'max_num_batched_tokens'].all(name, name in self.extraArgs"
            " && self.extraArgs[name].matches('^[0-9]{1,9}$'))"
            " || int(self.extraArgs['max_num_seqs']) <= int(self.extraArgs['max_num_batched_tokens'])",
            lambda engine: _at_most(engine.extra_args, "max_num_seqs", "max_num_batched_tokens"),
            Message(
                "extraArgs: max_num_seqs {extraArgs.max_num_seqs} is more than max_num_batched_tokens "
                "{extraArgs.max_num_batched_tokens}: a step has at least one token of each sequence"
            ),
        ),
    )

    max_model_len: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """Longest prompt plus completion, in tokens."""
    dtype: Dtype = Dtype.AUTO
    quantization: Quantization = Quantization.NONE
    kv_cache_dtype: KvCacheDtype = KvCacheDtype.AUTO
    extra_args: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Further vLLM engine arguments, from the allowlist in docs/engine-arguments.md; values are strings."""
    env: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Environment of the engine's processes, from the allowlist in docs/engine-arguments.md."""

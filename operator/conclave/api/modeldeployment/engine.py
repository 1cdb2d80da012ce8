"""`spec.engine`: how vLLM runs the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.modeldeployment.speculative import Speculative, SpeculativeMethod
from conclave.api.rules import Message, Rule


class Dtype(StrEnum):
    """Type of weights that are not quantized, and of activations."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Quantization(StrEnum):
    """How weights are quantized. `none` keeps the checkpoint's own quantization. `fp8_per_tensor` quantizes while
    loading; `fp8` is its older name."""

    NONE = "none"
    FP8_PER_TENSOR = "fp8_per_tensor"
    FP8 = "fp8"
    AWQ = "awq"
    GPTQ = "gptq"


class KvCacheDtype(StrEnum):
    """Type of the entries of the KV cache."""

    AUTO = "auto"
    FP8 = "fp8"


def _at_most(values: Mapping[str, str], less: str, more: str) -> bool:
    """Whether two whole numbers are in order. The allowlist refuses a value that is no whole number."""
    numbers = [values.get(name, "") for name in (less, more)]
    return not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers) or int(numbers[0]) <= int(numbers[1])


class Engine(ApiModel):
    """How vLLM runs the model. The planner chooses what is left out."""

    rules = (
        Rule(
            "!has(self.extraArgs) || !('enable_auto_tool_choice' in self.extraArgs)"
            " || self.extraArgs['enable_auto_tool_choice'] != 'true' || 'tool_call_parser' in self.extraArgs",
            lambda engine: (
                engine.extra_args.get("enable_auto_tool_choice") != "true" or "tool_call_parser" in engine.extra_args
            ),
            Message(
                "extraArgs: enable_auto_tool_choice is 'true' without a tool_call_parser: set tool_call_parser too"
            ),
        ),
        Rule(
            "!has(self.extraArgs) || !['max_num_seqs', 'max_num_batched_tokens'].all(name, name in self.extraArgs"
            " && self.extraArgs[name].matches('^[0-9]{1,9}$'))"
            " || int(self.extraArgs['max_num_seqs']) <= int(self.extraArgs['max_num_batched_tokens'])",
            lambda engine: _at_most(engine.extra_args, "max_num_seqs", "max_num_batched_tokens"),
            Message(
                "extraArgs: max_num_seqs {extraArgs.max_num_seqs} is more than max_num_batched_tokens "
                "{extraArgs.max_num_batched_tokens}: a step has at least one token of each sequence. "
                "Lower max_num_seqs, or raise max_num_batched_tokens"
            ),
        ),
        Rule(
            "!has(self.speculative) || self.speculative.method != 'ngram' || !has(self.extraArgs)"
            " || !('async_scheduling' in self.extraArgs) || self.extraArgs['async_scheduling'] != 'true'",
            lambda engine: (
                engine.speculative is None
                or engine.speculative.method != SpeculativeMethod.NGRAM
                or engine.extra_args.get("async_scheduling") != "true"
            ),
            Message(
                "extraArgs: async_scheduling is 'true' beside speculative.method ngram, "
                "which vLLM cannot run together: remove async_scheduling"
            ),
        ),
    )

    max_model_len: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """Most tokens of a prompt and its completion together."""
    dtype: Dtype = Dtype.AUTO
    quantization: Quantization = Quantization.NONE
    kv_cache_dtype: KvCacheDtype = KvCacheDtype.AUTO
    speculative: Speculative | None = None
    """Drafts tokens, which the model then checks, for faster answers. Default: no drafts."""
    extra_args: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Further engine arguments of vLLM, from the allowlist in docs/engine-arguments.md. Values are strings."""
    env: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Environment variables of the engine's processes, from the allowlist in docs/engine-arguments.md."""

"""Which weight formats and types vLLM 0.32 has kernels for on an accelerator, without regard to memory.

The table is `get_min_capability` of `vllm/model_executor/layers/quantization`, compared in tests/serving.
Called by `evaluate.py` only.
"""

from __future__ import annotations

from conclave.api.modeldeployment import Dtype, KvCacheDtype
from conclave.catalogue.accelerators import Accelerator
from conclave.catalogue.modules import formats_in_use
from conclave.catalogue.shapes import ModelFacts, WeightFormat
from conclave.planning.settings import NO_FLOAT16, EngineSettings, has_bfloat16, kv_cache_type, weight_dtype

LEAST_CAPABILITY = {
    ("", "fp8"): 7.5,
    ("fp8", "fp8"): 7.5,
    ("modelopt", "fp8"): 8.0,
    ("compressed-tensors", "fp8"): 7.5,
    ("awq", "awq"): 7.5,
    ("gptq", "gptq"): 6.0,
    ("compressed-tensors", "packed"): 7.5,
    ("compressed-tensors", "int8"): 7.5,
    ("mxfp4", "mxfp4"): 8.0,
    ("mxfp8", "mxfp8"): 8.0,
    ("modelopt", "nvfp4"): 7.5,
    ("modelopt", "mxfp8"): 8.0,
    ("modelopt_mixed", "fp8"): 7.5,
    ("modelopt_mixed", "nvfp4"): 7.5,
    ("modelopt_mixed", "mxfp8"): 7.5,
    ("compressed-tensors", "nvfp4"): 7.5,
    ("compressed-tensors", "mxfp4"): 8.0,
    ("compressed-tensors", "mxfp8"): 7.5,
    ("quark", "fp8"): 8.9,
    ("quark", "int8"): 7.5,
    ("quark", "packed"): 7.0,
    ("auto-round", "gptq"): 6.0,
    ("auto-round", "awq"): 6.0,
}
"""CUDA compute capability that weights need, by what the checkpoint declares and the format that it comes to."""

_OLDEST_FOR_FP8_CACHE = 8.0


def kernel_refusal(
    facts: ModelFacts, settings: EngineSettings, weights: WeightFormat | None, accelerator: Accelerator
) -> str | None:
    """Why the accelerator has no kernel for these weights or types; None if it has one."""
    name = accelerator.name
    if settings.dtype is Dtype.BFLOAT16 and not has_bfloat16(accelerator):
        instead = "float32" if facts.model_type in NO_FLOAT16 else "float16"
        return f"{name} has no bfloat16; set engine.dtype to {instead}"
    if kv_cache_type(facts, settings) == "fp8" and not _has_fp8_cache(accelerator):
        asked = "" if settings.kv_cache_dtype is KvCacheDtype.FP8 else ", which the checkpoint asks for"
        return f"{name} has no fp8 KV cache{asked}"
    for matrices in formats_in_use(facts, weights):
        least = _least_capability(weights.declared if weights else "", matrices.method)
        if accelerator.vendor == "nvidia" and float(accelerator.compute) < least:
            return (
                f"{name} has no kernel for {matrices.method} weights, "
                f"which need compute capability {least}: it has {accelerator.compute}"
            )
        if accelerator.vendor == "amd" and matrices.method == "fp8" and accelerator.fp8 == "none":
            return f"{name} has no kernel for fp8 weights"
        is_run_in_float32 = weights is not None and weights.declared == "compressed-tensors"
        if not is_run_in_float32 and weight_dtype(facts, settings, accelerator) == "float32":
            return f"{matrices.method} weights are not run in float32, which engine.dtype {settings.dtype} is on {name}"
    return None


def _least_capability(declared: str, method: str) -> float:
    """Of spellings such as awq_marlin, which vLLM takes for the format itself, that of the format."""
    return LEAST_CAPABILITY.get((declared, method)) or LEAST_CAPABILITY[method, method]


def _has_fp8_cache(accelerator: Accelerator) -> bool:
    if accelerator.vendor == "amd":
        return accelerator.fp8 != "none"
    return float(accelerator.compute) >= _OLDEST_FOR_FP8_CACHE

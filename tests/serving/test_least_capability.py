"""The compute capabilities that the plan asks for are vLLM's, for every format that a config can declare."""

from __future__ import annotations

from importlib import import_module

import pytest

from conclave.planning.kernels import LEAST_CAPABILITY
from conclave.planning.settings import NO_FLOAT16

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch and others, while vLLM is imported
LAYERS = "vllm.model_executor.layers.quantization"
SCHEMES = f"{LAYERS}.compressed_tensors.schemes"
CLASSES = {
    ("", "fp8"): f"{LAYERS}.online.base.OnlineQuantizationConfig",
    ("fp8", "fp8"): f"{LAYERS}.fp8.Fp8Config",
    ("modelopt", "fp8"): f"{LAYERS}.modelopt.ModelOptFp8Config",
    ("compressed-tensors", "fp8"): f"{SCHEMES}.CompressedTensorsW8A16Fp8",  # what older cards fall back to
    ("awq", "awq"): f"{LAYERS}.auto_awq.AutoAWQConfig",
    ("gptq", "gptq"): f"{LAYERS}.auto_gptq.AutoGPTQConfig",
    ("compressed-tensors", "packed"): f"{SCHEMES}.CompressedTensorsWNA16",
    ("compressed-tensors", "int8"): f"{SCHEMES}.CompressedTensorsW8A8Int8",
    ("mxfp4", "mxfp4"): f"{LAYERS}.mxfp4.Mxfp4Config",
    ("modelopt", "nvfp4"): f"{LAYERS}.modelopt.ModelOptNvFp4Config",
    ("modelopt", "mxfp8"): f"{LAYERS}.modelopt.ModelOptMxFp8Config",
    ("mxfp8", "mxfp8"): f"{LAYERS}.modelopt.ModelOptMxFp8Config",
    ("modelopt_mixed", "fp8"): f"{LAYERS}.modelopt.ModelOptMixedPrecisionConfig",
    ("modelopt_mixed", "nvfp4"): f"{LAYERS}.modelopt.ModelOptMixedPrecisionConfig",
    ("modelopt_mixed", "mxfp8"): f"{LAYERS}.modelopt.ModelOptMixedPrecisionConfig",
    ("compressed-tensors", "nvfp4"): f"{SCHEMES}.CompressedTensorsW4A4Fp4",
    ("compressed-tensors", "mxfp4"): f"{SCHEMES}.CompressedTensorsW4A4Mxfp4",
    ("compressed-tensors", "mxfp8"): f"{SCHEMES}.CompressedTensorsW8A8Mxfp8",
    ("quark", "fp8"): f"{LAYERS}.quark.schemes.QuarkW8A8Fp8",
    ("quark", "int8"): f"{LAYERS}.quark.schemes.QuarkW8A8Int8",
    ("quark", "packed"): f"{LAYERS}.quark.schemes.QuarkW4A16Int4",
    ("auto-round", "gptq"): f"{LAYERS}.inc.INCConfig",
    ("auto-round", "awq"): f"{LAYERS}.inc.INCConfig",
}


@pytest.mark.parametrize("weights", CLASSES, ids="-".join)
def test_the_least_capability_is_vllms(weights: tuple[str, str]) -> None:
    module, _, name = CLASSES[weights].rpartition(".")
    assert getattr(import_module(module), name).get_min_capability() == round(10 * LEAST_CAPABILITY[weights])


def test_every_format_of_the_plan_is_compared() -> None:
    assert CLASSES.keys() == LEAST_CAPABILITY.keys()


def test_models_without_half_precision_are_vllms() -> None:
    assert import_module("vllm.config.model")._FLOAT16_NOT_SUPPORTED_MODELS.keys() == NO_FLOAT16

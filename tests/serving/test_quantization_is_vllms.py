"""What the readers know of quantization is what vLLM knows: its methods, its refusals, its KV cache, its modules.

vLLM's own functions judge the tables of `tests/quantization_cases.py`. No engine is started.
"""

from __future__ import annotations

from copy import deepcopy
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from tests.quantization_cases import KV_CACHES, MODULES, REFUSED_BY_VLLM, Config

from conclave.catalogue.architectures import blocks
from conclave.catalogue.architectures.quantization import compressed_tensors, modelopt
from conclave.catalogue.architectures.weight_format import DEPRECATED, NOT_PLANNED, READERS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch and others, while vLLM is imported
QUANTIZATION = "vllm.model_executor.layers.quantization"
CONVERTOR = "vllm.transformers_utils.model_arch_config_convertor"
AUTO_ROUND = "auto-round"
"""vLLM has this method under another name."""
CLASSES = {
    "qkv": "QKVParallelLinear",
    "output": "RowParallelLinear",
    "gate_up": "MergedColumnParallelLinear",
    "down": "RowParallelLinear",
    "experts": "RoutedExperts",
    "head": "ParallelLMHead",
}
NAMES = {
    "qkv": "self_attn.qkv_proj",
    "output": "self_attn.o_proj",
    "gate_up": "mlp.gate_up_proj",
    "down": "mlp.down_proj",
    "experts": "mlp.experts.0.gate_proj",
}
FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


def normalized(quantization: Config) -> Config:
    """The config as vLLM keeps it, with the method that it gives to a file beside config.json."""
    convertor = import_module(CONVERTOR).ModelArchConfigConvertorBase
    given = SimpleNamespace(quantization_config=deepcopy(quantization))
    kept: Config = convertor._normalize_quantization_config(None, given)
    return kept


def vllms(quantization: Config) -> Any:
    """vLLM's object for the config."""
    config = normalized(quantization)
    method = config["quant_method"]
    algorithm = str(config.get("quantization", config).get("quant_algo")).upper()
    if method.startswith("modelopt"):
        method = {"NVFP4": "modelopt_fp4", "MXFP8": "modelopt_mxfp8", "MIXED_PRECISION": "modelopt_mixed"}.get(
            algorithm.removeprefix("W4A16_"), method
        )
    method = "inc" if method == AUTO_ROUND else method
    return import_module(QUANTIZATION).get_quantization_config(method).from_config(config)


def test_every_method_of_vllm_is_read_refused_or_said_to_be_served() -> None:
    module = import_module(QUANTIZATION)
    assert set(module.DEPRECATED_QUANTIZATION_METHODS) == set(DEPRECATED)
    assert {*READERS, *NOT_PLANNED, *DEPRECATED} - {AUTO_ROUND} == set(module.QUANTIZATION_METHODS)


def test_the_enums_are_those_of_compressed_tensors() -> None:
    enums = import_module("compressed_tensors.quantization.quant_args")
    for enum, known in (
        (enums.QuantizationType, compressed_tensors.TYPES),
        (enums.QuantizationStrategy, compressed_tensors.STRATEGIES),
        (enums.ActivationOrdering, compressed_tensors.ORDERS),
        (enums.DynamicType, (compressed_tensors.DYNAMIC,)),
    ):
        assert {value.value for value in enum} == set(known)


def test_modelopts_algorithms_are_vllms() -> None:
    module = import_module(f"{QUANTIZATION}.modelopt")
    assert set(module.QUANT_ALGOS) == {*modelopt.ALGORITHMS, modelopt.MIXED}


@pytest.mark.parametrize("algorithm", [*modelopt.ALGORITHMS, modelopt.MIXED])
def test_a_file_beside_config_json_has_the_algorithms_that_vllm_takes_from_it(algorithm: str) -> None:
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algorithm}}
    if algorithm in modelopt.OLDER_ALGORITHMS:
        assert normalized(beside)["quant_method"].startswith("modelopt")
        return
    with pytest.raises(ValueError, match=f"Unknown ModelOpt quant algo: {algorithm}"):
        normalized(beside)


@pytest.mark.parametrize(("quantization", "reason"), REFUSED_BY_VLLM.values(), ids=REFUSED_BY_VLLM)
def test_vllm_refuses_what_the_readers_refuse_for_the_same_reason(quantization: Config, reason: str) -> None:
    with pytest.raises((ValueError, AssertionError, NotImplementedError, DeprecationWarning)) as refusal:
        vllms(quantization)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(("quantization", "expected"), KV_CACHES.values(), ids=KV_CACHES)
def test_the_kv_cache_is_the_one_that_vllm_takes_from_the_config(quantization: Config, expected: str) -> None:
    taken = import_module("vllm.utils.torch_utils").get_kv_cache_quant_algo_string(normalized(quantization))
    assert {None: "auto", "auto": "auto", "fp8_e4m3": "fp8", "nvfp4": "nvfp4"}[taken] == expected


@pytest.mark.parametrize(("quantization", "layer", "matrix", "expected"), MODULES.values(), ids=MODULES)
def test_vllm_converts_the_same_modules(
    quantization: Config, layer: int, matrix: str, expected: dict[str, Any] | None
) -> None:
    """`expected` is what compressed-tensors, AutoRound, GPTQ and ModelOpt say of the weights; None is unconverted."""
    config, method = vllms(quantization), normalized(quantization)["quant_method"]
    config.packed_modules_mapping = FUSED
    name = "lm_head" if matrix == "head" else f"model.layers.{layer}.{NAMES[matrix]}"
    module = type(CLASSES[matrix], (), {})()
    if method == "compressed-tensors":
        config._add_fused_moe_to_target_scheme_map()
        scheme = config.get_scheme_dict(module, name)
        found = None if scheme is None else scheme["weights"].model_dump()
    elif method == AUTO_ROUND:
        bits, group, _ = config.get_layer_config(module, name)
        found = None if bits == 16 else {"bits": bits, "group_size": group}
    elif method == "gptq":
        utils = import_module(f"{QUANTIZATION}.utils.gptq_utils")
        is_in_blocks = utils.is_layer_gptq_quantized(name, config.modules_in_block_to_quantize, FUSED)
        if utils.get_dynamic_override(config, name) is False or not is_in_blocks:
            found = None
        else:
            utils.override_config(config, name)
            found = {"bits": config.weight_bits, "group_size": config.group_size}
    elif "quantized_layers" in quantization:
        name = name.removesuffix(".0.gate_proj")
        algorithm = None if config.is_layer_excluded(name) else config._resolve_quant_algo(name)
        found = None if algorithm is None else {"quant_algo": algorithm}
    else:
        found = None if config.is_layer_excluded(name) else {"quant_algo": config.quant_method}
    assert (found is None) is (expected is None)
    assert {field: (found or {})[field] for field in expected or {}} == (expected or {})


CONTEXT_FIELDS = [*blocks.CONTEXT_FIELDS, "max_length", "context_length"]


@pytest.mark.parametrize("field", CONTEXT_FIELDS)
def test_the_fields_that_bound_a_context_are_vllms(field: str) -> None:
    convertor = import_module(CONVERTOR).ModelArchConfigConvertorBase
    given = SimpleNamespace(hf_text_config=SimpleNamespace(**{field: 5}))
    tokens, _ = convertor.derive_max_model_len_and_key(given)
    assert (tokens == 5) is (field in blocks.CONTEXT_FIELDS)

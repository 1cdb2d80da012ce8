"""A checkpoint's quantization is read module by module, as vLLM reads it, or refused with vLLM's reason."""

from __future__ import annotations

from typing import Any

import pytest
from tests.quantization_cases import (
    ATTENTION_IN_FP8,
    FP8,
    KV_CACHES,
    MLP_IN_INTEGERS,
    MODULES,
    NVFP4,
    PACKED,
    QUARK_CACHE,
    QUARK_FP8,
    REFUSED_BY_VLLM,
    TOKENS,
    auto_round,
    awq,
    compressed,
    gptq,
    group,
    modelopt_file,
    quark,
    quark_with_cache,
)

from conclave.catalogue.facts import read_config
from conclave.catalogue.modules import ModuleFormats, formats_in_use, head_format
from conclave.catalogue.quantization_file import with_quantization
from conclave.catalogue.shapes import Matrix, MatrixFormat, ModelFacts, WeightFormat
from conclave.errors import InvalidInput, NotServed

Config = dict[str, Any]
LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 1024,
}
PACKED_FORMAT = MatrixFormat(method="packed", bits=4, group=128)
FP8_FORMAT = MatrixFormat(method="fp8", per_channel=True)
NVFP4_FORMAT = MatrixFormat(method="nvfp4", bits=4, group=16, static_activations=True)
GPTQ_FORMAT = MatrixFormat(method="gptq", bits=4, group=128, zero_points=True)


def read(quantization: Config) -> ModelFacts:
    return read_config(LLAMA | {"quantization_config": quantization})


def weights_of(quantization: Config) -> WeightFormat:
    weights = read(quantization).weight_format
    assert weights is not None
    return weights


def format_of(quantization: Config, layer: int, matrix: Matrix) -> MatrixFormat | None:
    return ModuleFormats(weights_of(quantization)).of(layer, matrix)


WHOLE: dict[str, tuple[Config, MatrixFormat]] = {
    "fp8 a tensor": ({"quant_method": "fp8", "activation_scheme": "dynamic"}, MatrixFormat(method="fp8")),
    "fp8 in blocks": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
        MatrixFormat(method="fp8", block=(128, 128)),
    ),
    "AWQ": (awq(group_size=64), MatrixFormat(method="awq", bits=4, group=64, zero_points=True)),
    "AWQ as its first release wrote it": (
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True},
        MatrixFormat(method="awq", bits=4, group=128, zero_points=True),
    ),
    "GPTQ with one group, whose order changes nothing": (
        gptq(bits=8, group_size=-1, desc_act=True),
        MatrixFormat(method="gptq", bits=8, zero_points=True),
    ),
    "compressed-tensors' fp8": (compressed(group(["Linear"], FP8, TOKENS), format="float-quantized"), FP8_FORMAT),
    "compressed-tensors' fp8 in blocks": (
        compressed(group(["Linear"], FP8 | {"strategy": "block", "block_structure": [128, 128]}, TOKENS)),
        MatrixFormat(method="fp8", block=(128, 128)),
    ),
    "blocks as older files write them": (
        compressed(group(["Linear"], FP8 | {"strategy": "block", "block_structure": "64x128"}, TOKENS)),
        MatrixFormat(method="fp8", block=(64, 128)),
    ),
    "compressed-tensors' integers": (compressed(group(["Linear"], PACKED), format="pack-quantized"), PACKED_FORMAT),
    "integers with static order": (
        compressed(group(["Linear"], PACKED | {"actorder": "static"}), format="pack-quantized"),
        PACKED_FORMAT,
    ),
    "NVFP4's preset, whose inputs are scaled while it runs": (
        compressed(group(["Linear"], NVFP4, NVFP4 | {"dynamic": "local"}), format="nvfp4-pack-quantized"),
        NVFP4_FORMAT,
    ),
    "enums in capitals": (
        compressed(
            group(
                ["Linear"],
                NVFP4 | {"type": "FLOAT", "strategy": "TENSOR_GROUP"},
                NVFP4 | {"dynamic": "LOCAL"},
            )
        ),
        NVFP4_FORMAT,
    ),
    "NVFP4 beside 16-bit inputs": (
        compressed(group(["Linear"], NVFP4)),
        NVFP4_FORMAT.model_copy(update={"static_activations": False}),
    ),
    "a strategy that follows from the group": (
        compressed(group(["Linear"], {"num_bits": 4, "type": "int", "group_size": 64})),
        MatrixFormat(method="packed", bits=4, group=64),
    ),
    "a strategy that follows from a group of -1": (
        compressed(group(["Linear"], {"num_bits": 8, "type": "int", "group_size": -1, "symmetric": False})),
        MatrixFormat(method="packed", bits=8, zero_points=True),
    ),
    "8-bit integers": (
        compressed(group(["Linear"], FP8 | {"type": "int"}, TOKENS | {"type": "int"}), format="int-quantized"),
        MatrixFormat(method="int8", per_channel=True),
    ),
    "compressed-tensors' mxfp4": (
        compressed(group(["Linear"], {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32})),
        MatrixFormat(method="mxfp4", bits=4, group=32),
    ),
    "compressed-tensors' mxfp8": (
        compressed(
            group(
                ["Linear"],
                {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
            )
        ),
        MatrixFormat(method="mxfp8", bits=8, group=32),
    ),
    "compressed-tensors spelled with an underscore": (
        compressed(group(["Linear"], FP8, TOKENS)) | {"quant_method": "compressed_tensors"},
        FP8_FORMAT,
    ),
    "ModelOpt's fp8": (
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        MatrixFormat(method="fp8", static_activations=True),
    ),
    "ModelOpt's fp8 a channel": (
        {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
        FP8_FORMAT,
    ),
    "ModelOpt's fp8 in blocks, in small letters": (
        {"quant_method": "modelopt", "quant_algo": "fp8_pb_wo"},
        MatrixFormat(method="fp8", block=(128, 128)),
    ),
    "ModelOpt's NVFP4": ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"}, NVFP4_FORMAT),
    "ModelOpt's weights alone": ({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}, NVFP4_FORMAT),
    "ModelOpt's mxfp8": (
        {"quant_method": "modelopt", "quant_algo": "MXFP8"},
        MatrixFormat(method="mxfp8", bits=8, group=32),
    ),
    "MiniMax's mxfp8": ({"quant_method": "mxfp8"}, MatrixFormat(method="mxfp8", bits=8, group=32)),
    "Quark's fp8": (quark(QUARK_FP8), MatrixFormat(method="fp8", static_activations=True)),
    "Quark's fp8 a channel": (
        quark(
            {
                "weight": {"dtype": "fp8_e4m3", "qscheme": "per_channel"},
                "input_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_channel", "is_dynamic": True},
            }
        ),
        FP8_FORMAT,
    ),
    "Quark's fp8 with a KV cache in fp8": (
        quark_with_cache(QUARK_CACHE),
        MatrixFormat(method="fp8", static_activations=True),
    ),
    "Quark's integers": (
        quark({"weight": {"dtype": "int4", "qscheme": "per_group", "group_size": 128, "symmetric": True}}),
        MatrixFormat(method="packed", bits=4, group=128, zero_points=True),
    ),
    "AutoRound as GPTQ stores it": (auto_round(packing_format="auto_round:auto_gptq"), GPTQ_FORMAT),
    "AutoRound that does not say how it is stored": (auto_round(), GPTQ_FORMAT),
    "AutoRound as AWQ stores it": (
        auto_round(packing_format="auto_round:auto_awq", sym=False),
        MatrixFormat(method="awq", bits=4, group=128, zero_points=True),
    ),
}


@pytest.mark.parametrize(("quantization", "expected"), WHOLE.values(), ids=WHOLE)
def test_one_format_for_all_layers(quantization: Config, expected: MatrixFormat) -> None:
    facts = read(quantization)
    assert facts.weight_format is not None
    assert formats_in_use(facts, facts.weight_format) == (expected,)


@pytest.mark.parametrize(("quantization", "layer", "matrix", "expected"), MODULES.values(), ids=MODULES)
def test_a_format_for_each_module(quantization: Config, layer: int, matrix: Matrix, expected: Config | None) -> None:
    found = format_of(quantization, layer, matrix)
    if expected is None:
        assert found is None
        return
    assert found is not None
    bits = expected.get("num_bits") or expected.get("bits") or {"FP8": 8, "NVFP4": 4}[expected["quant_algo"]]
    assert (found.bits, found.group) == (bits, expected.get("group_size", found.group))


SINGLE: dict[str, tuple[Config, int, Matrix, MatrixFormat | None]] = {
    "a name inside a multimodal model": (
        compressed(group(["Linear"], PACKED), ignore=["model.language_model.layers.1.mlp.down_proj"]),
        1,
        "down",
        None,
    ),
    "GPTQ's head": (gptq(lm_head=True), 0, "head", GPTQ_FORMAT),
    "GPTQ without a head": (gptq(), 0, "head", None),
    "AWQ's exception": (awq(modules_to_not_convert=["model.layers.0.mlp.down_proj"]), 0, "down", None),
    "Quark's exception": (quark(QUARK_FP8, exclude=["re:.*mlp.*", "lm_head"]), 0, "down", None),
    "Quark's scheme for some modules": (
        quark(
            {"weight": {"dtype": "int4", "group_size": 128, "symmetric": True}},
            layer_quant_config={"*o_proj": QUARK_FP8},
        ),
        0,
        "output",
        MatrixFormat(method="fp8", static_activations=True),
    ),
    "experts of gpt-oss": ({"quant_method": "mxfp4"}, 0, "experts", MatrixFormat(method="mxfp4", bits=4, group=32)),
    "attention of gpt-oss": ({"quant_method": "mxfp4"}, 0, "qkv", None),
}


@pytest.mark.parametrize(("quantization", "layer", "matrix", "expected"), SINGLE.values(), ids=SINGLE)
def test_a_format_for_a_module_of_other_tools(
    quantization: Config, layer: int, matrix: Matrix, expected: MatrixFormat | None
) -> None:
    assert format_of(quantization, layer, matrix) == expected


def test_the_order_of_groups_that_do_not_overlap_changes_nothing() -> None:
    one, other = (
        weights_of(compressed(*groups))
        for groups in ([ATTENTION_IN_FP8, MLP_IN_INTEGERS], [MLP_IN_INTEGERS, ATTENTION_IN_FP8])
    )
    matrices: tuple[Matrix, ...] = ("qkv", "output", "gate_up", "down", "head")
    for matrix in matrices:
        assert ModuleFormats(one).of(0, matrix) == ModuleFormats(other).of(0, matrix)


def test_a_checkpoint_may_convert_the_kv_cache_alone() -> None:
    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}
    facts = read(compressed(kv_cache_scheme=scheme))
    assert facts.weight_format is not None
    assert facts.weight_format.kv_cache == "fp8"
    assert formats_in_use(facts, facts.weight_format) == ()
    assert head_format(facts, facts.weight_format) is None


@pytest.mark.parametrize(("quantization", "reason"), REFUSED_BY_VLLM.values(), ids=REFUSED_BY_VLLM)
def test_what_vllm_refuses_is_refused_with_its_reason(quantization: Config, reason: str) -> None:
    with pytest.raises(NotServed) as refusal:
        read(quantization)
    assert "vLLM 0.32 refuses this checkpoint: " in str(refusal.value)
    assert reason in str(refusal.value)


REFUSED_BY_MODEL: dict[str, tuple[Config, str]] = {
    "a method that vLLM dropped": ({"quant_method": "bitsandbytes"}, "Unknown quantization method: bitsandbytes"),
    "no method at all": ({"bits": 4}, "quant_method is missing"),
    "fbgemm's fp8": (
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        "The quantization method fbgemm_fp8 is deprecated and will be removed in future versions of vLLM.",
    ),
    "fp_quant": ({"quant_method": "fp_quant"}, "The quantization method fp_quant is deprecated"),
    "a fused matrix of which one part stays": (
        compressed(group(["Linear"], FP8, TOKENS), ignore=["re:.*k_proj"]),
        "self_attn.q_proj, self_attn.k_proj, self_attn.v_proj of layer 0 have different formats",
    ),
    "NVFP4 weights with fp8 inputs": (
        compressed(group(["Linear"], NVFP4, TOKENS)),
        "For NVFP4 weights, input quantization must also be NVFP4 format",
    ),
    "asymmetric fp8": (
        compressed(group(["Linear"], FP8 | {"symmetric": False}, TOKENS)),
        "No compressed-tensors compatible scheme was found",
    ),
    "fp8 in groups": (
        compressed(group(["Linear"], FP8 | {"strategy": "group", "group_size": 128}, TOKENS)),
        "No compressed-tensors compatible scheme was found",
    ),
    "a KV cache of integers": (
        compressed(group(["Linear"], FP8, TOKENS), kv_cache_scheme={"num_bits": 8, "type": "int"}),
        "Currently supported kv cache quantization is num_bits=8, type=float, however received num_bits=8, type=int",
    ),
    "a KV cache with zero points": (
        compressed(
            group(["Linear"], FP8, TOKENS),
            kv_cache_scheme={"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": False},
        ),
        "Only support symmetric scaling factor for compressed-tensors KV cache.",
    ),
    "a file beside config.json with a mixture": (
        modelopt_file(quant_algo="MIXED_PRECISION", quantized_layers={"model.layers.0.mlp": {"quant_algo": "FP8"}}),
        "hf_quant_config.json: quantization: vLLM 0.32 refuses this checkpoint: Unknown ModelOpt quant algo",
    ),
    "a file beside config.json of another tool": (
        {"producer": {"name": "other"}, "quantization": {"quant_algo": "FP8"}},
        "the producer 'other' is not modelopt",
    ),
    "AutoRound of asymmetric weights": (
        auto_round(sym=False),
        "INC quantization with bits=4, sym=False is not supported.",
    ),
    "Quark's KV cache of integers": (
        quark_with_cache(QUARK_FP8 | {"output_tensors": {"dtype": "int8", "qscheme": "per_tensor"}}),
        "Currently supported kv cache quantization is dtype=fp8_e4m3, however received int8",
    ),
    "Quark's KV cache with a scale a channel": (
        quark_with_cache(QUARK_FP8 | {"output_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_channel"}}),
        "Only support per-tensor scaling factor for quark KV cache.",
    ),
    "Quark with converted outputs": (
        quark(QUARK_FP8 | {"output_tensors": {"dtype": "fp8_e4m3"}}),
        "Currently, Quark models with output_tensors and bias quantized are not supported",
    ),
}
"""What vLLM refuses in other places than the class of the method, or only where it builds the module."""


@pytest.mark.parametrize(("quantization", "reason"), REFUSED_BY_MODEL.values(), ids=REFUSED_BY_MODEL)
def test_what_vllm_refuses_later_is_refused_now(quantization: Config, reason: str) -> None:
    with pytest.raises(NotServed) as refusal:
        read(quantization)
    assert reason in str(refusal.value)


NOT_PLANNED: dict[str, tuple[Config, str]] = {
    "a method without a reader": ({"quant_method": "torchao"}, "quantization method torchao"),
    "integers of odd width": (
        compressed(group(["Linear"], PACKED | {"num_bits": 3}), format="pack-quantized"),
        "compressed-tensors' 3-bit int, symmetric, strategy group of 128",
    ),
    "AutoRound of two bits": (auto_round(bits=2), "AutoRound's 2-bit weights"),
    "AutoRound's floats": (auto_round(data_type="mx_fp", group_size=32), "AutoRound's data_type mx_fp"),
    "Quark's mxfp4": (
        quark({"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}, "input_tensors": None}),
        "Quark's fp4 weights",
    ),
}


@pytest.mark.parametrize(("quantization", "what"), NOT_PLANNED.values(), ids=NOT_PLANNED)
def test_what_vllm_serves_and_no_reader_knows_is_said_to_be_that(quantization: Config, what: str) -> None:
    with pytest.raises(NotServed) as refusal:
        read(quantization)
    assert f"vLLM 0.32 serves {what}" in str(refusal.value)
    assert str(refusal.value).endswith("; this release of Conclave does not plan it yet")


NONSENSE: dict[str, tuple[Config, str]] = {
    "a strategy that does not exist": (
        compressed(group(["Linear"], FP8 | {"strategy": "row"}, TOKENS)),
        "weights: strategy is 'row'; expected one of tensor, channel, group, block, token, tensor_group, attn_head",
    ),
    "a dynamic that does not exist": (
        compressed(group(["Linear"], NVFP4, NVFP4 | {"dynamic": "global"})),
        "input_activations: dynamic is 'global'; expected true, false or 'local'",
    ),
    "a group of no size": (
        compressed(group(["Linear"], PACKED | {"group_size": None})),
        "group_size is None; expected a size above 0 for the strategy group",
    ),
    "a group without weights": (
        compressed({"targets": ["Linear"]}),
        "config_groups: group_0: weights is missing; expected an object",
    ),
    "fp8 blocks of one size": (
        compressed(group(["Linear"], FP8 | {"strategy": "block", "block_structure": "128"}, TOKENS)),
        "block_structure is '128'; expected two sizes",
    ),
    "a target that is no regular expression": (
        compressed(group(["re:("], FP8, TOKENS)),
        "config_groups: group_0: targets is ['re:(']; expected names, globs or regular expressions",
    ),
    "a list for layers": (
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": ["model.layers.0"]},
        "quantized_layers is ['model.layers.0']; expected an object",
    ),
}


@pytest.mark.parametrize(("quantization", "words"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_by_name(quantization: Config, words: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read(quantization)
    assert not isinstance(refusal.value, NotServed)
    assert words in str(refusal.value)


@pytest.mark.parametrize(("quantization", "expected"), KV_CACHES.values(), ids=KV_CACHES)
def test_the_kv_cache_that_a_checkpoint_asks_for(quantization: Config, expected: str) -> None:
    assert weights_of(quantization).kv_cache == expected


BESIDE: dict[str, tuple[Config, Config, Config]] = {
    "a config that says nothing takes all of the file": (
        {},
        modelopt_file(quant_algo="FP8"),
        {"quantization_config": modelopt_file(quant_algo="FP8")},
    ),
    "null says nothing": (
        {"quantization_config": None},
        modelopt_file(quant_algo="FP8"),
        {"quantization_config": modelopt_file(quant_algo="FP8")},
    ),
    "a config of its own is above the file": (
        {"quantization_config": gptq()},
        modelopt_file(quant_algo="FP8"),
        {"quantization_config": gptq()},
    ),
    "a mixture without layers takes them and their exceptions": (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}},
        modelopt_file(quant_algo="MIXED_PRECISION", exclude_modules=["lm_head"], quantized_layers={"a": {}}),
        {
            "quantization_config": {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"a": {}},
                "ignore": ["lm_head"],
            }
        },
    ),
}


@pytest.mark.parametrize(("config", "beside", "expected"), BESIDE.values(), ids=BESIDE)
def test_a_file_beside_config_json(config: Config, beside: Config, expected: Config) -> None:
    assert with_quantization(config, beside) == expected


def test_a_file_beside_config_json_that_quantizes_nothing() -> None:
    assert read(modelopt_file(quant_algo=None, kv_cache_quant_algo="FP8")).weight_format is None

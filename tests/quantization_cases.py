"""What quantization configs mean, and which of them vLLM refuses: tables that unit tests and vLLM's own classes judge.

`tests/unit/catalogue/test_quantization.py` holds the reader to them, `tests/serving/test_quantization_is_vllms.py`
vLLM: an answer that only the reader gives would be an invention.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]


def group(targets: list[str], weights: Config, inputs: Config | None = None, **more: Any) -> Config:
    return {"targets": targets, "weights": weights, "input_activations": inputs, **more}


def compressed(*groups: Config, **more: Any) -> Config:
    named = {f"group_{index}": one for index, one in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "config_groups": named, **more}


def gptq(**changes: Any) -> Config:
    given = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True} | changes
    return {name: value for name, value in given.items() if value is not ...}


def awq(**changes: Any) -> Config:
    given = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True} | changes
    return {name: value for name, value in given.items() if value is not ...}


def auto_round(**changes: Any) -> Config:
    return {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True} | changes


def modelopt_file(**quantization: Any) -> Config:
    """As hf_quant_config.json holds it."""
    return {"producer": {"name": "modelopt", "version": "0.23.0"}, "quantization": quantization}


def quark(scheme: Config, **more: Any) -> Config:
    export = {"kv_cache_group": [], "pack_method": "reorder"}
    usual = {"exclude": [], "export": export, "layer_quant_config": {}, "layer_type_quant_config": {}}
    return {"quant_method": "quark", "global_quant_config": scheme} | usual | more


PACKED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
TOKENS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
QUARK_FP8 = {
    "weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": False},
    "input_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_tensor", "is_dynamic": False},
}

QUARK_CACHE = QUARK_FP8 | {"output_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}


def quark_with_cache(scheme: Config, name: str = "*_proj") -> Config:
    """As AMD publishes models with an fp8 KV cache."""
    export = {"kv_cache_group": ["*k_proj", "*v_proj"], "pack_method": "reorder"}
    layers = {name.replace("_", f"{part}_"): scheme for part in "kv"}
    return quark(QUARK_FP8, export=export, exclude=["lm_head"], layer_quant_config=layers)


REFUSED_BY_VLLM: dict[str, tuple[Config, str]] = {
    "asymmetric GPTQ": (gptq(sym=False), "Unsupported quantization config: bits=4, sym=False"),
    "GPTQ that does not say whether it is symmetric": (gptq(sym=...), "Cannot find any of ['sym']"),
    "GPTQ that does not say whether it is ordered": (gptq(desc_act=...), "Cannot find any of ['desc_act']"),
    "GPTQ without the size of its groups": (gptq(group_size=...), "Cannot find any of ['group_size']"),
    "GPTQ of a width without a kernel": (gptq(bits=3), "Unsupported quantization config: bits=3, sym=True"),
    "GPTQ with groups in the order of activations": (
        gptq(desc_act=True),
        "GPTQ group activation ordering (desc_act=True) is no longer supported.",
    ),
    "AWQ of a width without a kernel": (awq(bits=8), "Unsupported num_bits = 8. Supported: 4"),
    "AWQ that does not say whether it has zero points": (awq(zero_point=...), "Cannot find any of ['zero_point']"),
    "fp8 without an activation scheme": ({"quant_method": "fp8"}, "Cannot find any of ['activation_scheme']"),
    "fp8 of an unknown activation scheme": (
        {"quant_method": "fp8", "activation_scheme": "lazy"},
        "Unsupported activation scheme lazy",
    ),
    "fp8 blocks with stored input scales": (
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": [128, 128]},
        "The block-wise quantization only supports dynamic activation scheme for now, but got static",
    ),
    "compressed-tensors in the order of activations": (
        compressed(group(["Linear"], PACKED | {"actorder": "group"}), format="pack-quantized"),
        "Compressed-tensors group/dynamic activation ordering",
    ),
    "an order that is only said to be there": (
        compressed(group(["Linear"], PACKED | {"actorder": True}), format="pack-quantized"),
        "Compressed-tensors group/dynamic activation ordering",
    ),
    "sparse weights": (
        compressed(group(["Linear"], FP8, TOKENS), sparsity_config={"format": "dense", "targets": ["Linear"]}),
        "Sparsity support has been removed from compressed-tensors.",
    ),
    "ModelOpt without an algorithm": ({"quant_method": "modelopt"}, "Missing 'quant_algo' in quantization config"),
    "ModelOpt's algorithm for another engine": (
        {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"},
        "ModelOpt currently only supports: ",
    ),
    "a mixture that lists no layers": (
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
        "MIXED_PRECISION quant_algo requires a non-empty 'quantized_layers' mapping in the quantization config.",
    ),
    "a file beside config.json without what NVFP4 needs": (
        modelopt_file(quant_algo="NVFP4", exclude_modules=[]),
        "NVFP4 quantization requires the following fields in hf_quant_config.json: "
        "['group_size', 'kv_cache_quant_algo']",
    ),
    "Quark's config that was not exported": (
        {"quant_method": "quark", "global_quant_config": QUARK_FP8, "exclude": []},
        "The export key should be included in the configurations of Quark quantized model",
    ),
    "Quark's KV cache without its layers": (
        quark_with_cache(QUARK_CACHE, "*_other"),
        "The Quark quantized model has the kv_cache_group parameter setting, but no kv_cache quantization settings "
        "were found",
    ),
    "Quark's KV cache without a type": (
        quark_with_cache(QUARK_FP8 | {"output_tensors": None}),
        "The kv_cache quantization configuration is empty.",
    ),
    "AutoRound of a format for llama.cpp": (
        auto_round(packing_format="auto_round:auto_other"),
        "packing_format",
    ),
    "AutoRound without a width": (
        {"quant_method": "auto-round", "group_size": 128},
        "Cannot find any of ['bits'] in the model's quantization config.",
    ),
}
"""Configs that vLLM's class for their method refuses, and words of its reason."""

KV_CACHES: dict[str, tuple[Config, str]] = {
    "ModelOpt's older spelling": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        "fp8",
    ),
    "ModelOpt's spelling beside config.json": (modelopt_file(quant_algo="FP8", kv_cache_quant_algo="FP8"), "fp8"),
    "ModelOpt's newer spelling": (
        {
            "quant_method": "modelopt",
            "quant_algo": "FP8",
            "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        },
        "fp8",
    ),
    "the newer spelling as a word": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": "FP8"},
        "fp8",
    ),
    "the newer spelling where both are there": (
        {
            "quant_method": "modelopt",
            "quant_algo": "FP8",
            "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
            "kv_cache_quant_algo": "INT8",
        },
        "fp8",
    ),
    "scales that are made while it runs": (
        {
            "quant_method": "modelopt",
            "quant_algo": "FP8",
            "kv_cache_scheme": {"dynamic": True, "num_bits": 8, "type": "float"},
        },
        "auto",
    ),
    "a type that vLLM does not know": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "INT8"},
        "auto",
    ),
    "four bits": (
        {"quant_method": "modelopt_fp4", "quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"},
        "nvfp4",
    ),
    "four bits in the newer spelling": (
        {
            "quant_method": "modelopt_fp4",
            "quant_algo": "NVFP4",
            "kv_cache_scheme": {"num_bits": 4, "type": "float"},
        },
        "nvfp4",
    ),
    "null": ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": None}, "auto"),
    "another tool's field of that name": (
        {"quant_method": "fp8", "activation_scheme": "static", "kv_cache_scheme": "static"},
        "auto",
    ),
}
"""Configs, and the type of the KV cache that vLLM takes from them where the user says none."""

ATTENTION_IN_FP8 = group(["re:.*self_attn.*"], FP8, TOKENS)
MLP_IN_INTEGERS = group(["re:.*mlp.*"], PACKED)
IN_FP8, IN_INTEGERS = {"num_bits": 8, "type": "float"}, {"num_bits": 4, "type": "int"}
MIXED_LAYERS = {
    "quant_method": "modelopt",
    "quant_algo": "MIXED_PRECISION",
    "ignore": ["model.layers.1.self_attn*"],
    "quantized_layers": {
        "model.layers.0.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.0.self_attn.o_proj": {"quant_algo": "FP8"},
        "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.layers.0.self_attn.k_proj": {"quant_algo": "FP8"},
        "model.layers.0.self_attn.v_proj": {"quant_algo": "FP8"},
        "model.layers.1.self_attn.o_proj": {"quant_algo": "FP8"},
    },
}
MODULES: dict[str, tuple[Config, int, str, Config | None]] = {
    "one group's module": (compressed(ATTENTION_IN_FP8, MLP_IN_INTEGERS), 2, "output", IN_FP8),
    "one group's fused module": (compressed(ATTENTION_IN_FP8, MLP_IN_INTEGERS), 2, "qkv", IN_FP8),
    "another group's module": (compressed(ATTENTION_IN_FP8, MLP_IN_INTEGERS), 2, "down", IN_INTEGERS),
    "what no target names": (compressed(MLP_IN_INTEGERS), 2, "qkv", None),
    "experts that are named": (compressed(group(["re:.*mlp.experts.*"], PACKED)), 1, "experts", IN_INTEGERS),
    "attention beside named experts": (compressed(group(["re:.*mlp.experts.*"], PACKED)), 1, "qkv", None),
    "experts as linear layers": (compressed(group(["Linear"], PACKED)), 1, "experts", IN_INTEGERS),
    "the class in small letters": (compressed(group(["linear"], PACKED)), 1, "down", IN_INTEGERS),
    "ignored experts": (
        compressed(group(["Linear"], FP8, TOKENS), ignore=[r"re:.*model\.layers\.\d+\.mlp\.experts\.\d+\..*"]),
        1,
        "experts",
        None,
    ),
    "the first of two targets that match": (
        compressed(group(["re:.*layers.[23].mlp.*"], FP8, TOKENS), MLP_IN_INTEGERS),
        3,
        "down",
        IN_FP8,
    ),
    "the second where the first does not match": (
        compressed(group(["re:.*layers.[23].mlp.*"], FP8, TOKENS), MLP_IN_INTEGERS),
        1,
        "down",
        IN_INTEGERS,
    ),
    "a name before the class of all": (
        compressed(group(["Linear"], PACKED), group(["re:.*down_proj"], FP8, TOKENS)),
        0,
        "down",
        IN_FP8,
    ),
    "the class of all beside a name": (
        compressed(group(["Linear"], PACKED), group(["re:.*down_proj"], FP8, TOKENS)),
        0,
        "gate_up",
        IN_INTEGERS,
    ),
    "what is ignored, whatever names it": (
        compressed(ATTENTION_IN_FP8, MLP_IN_INTEGERS, ignore=["re:.*layers\\.2\\..*"]),
        2,
        "down",
        None,
    ),
    "a whole name": (compressed(group(["model.layers.1.mlp.down_proj"], PACKED)), 1, "down", IN_INTEGERS),
    "a whole name is not for other layers": (
        compressed(group(["model.layers.1.mlp.down_proj"], PACKED)),
        2,
        "down",
        None,
    ),
    "whole names of all parts of a fused module": (
        compressed(group([f"model.layers.1.self_attn.{part}_proj" for part in "qkv"], PACKED)),
        1,
        "qkv",
        IN_INTEGERS,
    ),
    "attention's own group, which says nothing of weights": (
        compressed(group(["LlamaAttention"], FP8, TOKENS), MLP_IN_INTEGERS),
        1,
        "qkv",
        None,
    ),
    "the head, where it is named": (compressed(group(["re:.*self_attn.*", "lm_head"], FP8, TOKENS)), 0, "head", IN_FP8),
    "the head, which is no linear layer": (compressed(group(["Linear"], FP8, TOKENS)), 0, "head", None),
    "ModelOpt's head, where it is not excluded": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": []},
        0,
        "head",
        {"quant_algo": "NVFP4"},
    ),
    "ModelOpt's head, where it is excluded": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
        0,
        "head",
        None,
    ),
    "ModelOpt's star": (
        modelopt_file(
            quant_algo="NVFP4", group_size=16, kv_cache_quant_algo=None, exclude_modules=["model.layers.1.self_attn*"]
        ),
        1,
        "output",
        None,
    ),
    "another layer than ModelOpt's star": (
        modelopt_file(
            quant_algo="NVFP4", group_size=16, kv_cache_quant_algo=None, exclude_modules=["model.layers.1.self_attn*"]
        ),
        2,
        "output",
        {"quant_algo": "NVFP4"},
    ),
    "a mixture's experts": (MIXED_LAYERS, 0, "experts", {"quant_algo": "NVFP4"}),
    "a mixture's module": (MIXED_LAYERS, 0, "output", {"quant_algo": "FP8"}),
    "a mixture's fused module": (MIXED_LAYERS, 0, "qkv", {"quant_algo": "FP8"}),
    "what a mixture does not list": (MIXED_LAYERS, 1, "down", None),
    "what a mixture lists and excludes": (MIXED_LAYERS, 1, "output", None),
    "GPTQ's rule for what stays": (gptq(dynamic={"-:.*attn.*": {}, "lm_head": {}}), 0, "qkv", None),
    "a rule whose value nobody reads": (gptq(dynamic={"-:.*attn.*": True}), 0, "qkv", None),
    "GPTQ beside such a rule": (gptq(dynamic={"-:.*attn.*": {}}), 0, "down", {"bits": 4, "group_size": 128}),
    "GPTQ's rule for other bits": (
        gptq(dynamic={r"+:.*\.layers\.1\..*": {"bits": 8, "group_size": 64}}),
        1,
        "down",
        {"bits": 8, "group_size": 64},
    ),
    "the first of GPTQ's rules": (
        gptq(dynamic={r".*down_proj": {"bits": 8}, "-:.*mlp.*": {}}),
        1,
        "down",
        {"bits": 8, "group_size": 128},
    ),
    "GPTQ of some blocks": (
        gptq(modules_in_block_to_quantize=[["mlp.down_proj"]]),
        0,
        "down",
        {"bits": 4, "group_size": 128},
    ),
    "GPTQ of other blocks": (gptq(modules_in_block_to_quantize=[["mlp.down_proj"]]), 0, "output", None),
    "AutoRound's exception": (
        auto_round(extra_config={"model.layers.1.mlp.down_proj": {"bits": 16, "data_type": "float"}}),
        1,
        "down",
        None,
    ),
    "AutoRound's exception in a short name": (auto_round(extra_config={"o_proj": {"bits": 16}}), 1, "output", None),
    "AutoRound's exception by a pattern, anywhere in a name": (
        auto_round(extra_config={r"mlp\.(down|other)": {"bits": 16}}),
        1,
        "down",
        None,
    ),
    "a whole name above a pattern": (
        auto_round(extra_config={".*down_proj": {"bits": 16}, "model.layers.1.mlp.down_proj": {"bits": 8}}),
        1,
        "down",
        {"bits": 8, "group_size": 128},
    ),
    "AutoRound's other bits": (
        auto_round(extra_config={"model.layers.1.self_attn.o_proj": {"bits": 8}}),
        1,
        "output",
        {"bits": 8, "group_size": 128},
    ),
    "AutoRound of some blocks": (
        auto_round(block_name_to_quantize="model.layers.0,model.layers.1"),
        2,
        "output",
        None,
    ),
}
"""Configs, a layer's matrix, and what vLLM's config says of its weights: None is unconverted."""

"""A checkpoint with several formats is planned with each of them: bytes, kernels, parallel sizes, KV cache."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.quantization_cases import FP8, PACKED, QUARK_FP8, TOKENS, Config, compressed, group, quark

from conclave.catalogue.facts import read_config
from conclave.catalogue.shapes import ModelFacts
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.layout import Layout
from conclave.planning.parallelism import refusals
from conclave.planning.settings import EngineSettings, kv_cache_type
from conclave.planning.weights import weight_bytes

LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2880,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
}
LATENT: Config = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_hidden_layers": 4,
}
BLOCKS = FP8 | {"strategy": "block", "block_structure": [128, 128]}
V100, A100, H100 = "Tesla-V100-SXM2-32GB", "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3"


def facts_of(quantization: Config | None, config: Config = LLAMA) -> ModelFacts:
    return read_config(config if quantization is None else config | {"quantization_config": quantization})


def bytes_of(quantization: Config | None) -> int:
    facts = facts_of(quantization)
    return sum(weight_bytes(facts, Layout(), "bfloat16", facts.weight_format))


def outcome(quantization: Config, product: str) -> Fit | Misfit:
    return evaluate(facts_of(quantization), EngineSettings(), Device.of(product, 0), Layout())


ATTENTION_ELEMENTS, MLP_ELEMENTS = 4 * 4 * 1024 * 1024, 4 * 3 * 1024 * 2880
BYTES: dict[str, tuple[Config, float]] = {
    "fp8 attention alone": (compressed(group(["re:.*self_attn.*"], FP8, TOKENS)), ATTENTION_ELEMENTS),
    "4-bit networks alone": (compressed(group(["re:.*mlp.*"], PACKED)), 1.5 * MLP_ELEMENTS),
    "each in its own": (
        compressed(group(["re:.*mlp.*"], PACKED), group(["re:.*self_attn.*"], FP8, TOKENS)),
        ATTENTION_ELEMENTS + 1.5 * MLP_ELEMENTS,
    ),
    "a head": (compressed(group(["lm_head"], FP8, TOKENS)), 1024 * 1024),
}


@pytest.mark.parametrize(("quantization", "saved"), BYTES.values(), ids=BYTES)
def test_only_what_is_converted_is_smaller(quantization: Config, saved: float) -> None:
    """Scales take the rest: 4 bytes a column in fp8, and 2 bytes a group of 128 in 4 bits."""
    assert bytes_of(None) - bytes_of(quantization) == pytest.approx(saved, rel=0.015)


MATRICES = ("self_attn.[qkv]_proj", "self_attn.o_proj", "mlp.(gate|up)_proj", "mlp.down_proj")
SCHEMES: dict[str, tuple[Config, Config | None]] = {
    "fp8": (FP8, TOKENS),
    "int8": (FP8 | {"type": "int"}, TOKENS | {"type": "int"}),
    "4 bits": (PACKED, None),
    "8 bits": (PACKED | {"num_bits": 8}, None),
}


@given(st.dictionaries(st.sampled_from(MATRICES), st.sampled_from(sorted(SCHEMES)), min_size=1), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_disjoint_groups_changes_no_byte(chosen: dict[str, str], random: Any) -> None:
    groups = [group([f"re:.*{matrix}$"], *SCHEMES[scheme]) for matrix, scheme in chosen.items()]
    shuffled = random.sample(groups, len(groups))
    assert bytes_of(compressed(*groups)) == bytes_of(compressed(*shuffled))


@given(st.lists(st.sampled_from(MATRICES), unique=True), st.sampled_from(MATRICES))
@settings(max_examples=40, deadline=None)
def test_what_is_ignored_never_makes_weights_smaller(ignored: list[str], one_more: str) -> None:
    def ignoring(names: list[str]) -> int:
        return bytes_of(compressed(group(["Linear"], PACKED), ignore=[f"re:.*{name}$" for name in names]))

    assert ignoring([]) <= ignoring(ignored) <= ignoring([*ignored, one_more]) <= bytes_of(None)


REFUSED_SIZES: dict[str, tuple[Config, str | None]] = {
    "groups that a cut goes through": (
        compressed(group(["Linear"], PACKED)),
        "a feed-forward share of 1440 is no multiple of the quantization group of 128",
    ),
    "groups of other matrices": (compressed(group(["re:.*self_attn.*"], PACKED)), None),
    "groups along inputs that are not cut": (compressed(group(["re:.*(gate|up)_proj"], PACKED)), None),
    "blocks that a cut goes through": (
        compressed(group(["Linear"], BLOCKS, TOKENS)),
        "a feed-forward share of 1440 is no multiple of the fp8 block of 128",
    ),
    "blocks of other matrices": (compressed(group(["Linear"], BLOCKS, TOKENS), ignore=["re:.*mlp.*"]), None),
}


@pytest.mark.parametrize(("quantization", "reason"), REFUSED_SIZES.values(), ids=REFUSED_SIZES)
def test_a_tensor_size_is_refused_for_the_matrices_that_have_the_format(
    quantization: Config, reason: str | None
) -> None:
    facts = facts_of(quantization)
    assert refusals(facts, Layout(tensor=2), facts.weight_format) == ((reason,) if reason else ())


KERNELS: dict[str, tuple[Config, str, str]] = {
    "the second of two formats": (
        quark(
            QUARK_FP8,
            layer_quant_config={"*o_proj": {"weight": {"dtype": "int4", "group_size": 128, "symmetric": True}}},
        ),
        A100,
        "A100-80GB has no kernel for fp8 weights, which need compute capability 8.9: it has 8.0",
    ),
    "both of two formats": (
        compressed(group(["re:.*mlp.*"], PACKED), group(["re:.*self_attn.*"], FP8, TOKENS)),
        V100,
        "V100-32GB has no kernel for fp8 weights",
    ),
}


@pytest.mark.parametrize(("quantization", "product", "reason"), KERNELS.values(), ids=KERNELS)
def test_each_format_needs_its_kernel(quantization: Config, product: str, reason: str) -> None:
    found = outcome(quantization, product)
    assert isinstance(found, Misfit)
    assert found.reason.startswith(reason)


def test_a_format_that_no_module_has_needs_no_kernel() -> None:
    unused = compressed(group(["re:.*mlp.*"], PACKED), group(["re:.*vision.*"], FP8, TOKENS))
    assert isinstance(outcome(unused, A100), Fit)


SCHEME = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}


def test_latent_attention_takes_no_kv_cache_from_compressed_tensors() -> None:
    quantization = compressed(group(["Linear"], FP8, TOKENS), kv_cache_scheme=SCHEME)
    assert kv_cache_type(facts_of(quantization), EngineSettings()) == "fp8"
    assert kv_cache_type(facts_of(quantization, LATENT), EngineSettings()) == "auto"


def test_latent_attention_takes_its_kv_cache_from_modelopt() -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
    assert kv_cache_type(facts_of(quantization, LATENT), EngineSettings()) == "fp8"

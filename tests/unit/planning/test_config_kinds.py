"""Kinds of config.json that were misread, by a small example of each; and hostile ones, which cost next to nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from conclave.catalogue.facts import read_config
from conclave.catalogue.measured import measure
from conclave.errors import ConclaveError, NotPlanned
from conclave.planning.layout import Layout
from conclave.planning.weights import weight_bytes

Config = dict[str, Any]
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
COHERE = LLAMA | {"architectures": ["CohereForCausalLM"], "model_type": "cohere"}
GPTQ: Config = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
BLOCKS: Config = {"num_bits": 8, "type": "float", "strategy": "block", "symmetric": True}


def dynamic(*patterns: str) -> Config:
    """Rules of two formats in turn, which are compiled one by one."""
    rules = {f"{'-+'[index % 2]}:{pattern}": {"bits": 8} if index % 2 else {} for index, pattern in enumerate(patterns)}
    return LLAMA | {"quantization_config": GPTQ | {"dynamic": rules}}


def blocks(size: str) -> Config:
    group = {"targets": ["Linear"], "weights": BLOCKS | {"block_structure": size}}
    return LLAMA | {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}}


REFUSED: dict[str, tuple[Config, str]] = {
    "a layer without key heads": (COHERE | {"num_key_value_heads": [0, 8, 8, 8]}, "expected at least 1 in layer 0"),
    "a layer without heads": (COHERE | {"num_attention_heads": [8, 0, 8, 8]}, "expected at least 1 in layer 1"),
    "a list of types": (COHERE | {"model_type": ["a"]}, "model_type is ['a']; expected a string"),
    "an object of types": (COHERE | {"model_type": {}}, "model_type is {}; expected a string"),
    "a size of thousands of digits": (blocks("9" * 5000 + "x128"), "expected two sizes"),
    "counted repetitions": (dynamic(*(rf"\w{{200}}{number}" for number in range(60))), "repeat 400 times"),
    "a count of thousands of digits": (dynamic("a{" + "9" * 5000 + "}"), "repeat 999999 times"),
    "a class of all of Unicode": (dynamic(r"\p{L}"), r"has \p, which stands for all of Unicode"),
    "a name of thousands of characters": (COHERE | {"architectures": ["A" * 5000]}, "vLLM 0.32 has no such class"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_config_is_refused_in_few_words(config: Config, message: str) -> None:
    with pytest.raises(ConclaveError) as refused:
        read_config(config)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_what_vllm_matches_and_this_release_cannot_is_no_fault_of_the_file() -> None:
    with pytest.raises(NotPlanned, match="look-around"):
        read_config(dynamic(r"model\.layers\.(?!0\.).*"))


@pytest.mark.parametrize(
    "pattern", [r"model\.layers\.\d+\.mlp.*", r"model\.layers\.[\d]\.mlp\.[\w.]+", r"\S+\.mlp\.\w+"]
)
def test_escaped_classes_mean_the_same_in_ascii(pattern: str) -> None:
    facts = read_config(LLAMA | {"quantization_config": GPTQ | {"dynamic": {f"-:{pattern}": {}}}})
    whole, half = (weight_bytes(facts, Layout(), "bfloat16", given)[0] for given in (None, facts.weight_format))
    attention, network = 4 * 4 * 1024 * 1024, 4 * 3 * 1024 * 2880
    assert whole - half == pytest.approx(1.5 * attention, rel=0.02)
    assert whole > 2 * (attention + network)


def test_counts_within_counts_are_read_where_their_expression_stays_small() -> None:
    assert read_config(dynamic(r"(\w{100}){100}")).weight_format is not None


class _Tensor(NamedTuple):
    dtype: str = "BF16"
    shape: tuple[int, ...] = (1024, 1024)
    size_bytes: int = 2**21


def test_a_tensors_number_of_thousands_of_digits_is_none() -> None:
    names = [f"transformer.h.{index}.a.weight" for index in range(2)]
    found = measure({name: _Tensor() for name in (*names, f"transformer.h.{'9' * 4400}.a.weight")}, 2)
    assert found.tensors == 3


class Kind(NamedTuple):
    config: Config
    parameters: int | None
    context_tokens: int


KINDS: dict[str, Kind] = {
    "a width that is called n_embed": Kind(
        {
            "architectures": ["BloomForCausalLM"],
            "model_type": "bloom",
            "n_embed": 1024,
            "n_layer": 4,
            "num_attention_heads": 8,
            "vocab_size": 1024,
            "seq_length": 2048,
        },
        4 * 12 * 1024 * 1024 + 1024 * 1024,
        2048,
    ),
    "a decoder that stands where no default does": Kind(
        {
            "architectures": ["DeepseekVLV2ForCausalLM"],
            "model_type": "deepseek_vl_v2",
            "language_config": LLAMA
            | {
                "architectures": ["DeepseekV2ForCausalLM"],
                "model_type": "deepseek_v2",
                "use_mla": False,
                "kv_lora_rank": None,
                "v_head_dim": 0,
                "qk_nope_head_dim": 0,
                "qk_rope_head_dim": 0,
                "n_routed_experts": None,
                "max_position_embeddings": 4096,
            },
        },
        None,  # its encoders count too
        4096,
    ),
    "a network that is narrower than its field says": Kind(
        LLAMA
        | {
            "architectures": ["Lfm2ForCausalLM"],
            "model_type": "lfm2",
            "block_ff_dim": 3840,
            "block_auto_adjust_ff_dim": True,
            "block_multiple_of": 256,
            "layer_types": ["full_attention"] * 4,
            "tie_word_embeddings": True,
        },
        4 * (4 * 1024 * 1024 + 3 * 1024 * 2560) + 1024 * 1024,
        2048,
    ),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_that_was_misread_has_its_size_and_context(kind: Kind) -> None:
    facts = read_config(kind.config)
    assert (facts.hidden, len(facts.layers), facts.context_tokens) == (1024, 4, kind.context_tokens)
    if kind.parameters is not None:
        assert weight_bytes(facts, Layout(), "bfloat16", None)[0] == pytest.approx(2 * kind.parameters, rel=0.03)

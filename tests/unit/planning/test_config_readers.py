"""A config.json is read as vLLM reads it, or refused with the field, what it holds and what it should hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conclave.catalogue.facts import known_architectures, read_config
from conclave.catalogue.modules import ModuleFormats, layer_formats
from conclave.catalogue.shapes import (
    FormatRule,
    GroupedAttention,
    LatentAttention,
    Matrix,
    MatrixFormat,
    WeightFormat,
)
from conclave.errors import ConclaveError, InvalidInput, NotPlanned, UnknownModel

TINY: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "serving" / "tiny_configs.yaml").read_text()
)
MIXTRAL, LLAMA = TINY["mixtral"], TINY["llama"]

BAD = [
    ("no architecture", {"architectures": None}, InvalidInput, "architectures is None; expected a list"),
    ("an empty list of architectures", {"architectures": []}, InvalidInput, "architectures"),
    ("an architecture that nobody knows", {"architectures": ["RwkvForCausalLM"]}, UnknownModel, "'RwkvForCausalLM'"),
    (
        "zero heads",
        {"num_attention_heads": 0},
        InvalidInput,
        "num_attention_heads is 0; expected a whole number from 1",
    ),
    ("negative layers", {"num_hidden_layers": -1}, InvalidInput, "num_hidden_layers is -1"),
    ("a million layers", {"num_hidden_layers": 1_000_000}, InvalidInput, "at most 256 layers"),
    ("a string for a number", {"hidden_size": "128"}, InvalidInput, "hidden_size is '128'"),
    ("a float for a whole number", {"hidden_size": 128.0}, InvalidInput, "hidden_size is 128.0"),
    ("true for a number", {"vocab_size": True}, InvalidInput, "vocab_size is True"),
    ("a number beyond all models", {"vocab_size": 10**15}, InvalidInput, "vocab_size is 1000000000000000"),
    ("a missing field", {"intermediate_size": None}, InvalidInput, "intermediate_size is None"),
    ("key-value heads that do not divide heads", {"num_key_value_heads": 3}, InvalidInput, "a divisor of"),
    ("more experts a token than there are", {"num_experts_per_tok": 9}, InvalidInput, "at most num_local_experts (4)"),
    (
        "a heads' size that does not divide",
        {"hidden_size": 130},
        InvalidInput,
        "hidden_size is 130; expected a multiple",
    ),
    ("a type that does not exist", {"torch_dtype": "int3"}, InvalidInput, "torch_dtype is 'int3'"),
    ("a text for a flag", {"tie_word_embeddings": "no"}, InvalidInput, "tie_word_embeddings is 'no'; expected true"),
    ("a list for an object", {"rope_scaling": [1]}, InvalidInput, "rope_scaling is [1]; expected an object"),
    (
        "a scaling that leaves no position",
        {"rope_scaling": {"rope_type": "linear", "factor": 1e-9}},
        InvalidInput,
        "rope_scaling: factor is 1e-09; expected a factor that leaves some of",
    ),
    (
        "more layers than any model",
        {"num_hidden_layers": 257},
        InvalidInput,
        "num_hidden_layers is 257; expected at most",
    ),
    (
        "an exception of Python's own regular expressions",
        {
            "quantization_config": {
                "quant_method": "fp8",
                "activation_scheme": "dynamic",
                "ignored_layers": ["re:b(?!a)"],
            }
        },
        NotPlanned,
        "vLLM 0.32 serves patterns with look-around or back-references in 'ignored_layers'; this release of Conclave "
        "does not plan it yet",
    ),
    (
        "an exception that needs much memory",
        {
            "quantization_config": {
                "quant_method": "fp8",
                "activation_scheme": "dynamic",
                "ignored_layers": [r"re:(\w{1000}){1000}"],
            }
        },
        InvalidInput,
        "expected names, globs or regular expressions",
    ),
    (
        "exceptions beyond measure",
        {
            "quantization_config": {
                "quant_method": "fp8",
                "activation_scheme": "dynamic",
                "ignored_layers": ["*a"] * 10_000,
            }
        },
        InvalidInput,
        "its patterns have 20000 characters, expected at most 16384",
    ),
    (
        "an exception that is no regular expression",
        {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["re:("]}},
        InvalidInput,
        "ignored_layers is ['re:(']",
    ),
    (
        "fp8 blocks of one size",
        {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128]}},
        InvalidInput,
        "weight_block_size is [128]; expected two sizes",
    ),
    ("layer types for another number of layers", {"layer_types": ["full_attention"]}, InvalidInput, "layer_types"),
]


@pytest.mark.parametrize(("changes", "error", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_nonsense_is_refused_by_name(changes: dict[str, Any], error: type[ConclaveError], words: str) -> None:
    with pytest.raises(error) as refusal:
        read_config(MIXTRAL | changes)
    assert words in str(refusal.value)


def test_what_only_the_shape_as_a_whole_can_tell_is_refused_as_well() -> None:
    config = TINY["llama4-vision"] | {
        "vision_config": TINY["llama4-vision"]["vision_config"] | {"pixel_shuffle_ratio": 3}
    }
    with pytest.raises(InvalidInput, match=r"config\.json: pixel_shuffle_ratio is 3\.0; expected: .* 1"):
        read_config(config)


def test_an_architecture_that_the_engine_lacks_is_refused_with_that_reason() -> None:
    with pytest.raises(UnknownModel, match=r"'RwkvForCausalLM': vLLM 0\.32 has no such class"):
        read_config(MIXTRAL | {"architectures": ["RwkvForCausalLM"]})


@pytest.mark.parametrize("name", TINY)
def test_every_tiny_config_is_read(name: str) -> None:
    facts = read_config(TINY[name])
    assert TINY[name]["architectures"][0] in known_architectures()
    assert facts.layers
    assert facts.rotary


def test_transformers_5_spelling_of_phi_moe_is_read_as_vllms_class() -> None:
    facts = read_config(TINY["phimoe"] | {"architectures": ["PhimoeForCausalLM"]})
    assert facts.architecture == "PhiMoEForCausalLM"


ABSENT = [
    ("Qwen 3 has heads of 128 whatever its width", "Qwen3ForCausalLM", "qwen3", {"hidden_size": 1024}, 32, 128),
    ("Qwen 3's mixture has no size of its own", "Qwen3MoeForCausalLM", "qwen3_moe", {}, 4, 64),
    ("Gemma 2 has heads of 256", "Gemma2ForCausalLM", "gemma2", {}, 4, 256),
    ("gpt-oss has heads of 64", "GptOssForCausalLM", "gpt_oss", {}, 8, 64),
    ("MiniMax-M2 has heads of 128", "MiniMaxM2ForCausalLM", "minimax_m2", {}, 8, 128),
    ("Mixtral has 8 key-value heads", "MixtralForCausalLM", "mixtral", {}, 8, 128),
    ("Llama has as many as heads", "LlamaForCausalLM", "llama", {"num_attention_heads": 16}, 16, 256),
    ("null is not absent", "MixtralForCausalLM", "mixtral", {"num_key_value_heads": None}, 32, 128),
]


@pytest.mark.parametrize(
    ("architecture", "model_type", "given", "kv_heads", "head_dim"),
    [row[1:] for row in ABSENT],
    ids=[row[0] for row in ABSENT],
)
def test_an_absent_field_is_what_transformers_takes_it_for(
    architecture: str, model_type: str, given: dict[str, Any], kv_heads: int, head_dim: int
) -> None:
    attention = read_config({"architectures": [architecture], "model_type": model_type} | given).attention
    assert isinstance(attention, GroupedAttention)
    assert (attention.kv_heads, attention.head_dim) == (kv_heads, head_dim)


def test_deepseek_3_compresses_its_queries_unless_its_config_says_null() -> None:
    config: dict[str, Any] = {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}
    facts = read_config(config)
    assert [layer.moe is None for layer in facts.layers[:5]] == [True, True, True, False, False]
    assert isinstance(facts.attention, LatentAttention)
    assert facts.attention.query_rank == 1536
    plain = read_config(config | {"q_lora_rank": None}).attention
    assert isinstance(plain, LatentAttention)
    assert plain.query_rank is None


def test_the_older_name_of_a_rope_scaling_stands_instead_of_gpt_oss_default() -> None:
    config = {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "max_position_embeddings": 1024}
    assert read_config(config).rotary[0].positions == 4096 * 32
    assert read_config(config | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}).rotary[0].positions == 2048


def test_a_mixture_that_transformers_5_saved_names_its_experts_otherwise() -> None:
    config = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_local_experts": 16}
    moe = read_config(config).moe
    assert moe is not None
    assert moe.experts == 16


def test_latent_attention_is_told_from_grouped() -> None:
    assert isinstance(read_config(TINY["deepseek-v3"]).attention, LatentAttention)
    assert isinstance(read_config(LLAMA).attention, GroupedAttention)


def test_windows_alternate() -> None:
    windows = [layer.attention.window_tokens for layer in read_config(TINY["gpt-oss"]).layers]  # type: ignore[union-attr]
    assert windows == [128, None, 128, None]


def test_a_window_in_mistrals_config_holds_for_all_layers() -> None:
    windows = {layer.attention.window_tokens for layer in read_config(TINY["mistral"]).layers}  # type: ignore[union-attr]
    assert windows == {256}


def test_yarn_holds_the_original_positions_times_its_factor() -> None:
    (table,) = read_config(TINY["gpt-oss"]).rotary
    assert (table.positions, table.dtype) == (128 * 32, "float32")


def test_longrope_holds_a_short_and_a_long_table() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}
    config = TINY["phi3"] | {"max_position_embeddings": 4096, "rope_scaling": scaling}
    (table,) = read_config(config).rotary
    assert table.positions == 4096 + 512


SCALED_CONTEXTS = [
    ("linear scaling comes on top", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 2048),
    ("dynamic scaling as well", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 1024),
    ("a factor of null is none", {"rope_scaling": {"type": "dynamic", "factor": None}}, 512),
    ("Llama 3's scaling is in the positions already", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 512),
    ("YaRN is in the positions already", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, 512),
    ("LongRoPE is in the positions already", {"rope_scaling": {"type": "longrope", "factor": 4.0}}, 512),
    (
        "scaling of one of several tables counts",
        {"rope_parameters": {"full": {"rope_type": "linear", "factor": 4.0}, "sliding": {"rope_type": "default"}}},
        2048,
    ),
    ("the smallest of several fields", {"max_sequence_length": 128}, 128),
    ("a larger field changes nothing", {"seq_length": 1024}, 512),
    ("scaling counts for the smallest", {"seq_len": 128, "rope_scaling": {"type": "linear", "factor": 2.0}}, 256),
    ("model_max_length is above the others, larger or smaller", {"model_max_length": 1024, "seq_length": 128}, 1024),
    ("null is no limit", {"max_seq_len": None}, 512),
]


@pytest.mark.parametrize(
    ("given", "expected"), [row[1:] for row in SCALED_CONTEXTS], ids=[row[0] for row in SCALED_CONTEXTS]
)
def test_context_is_what_vllm_allows(given: dict[str, Any], expected: int) -> None:
    assert read_config(LLAMA | given).context_tokens == expected


def test_gemmas_scaling_is_in_its_positions() -> None:
    scaled = TINY["gemma3"] | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert read_config(scaled).context_tokens == TINY["gemma3"]["max_position_embeddings"]


EXCLUDED = [
    ("a whole module", "model.layers.3.self_attn", 3, "qkv", True),
    ("another layer's module", "model.layers.3.self_attn", 30, "qkv", False),
    ("one matrix", "model.layers.0.mlp.down_proj", 0, "down", True),
    ("not its neighbour", "model.layers.0.mlp.down_proj", 0, "gate_up", False),
    ("a bare name", "o_proj", 7, "output", True),
    ("the head, which is no layer's", "lm_head", 0, "down", False),
    ("a pattern", "re:.*self_attn.*", 5, "output", True),
    ("a router is not an expert", "re:.*mlp.gate$", 5, "experts", False),
    ("a star", "model.layers.*.self_attn", 5, "qkv", True),
    ("a name as weights have it", "model.layers.5.self_attn.o_proj.weight", 5, "output", True),
    ("a run of a name's parts", "5.self_attn", 5, "qkv", True),
    ("half a part", "elf_attn", 5, "qkv", False),
    ("a name inside a multimodal model", "language_model.model.layers.5.mlp", 5, "down", True),
    ("all but the experts, which an attention is", "re:^(?!.*experts).*$", 5, "qkv", True),
    ("all but the experts, which they are not", "re:^(?!.*experts).*$", 5, "experts", False),
    ("all but what a class and a group name", r"re:(?!.*[(]|.*mlp\.(down|experts)).*", 5, "down", False),
    ("all of a layer but what a group names", r"re:^(?!.*mlp\.(down|up)).*layers\.5\..*", 5, "output", True),
    ("another layer than that", r"re:^(?!.*mlp\.(down|up)).*layers\.5\..*", 4, "output", False),
    ("nothing", "", 5, "down", False),
    ("half a character", "re:\ud800.*", 5, "down", False),
    ("a star with a dot and a dash", "model.layers.5-*.self_attn", 5, "qkv", False),
    ("an alternative of one pattern only", "re:a|.*mlp", 5, "down", True),
    ("optional parts without end", "re:" + ".?" * 40 + "Z", 5, "qkv", False),
    ("alternatives without end", "re:" + "(|.|..)" * 40 + "Z", 5, "qkv", False),
    ("repeated repetitions", "re:" + "(.*)*" * 40 + "Z", 5, "qkv", False),
    ("stars without end", "*" * 1000 + "Z", 5, "qkv", False),
    ("a star is not for other modules", "model.layers.*.self_attn", 5, "experts", False),
]


@pytest.mark.parametrize(
    ("pattern", "layer", "module", "expected"), [row[1:] for row in EXCLUDED], ids=[row[0] for row in EXCLUDED]
)
def test_modules_that_stay_unconverted(pattern: str, layer: int, module: Matrix, expected: bool) -> None:
    stays = FormatRule(names=(pattern,), format=None)
    formats = ModuleFormats(WeightFormat(rules=(stays, FormatRule(format=MatrixFormat(method="fp8")))))
    assert (formats.of(layer, module) is None) is expected


def test_all_but_the_experts_means_the_names_that_the_architecture_has() -> None:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    quantization = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["re:^(?!.*experts).*$"]}
    facts = read_config(MIXTRAL | {"quantization_config": quantization})
    for _, formats in layer_formats(facts, facts.weight_format):
        assert {matrix for matrix, found in formats.items() if found is not None} == {"experts"}

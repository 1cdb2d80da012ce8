"""Plans of architectures that no reader knows: sizes of ranks by bound, margins, caches of hybrid models."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from conclave.catalogue.facts import read_config
from conclave.catalogue.measured import Amount, MeasuredLayer, MeasuredWeights, StoredTotal
from conclave.catalogue.shapes import ModelFacts
from conclave.errors import InvalidInput
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.kv_cache import kv_cache
from conclave.planning.layout import Layout
from conclave.planning.parallelism import refusals, tensor_sizes
from conclave.planning.settings import EngineSettings, block_tokens, weight_format
from conclave.planning.weights import weight_bytes

CONFIGS = Path(__file__).parents[2] / "data/architectures"
GIB = 2**30
M = 10**6
DENSE: dict[str, Any] = {
    "architectures": ["CohereForCausalLM"],
    "model_type": "cohere",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 16384,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
LAYER = MeasuredLayer(
    matrices=Amount(floats=160 * M),
    fused=Amount(floats=36 * M),
    keys_values=Amount(floats=8 * M),
    whole=Amount(floats=M, other_bytes=M),
)
MEASURED = MeasuredWeights(
    layers=(LAYER,) * 4,
    embedding=Amount(floats=1000 * M),
    head=Amount(floats=200 * M),
    whole=Amount(floats=2 * M),
    encoders=Amount(floats=300 * M),
    tensors=40,
)


def public(name: str, **changed: Any) -> ModelFacts:
    return read_config(json.loads((CONFIGS / name).read_text(encoding="utf-8")) | changed)


RANKS = [
    ("one rank holds all", Layout(), 4 * (205 * 2 * M + M) + 2 * 1502 * M),
    ("keys and values stop at their heads, in a fused matrix too", Layout(tensor=4), None),
    ("each stage counts its layers, and the ends whole", Layout(pipeline=2), 2 * (205 * 2 * M + M) + 2 * 1502 * M),
]


@pytest.mark.parametrize(("layout", "expected"), [row[1:] for row in RANKS], ids=[row[0] for row in RANKS])
def test_measured_weights_are_cut_as_far_as_their_kind_is(layout: Layout, expected: int | None) -> None:
    found = weight_bytes(read_config(DENSE, MEASURED), layout, "bfloat16", None)
    if expected is None:  # 32 heads and 2 of keys and of values on 4 ranks: 8 + 2 x 1 of 36
        layer = 2 * M * (160 / 4 + 36 * (8 + 2) / 36 + 8 / 2 + 1) + M
        expected = ceil(4 * layer + 2 * M * (1200 / 4 + 302))
    assert found == (expected,) * layout.pipeline


def test_experts_are_cut_or_spread() -> None:
    sparse = DENSE | {
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "num_experts": 60,
        "num_experts_per_tok": 4,
    }
    layer = MeasuredLayer(experts=Amount(floats=600 * M))
    facts = read_config(sparse, MEASURED.model_copy(update={"layers": (layer,) * 4, "encoders": Amount()}))
    ends = 2 * M * (1200 / 8 + 2)
    assert weight_bytes(facts, Layout(tensor=8), "bfloat16", None) == (ceil(4 * 2 * M * 75 + ends),)
    spread = Layout(tensor=8, expert_parallel=True)  # 8 of 60 experts on the first ranks
    assert weight_bytes(facts, spread, "bfloat16", None) == (ceil(4 * 2 * M * 80 + ends),)


def test_what_vllm_converts_while_it_loads_takes_one_byte_and_the_ends_do_not() -> None:
    facts = read_config(DENSE, MEASURED)
    settings = EngineSettings(quantization="fp8_per_tensor")
    converted = weight_bytes(facts, Layout(), "bfloat16", weight_format(facts, settings))
    assert converted == (4 * (204 * M + 2 * M + M) + 2 * 1502 * M,)


def test_an_index_file_stretches_the_estimate_to_its_size_in_the_type_that_is_stored() -> None:
    estimate = weight_bytes(read_config(DENSE), Layout(), "bfloat16", None)[0]
    total = StoredTotal(size_bytes=estimate * 11 // 10)
    assert weight_bytes(read_config(DENSE, total), Layout(), "bfloat16", None)[0] == pytest.approx(1.1 * estimate)
    stored = DENSE | {"torch_dtype": "float32"}
    total = StoredTotal(size_bytes=2 * estimate)
    assert weight_bytes(read_config(stored, total), Layout(), "bfloat16", None)[0] == pytest.approx(estimate)


def test_measured_layers_must_be_those_of_the_config() -> None:
    with pytest.raises(InvalidInput, match="measured as 4 layers, expected the 5 of"):
        read_config(DENSE | {"num_hidden_layers": 5}, MEASURED)


def test_the_less_is_known_the_more_is_kept_free_and_a_tight_plan_is_refused() -> None:
    settings, device = EngineSettings(max_model_len=2048), Device.of("NVIDIA-L4", 24 * GIB)
    total = StoredTotal(size_bytes=weight_bytes(read_config(DENSE), Layout(), "bfloat16", None)[0])
    shares = []
    for weights in (MEASURED, total, None):
        facts = read_config(DENSE, weights)
        assert facts.evidence is not None
        shares.append(facts.evidence.uncertain_share)
        assert isinstance(evaluate(facts, settings, device, Layout()), Fit)
    assert shares == sorted(shares)
    assert len(set(shares)) == 3
    outcomes = [
        evaluate(read_config(DENSE), settings, Device.of("card", size * GIB // 16), Layout()) for size in range(64, 384)
    ]
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Misfit)]
    assert any(reason.startswith("tight: ") for reason in reasons)
    assert not any(outcome.tight for outcome in outcomes if isinstance(outcome, Fit))


SIZES = [
    ("64 heads of 8 in groups", DENSE | {"num_attention_heads": 64, "num_key_value_heads": 8}, (1, 2, 4, 8, 16)),
    (
        "heads that 3 divides",
        DENSE | {"hidden_size": 4608, "num_attention_heads": 36, "num_key_value_heads": 36},
        (1, 2, 4),
    ),
    ("a width that 4 does not divide", DENSE | {"intermediate_size": 10002}, (1, 2)),
]


@pytest.mark.parametrize(("config", "sizes"), [row[1:] for row in SIZES], ids=[row[0] for row in SIZES])
def test_sizes_are_those_that_every_number_allows(config: dict[str, Any], sizes: tuple[int, ...]) -> None:
    assert tuple(size for size in tensor_sizes(read_config(config)) if size & (size - 1) == 0) == sizes


@pytest.mark.parametrize(
    ("name", "layout", "why"),
    [
        ("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.json", Layout(tensor=16), "a layer that keeps a state, 64 or 8"),
        ("XiaomiMiMo--MiMo-V2-Flash.json", Layout(tensor=4), "no multiple of the fp8 block of 128"),
        (
            "Qwen--Qwen3-VL-30B-A3B-Instruct.json",
            Layout(tensor=32),
            "16 attention heads of the encoder in vision_config",
        ),
    ],
    ids=["groups of Mamba", "a block of fp8", "heads of an encoder"],
)
def test_a_size_that_vllm_would_refuse_says_why(name: str, layout: Layout, why: str) -> None:
    facts = public(name)
    assert any(why in problem for problem in refusals(facts, layout, facts.weight_format))


def test_a_class_without_pipeline_parallelism_gets_no_stages() -> None:
    facts = read_config(DENSE | {"architectures": ["Gemma3nForCausalLM"]})
    assert any("no pipeline parallelism" in problem for problem in refusals(facts, Layout(pipeline=2), None))


def cache_of(facts: ModelFacts, tensor: int = 1) -> Any:
    tokens = block_tokens(facts, EngineSettings(), on_cpu=False)
    return kv_cache(facts, Layout(tensor=tensor), 2, block_tokens=tokens, in_flight_tokens=16384)


def test_a_block_of_a_hybrid_model_is_as_large_as_a_state_and_a_request_has_three_of_each_group() -> None:
    """Nemotron 3 Nano: 6 layers of attention, 23 of Mamba, in groups of 6; a state of 2.0 MiB in float32."""
    cache = cache_of(public("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.json"))
    state = 64 * 64 * 128 * 4 + (64 * 64 + 2 * 8 * 128) * 3 * 2
    token = 2 * 2 * 128 * 2
    assert cache.block_tokens == 16 * ceil(state / token / 16)
    assert cache.stage_block_bytes == (6 * cache.block_tokens * token,)
    assert [group.is_state for group in cache.groups] == [False] + [True] * 4
    assert cache.request_blocks(1) == 1 + 4 * 3
    assert cache.request_blocks(262144) == ceil(262144 / cache.block_tokens) + 4 * 3


def test_layers_of_unequal_heads_share_pages_of_the_largest_size() -> None:
    """MiMo-V2: 39 layers slide over 128 tokens with 8 key-value heads, 9 see all with 4: their blocks are longer."""
    cache = cache_of(public("XiaomiMiMo--MiMo-V2-Flash.json"))
    full = next(group for group in cache.groups if group.tokens is None)
    assert full.block_tokens == 32
    assert {group.tokens for group in cache.groups} == {None, 128}
    assert cache.stage_block_bytes == (9 * 16 * 2 * 8 * 192 * 2,)


WINDOWS = [
    ("a list", {"layer_types": ["sliding_attention", "full_attention"] * 4}, 4),
    ("every so many layers", {"sliding_window_pattern": 8}, 7),
    ("the default of the class, three of four", {}, 6),
    ("a word that nobody knows counts as full attention", {"layer_types": ["new_attention"] * 8}, 0),
]


@pytest.mark.parametrize(("changed", "sliding"), [row[1:] for row in WINDOWS], ids=[row[0] for row in WINDOWS])
def test_layers_slide_where_the_config_or_its_class_says_so(changed: dict[str, Any], sliding: int) -> None:
    cohere2 = DENSE | {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", "num_hidden_layers": 8}
    facts = read_config(cohere2 | {"sliding_window": 4096} | changed)
    windows = [getattr(layer.attention, "window_tokens", None) for layer in facts.layers]
    assert windows.count(4096) == sliding


def test_every_layer_that_keeps_whole_requests_is_in_one_group_whatever_its_size() -> None:
    config = DENSE | {"architectures": ["OpenELM"], "num_key_value_heads": [1, 1, 2, 2]}
    cache = cache_of(read_config(config | {"architectures": ["SeedOssForCausalLM"], "model_type": "seed_oss"}))
    assert len(cache.groups) == 1
    assert cache.stage_block_bytes == (16 * 2 * 128 * 2 * (1 + 1 + 2 + 2),)

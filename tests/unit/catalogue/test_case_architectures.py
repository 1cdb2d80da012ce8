"""Architectures without a reader: public configs are planned where the engine has the class, else refused with why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conclave.catalogue.engine_classes import engine_class, table
from conclave.catalogue.facts import known_architectures, read_config
from conclave.catalogue.shapes import ModelFacts
from conclave.errors import InvalidInput, UnknownModel
from conclave.planning.inventory import Inventory, Node
from conclave.planning.layout import Layout
from conclave.planning.parallelism import tensor_sizes
from conclave.planning.plan import make_plan
from conclave.planning.request import PlanRequest
from conclave.planning.weights import weight_bytes

CONFIGS = Path(__file__).parents[2] / "data/architectures"
CASES = yaml.safe_load((CONFIGS / "cases.yaml").read_text(encoding="utf-8"))
GIB = 2**30
_WITHIN = 0.05
"""What an estimate from config.json alone may be wrong by here; the plan keeps three times as much free."""
DECODER: dict[str, Any] = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 4096,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / name).read_text(encoding="utf-8"))
    return config


def whole_bytes(facts: ModelFacts) -> int:
    return weight_bytes(facts, Layout(), "bfloat16", facts.weight_format)[0]


@pytest.mark.parametrize("case", CASES["planned"], ids=lambda case: case["file"])
def test_a_config_without_a_reader_is_estimated_within_what_its_plan_keeps_free(case: dict[str, Any]) -> None:
    facts = read_config(config_of(case["file"]))
    assert facts.architecture not in known_architectures()
    assert facts.evidence is not None
    assert facts.evidence.basis == "config"
    published = case.get("weights_gib", case.get("billions", 0) * 2e9 / GIB) * GIB
    assert whole_bytes(facts) == pytest.approx(published, rel=_WITHIN)
    assert facts.evidence.uncertain_share >= 3 * _WITHIN - 1e-9
    assert list(tensor_sizes(facts)) == case["tensor"]
    assert [encoder.name for encoder in facts.encoders] == ([case["encoder"]] if "encoder" in case else [])


@pytest.mark.parametrize("case", CASES["planned"], ids=lambda case: case["file"])
def test_a_config_without_a_reader_gets_a_plan_that_says_what_is_uncertain(case: dict[str, Any]) -> None:
    nodes = [
        Node(name=f"n{n}", accelerator="NVIDIA-B200", memory_bytes=180 * GIB, gpus=8, free_gpus=8) for n in range(4)
    ]
    outcome = make_plan(
        PlanRequest(facts=read_config(config_of(case["file"])), inventory=Inventory(nodes=tuple(nodes)))
    )
    assert outcome.plan is not None, outcome.explanation
    uncertain = [reason for reason in outcome.plan.because if reason.startswith("uncertain: no reader knows")]
    assert len(uncertain) == 1
    assert "config.json alone, so that the weights are an estimate" in uncertain[0]
    as_text = [reason for reason in outcome.plan.because if reason.startswith("planned as a model of text")]
    assert bool(as_text) == ("encoder" in case)
    assert not any(reason.startswith("tight:") for reason in outcome.plan.because)


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: case["file"])
def test_what_the_engine_cannot_serve_is_refused_with_the_true_reason(case: dict[str, Any]) -> None:
    with pytest.raises(UnknownModel) as refused:
        read_config(config_of(case["file"]))
    for word in case["words"]:
        assert word in str(refused.value)


KINDS = [
    ("a text embedding model by its own class", "XLMRobertaModel", "xlm-roberta", "an embedding model"),
    ("an embedding model that a generating class becomes", "Qwen3Model", "qwen3", "an embedding model"),
    ("a late-interaction model", "ColQwen3", "colqwen3", "an embedding model"),
    ("a reward model by its own class", "Qwen2ForRewardModel", "qwen2", "a reward model"),
    ("a reward model that a generating class becomes", "LlamaForRewardModeling", "llama", "a reward model"),
    ("a reranker that a generating class becomes", "Qwen3ForSequenceClassification", "qwen3", "reranking or reward"),
    ("a tagger", "BertForTokenClassification", "bert", "a classification"),
    ("a draft model", "EagleLlamaForCausalLM", "llama", "a draft model"),
    ("a class that a plugin of others has", "BartForConditionalGeneration", "bart", "bart-plugin"),
    ("a class that nobody has", "NoSuchForCausalLM", "llama", "vLLM 0.32 has no such class"),
    ("an embedding class that nobody has", "NoSuchModel", "llama", "vLLM 0.32 has no such class"),
]


@pytest.mark.parametrize(("architecture", "model_type", "word"), [row[1:] for row in KINDS], ids=[r[0] for r in KINDS])
def test_a_kind_that_answers_nobody_is_named(architecture: str, model_type: str, word: str) -> None:
    with pytest.raises(UnknownModel, match=word):
        read_config(DECODER | {"architectures": [architecture], "model_type": model_type})


def test_code_of_a_repository_is_named_where_no_class_is_known() -> None:
    config = DECODER | {"architectures": ["MyForCausalLM"], "model_type": "my", "auto_map": {"AutoConfig": "my.C"}}
    with pytest.raises(UnknownModel, match="auto_map names would have to be trusted, which is never run"):
        read_config(config)


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [("Olmo2ForCausalLM", "olmo2"), ("GlmForCausalLM", "glm"), ("CohereForCausalLM", "cohere")],
)
def test_code_that_auto_map_names_does_not_matter_where_the_engine_has_its_own(
    architecture: str, model_type: str
) -> None:
    config = DECODER | {"architectures": [architecture], "model_type": model_type}
    assert read_config(config | {"auto_map": {"AutoConfig": "x.Y"}}) == read_config(config)


def test_a_class_without_pipeline_parallelism_is_told() -> None:
    config = {"architectures": ["Gemma3nForCausalLM"], "model_type": "gemma3n_text"}
    assert not engine_class(config, "Gemma3nForCausalLM").pipeline
    assert engine_class({"model_type": "cohere"}, "CohereForCausalLM").pipeline


def test_a_class_of_transformers_that_does_not_say_how_it_is_cut_gets_one_rank() -> None:
    facts = read_config(DECODER | {"architectures": ["HunYuanDenseV1ForCausalLM"], "model_type": "hunyuan_v1_dense"})
    assert tensor_sizes(facts) == (1,)
    assert not facts.pipeline


ODD: list[tuple[str, dict[str, Any], str]] = [
    ("a width that is a word", {"hidden_size": "wide"}, "hidden_size is 'wide'"),
    ("a boolean width", {"hidden_size": True}, "hidden_size is True"),
    ("more key-value heads than heads", {"num_key_value_heads": 32}, "num_key_value_heads is 32"),
    ("a list of no heads", {"num_attention_heads": []}, "num_attention_heads is []"),
    ("a million layers", {"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
    ("a pattern of other length", {"hybrid_override_pattern": "M*"}, "hybrid_override_pattern is 'M*'"),
    ("fewer experts than a token takes", {"num_experts": 2, "num_experts_per_tok": 8}, "num_experts_per_tok is 8"),
    ("a nested config that is a number", {"text_config": 3}, "text_config is 3"),
    ("a state without heads", {"layer_types": ["linear_attention"] * 4, "linear_num_value_heads": 2}, "linear_num_key"),
]


@pytest.mark.parametrize(("changed", "seen"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
def test_nonsense_is_refused_by_field_and_value(changed: dict[str, Any], seen: str) -> None:
    config = DECODER | {"architectures": ["SeedOssForCausalLM"], "model_type": "seed_oss"} | changed
    with pytest.raises(InvalidInput) as refused:
        read_config(config)
    assert seen in str(refused.value)


def test_every_kind_of_the_table_is_disjoint_and_of_the_pinned_engine() -> None:
    names = [name for kind in table().kinds.values() for name in kind]
    assert len(names) == len(set(names))
    assert table().vllm.startswith("0.32.")
    assert "LlamaForCausalLM" in table().kinds["text"]
    assert not {name for name in known_architectures() if name in table().kinds.get("embedding", ())}

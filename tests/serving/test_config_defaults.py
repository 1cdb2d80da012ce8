"""A field that a config.json leaves out is read as the installed Transformers, and so vLLM, takes it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from conclave.catalogue.facts import read_config
from conclave_models.grok1_config import Grok1Config

AutoConfig.register(Grok1Config.model_type, Grok1Config, exist_ok=True)

DEEPER = {"num_hidden_layers": 6}
CLASSES = [
    ("LlamaForCausalLM", "llama", DEEPER),
    ("MistralForCausalLM", "mistral", DEEPER),
    ("MixtralForCausalLM", "mixtral", DEEPER),
    ("Phi3ForCausalLM", "phi3", DEEPER),
    ("PhimoeForCausalLM", "phimoe", DEEPER),
    ("Qwen2ForCausalLM", "qwen2", DEEPER),
    ("Qwen3ForCausalLM", "qwen3", DEEPER),
    ("Qwen2MoeForCausalLM", "qwen2_moe", DEEPER),
    ("Qwen3MoeForCausalLM", "qwen3_moe", DEEPER),
    ("GemmaForCausalLM", "gemma", DEEPER),
    ("Gemma2ForCausalLM", "gemma2", DEEPER),
    ("Gemma3ForCausalLM", "gemma3_text", DEEPER),
    ("GptOssForCausalLM", "gpt_oss", DEEPER),
    ("Glm4MoeForCausalLM", "glm4_moe", DEEPER | {"head_dim": 128}),  # its default width is no multiple of its heads
    ("MiniMaxM2ForCausalLM", "minimax_m2", DEEPER),
    ("DeepseekV2ForCausalLM", "deepseek_v2", DEEPER | {"num_experts_per_tok": 6}),
    ("DeepseekV3ForCausalLM", "deepseek_v3", DEEPER),
    ("DbrxForCausalLM", "dbrx", {"n_layers": 6}),
    ("Grok1ModelForCausalLM", "grok-1", DEEPER),
    ("Llama4ForCausalLM", "llama4_text", DEEPER),
    ("Llama4ForConditionalGeneration", "llama4", {}),
]


def completed(model_type: str, given: dict[str, Any]) -> dict[str, Any]:
    """All fields, as Transformers writes them."""
    written: dict[str, Any] = CONFIG_MAPPING[model_type](**given).to_dict()
    return written


@pytest.mark.parametrize(
    ("architecture", "model_type", "given"), CLASSES, ids=[f"{row[0]} of {row[1]}" for row in CLASSES]
)
@pytest.mark.parametrize("wider", [1, 2], ids=["of the class's width", "of twice the width"])
def test_absent_fields_are_what_transformers_takes_them_for(
    architecture: str, model_type: str, given: dict[str, Any], wider: int
) -> None:
    """Twice the width tells a default of its own, such as head_dim, from one derived of the width."""
    name = "d_model" if model_type == "dbrx" else "hidden_size"
    if wider > 1 and model_type != "llama4":
        given = given | {name: wider * getattr(CONFIG_MAPPING[model_type](), name)}
    architectures = {"architectures": [architecture]}
    absent = read_config(architectures | {"model_type": model_type} | given)
    assert absent == read_config(completed(model_type, given) | architectures)


def test_what_transformers_leaves_out_when_it_saves_is_filled_in() -> None:
    config: PreTrainedConfig = CONFIG_MAPPING["gemma2"](num_hidden_layers=6)
    saved = config.to_diff_dict() | {"architectures": ["Gemma2ForCausalLM"]}
    assert saved.keys() < config.to_dict().keys()
    assert read_config(saved).tied_embeddings


def test_kimi_k2_is_read_with_deepseeks_class() -> None:
    config = {"architectures": ["DeepseekV3ForCausalLM"]}
    assert (
        read_config(config | {"model_type": "kimi_k2"}).layers
        == read_config(config | {"model_type": "deepseek_v3"}).layers
    )

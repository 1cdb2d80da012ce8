"""What the engine says of weights that contradict their config, and that other ways of writing a model are loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.serving.models.comparison import first_difference
from tests.serving.models.engines import Answer, Job, Layout, run
from tests.serving.models.references.hugging_face import HuggingFace
from tools.tiny_checkpoint import make_checkpoint
from transformers import AutoModelForCausalLM

Prompts = tuple[tuple[int, ...], ...]
Tensors = dict[str, torch.Tensor]
Change = Callable[[dict[str, Any], Tensors], None]
"""Edits config.json and the tensors of one shard after the other."""

GROK_EXPERT = "model.layers.1.moe_block.experts.3.linear_v.weight"
DBRX_BLOCK = "transformer.blocks.1"


def config_says(path: str, value: object) -> Change:
    def change(config: dict[str, Any], _tensors: Tensors) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            config = config[parent]
        config[name] = value

    return change


def without(name: str) -> Change:
    def change(_config: dict[str, Any], tensors: Tensors) -> None:
        tensors.pop(name, None)

    return change


def doubled(name: str) -> Change:
    def change(_config: dict[str, Any], tensors: Tensors) -> None:
        if name in tensors:
            tensors[name] = torch.cat([tensors[name]] * 2)

    return change


def without_biases_of_attention_and_head(config: dict[str, Any], tensors: Tensors) -> None:
    config |= {"attention_bias": False, "lm_head_bias": False}
    for name in [name for name in tensors if "proj.bias" in name or name == "lm_head.bias"]:
        del tensors[name]


REFUSED: dict[str, tuple[str, Change, str]] = {
    "wider experts in the config": (
        "dbrx",
        config_says("ffn_config.ffn_hidden_size", 224),
        "tensor transformer.blocks.0.ffn.experts.mlp.w1: shape [3328, 192], expected [3584, 192]",
    ),
    "fewer experts in the config": (
        "dbrx",
        config_says("ffn_config.moe_num_experts", 8),
        "tensor transformer.blocks.0.ffn.experts.mlp.w1: shape [3328, 192], expected [1664, 192]",
    ),
    "a layer more in the config": ("dbrx", config_says("n_layers", 4), "8 of 35 tensors are missing: transformer.bl"),
    "a layer less in the config": (
        "dbrx",
        config_says("n_layers", 2),
        "tensor transformer.blocks.2.norm_attn_norm.attn.Wqkv.weight: shape [320, 192], expected no tensor of this",
    ),
    "a larger vocabulary in the config": (
        "dbrx",
        config_says("vocab_size", 640),
        "tensor transformer.wte.weight: shape [512, 192], expected [640, 192]",
    ),
    "experts without a matrix": (
        "dbrx",
        without(f"{DBRX_BLOCK}.ffn.experts.mlp.w2"),
        f"1 of 27 tensors are missing: {DBRX_BLOCK}.ffn.experts.mlp.w2",
    ),
    "no theta in the config": (
        "dbrx",
        config_says("attn_config.rope_theta", None),
        "config.json: attn_config.rope_theta is None, expected a number above 0",
    ),
    "another activation": (
        "dbrx",
        config_says("ffn_config.ffn_act_fn", {"name": "gelu"}),
        "config.json: ffn_config.ffn_act_fn.name is 'gelu', expected silu",
    ),
    "another norm of the experts' weights": (
        "dbrx",
        config_says("ffn_config.moe_normalize_expert_weights", 2.0),
        "config.json: ffn_config.moe_normalize_expert_weights is 2.0, expected 1 or null",
    ),
    "heads that do not group": (
        "dbrx",
        config_says("attn_config.kv_n_heads", 4),
        "config.json: 6 attention heads, expected a multiple of 4 key-value heads",
    ),
    "one matrix of one expert missing": (
        "grok-1",
        without(GROK_EXPERT),
        f"1 of 101 tensors are missing: {GROK_EXPERT}",
    ),
    "one matrix of one expert too long": (
        "grok-1",
        doubled(GROK_EXPERT),
        f"tensor {GROK_EXPERT}: shape [288, 192], expected [144, 192]",
    ),
    "narrower experts in the weights than in the config": (
        "grok-1",
        config_says("intermediate_size", 160),
        "tensor model.layers.0.moe_block.experts.0.linear.weight: shape [144, 192], expected [160, 192]",
    ),
    "an eps of zero": ("grok-1", config_says("rms_norm_eps", 0.0), "config.json: rms_norm_eps is 0.0, expected a num"),
    "no bias of the head where the config has one": (
        "phi-3.5-moe",
        without("lm_head.bias"),
        "1 of 127 tensors are missing: lm_head.bias",
    ),
}
"""Model, what is changed, and what the engine must say."""

PICKLED = "weights that are pickled"

SERVED = ("dbrx in one shard", "phi-3.5-moe as Transformers 5 saves it", "phi-3.5-moe without biases")


def changed(checkpoint: Path, change: Change, path: Path) -> Path:
    shutil.copytree(checkpoint, path)
    config = json.loads((path / "config.json").read_text())
    for shard in path.glob("*.safetensors"):
        tensors = load_file(shard)
        change(config, tensors)
        save_file(tensors, shard)
    (path / "config.json").write_text(json.dumps(config))
    return path


def saved_by_transformers(checkpoint: Path, path: Path) -> Path:
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, path)
    assert json.loads((path / "config.json").read_text())["architectures"] == ["PhimoeForCausalLM"]
    return path


def pickled(checkpoint: Path, path: Path) -> Path:
    shutil.copytree(checkpoint, path)
    tensors: Tensors = {}
    for shard in path.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (path / "model.safetensors.index.json").unlink(missing_ok=True)
    torch.save(tensors, path / "pytorch_model.bin")
    return path


@pytest.fixture(scope="module")
def variants(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("variants")
    phi = checkpoints["phi-3.5-moe"]
    paths = [
        make_checkpoint("dbrx", directory / "one-shard", shards=1),
        saved_by_transformers(phi, directory / "saved"),
        changed(phi, without_biases_of_attention_and_head, directory / "without-biases"),
    ]
    return (
        dict(zip(SERVED, paths, strict=True))
        | {
            name: changed(checkpoints[model], change, directory / name.replace(" ", "-"))
            for name, (model, change, _) in REFUSED.items()
        }
        | {PICKLED: pickled(checkpoints["mixtral"], directory / "pickled")}
    )


@pytest.fixture(scope="module")
def said(variants: dict[str, Path], prompts: Prompts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    as_served = {"load_format": "safetensors"}  # test_application_config.py: the application always sets it
    jobs = [Job(name, str(path), prompts[:2], options=as_served) for name, path in variants.items()]
    return run(Layout(), jobs, tmp_path_factory.mktemp("loading"))


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_is_refused_by_name(name: str, said: dict[str, Answer]) -> None:
    assert REFUSED[name][2] in (said[name].error or "it was loaded")


def test_pickled_weights_are_never_read(said: dict[str, Answer]) -> None:
    assert "Cannot find any model weights" in (said[PICKLED].error or "they were loaded")


@pytest.mark.parametrize("name", SERVED)
def test_other_ways_of_writing_are_served(
    name: str, said: dict[str, Answer], variants: dict[str, Path], prompts: Prompts
) -> None:
    assert said[name].error is None
    reference = HuggingFace(variants[name])
    expected = [reference.generate(prompt, 32) for prompt in prompts[:2]]
    assert first_difference(said[name].sequences, expected) is None

"""The generator of tiny checkpoints: the same bytes for the same seed, and sizes that engines accept."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tools.tiny_checkpoint import ARCHITECTURES, SPECIAL_TOKENS, VOCABULARY_TOKENS, Architecture, make_checkpoint

WEIGHTS_SHA256 = {
    "dbrx": "46972e1a33dd92c51e946910e5f8c8e6693c47d8383093f1fc519a84f0e7ec06",
    "grok-1": "0e5dae14920807e368b7bc58adfe7429322198c844a8401f97bc01cbd4fe8db2",
    "phi-3.5-moe": "5f7caf996ef6be64ee3df375cc203430321743d9fad9ecf1845e18083885fe74",
    "gemma": "7e683bcb31a38e4ce2d07e55162cc98448e0c48b70c34e8e251c2f209a395b3b",
    "llama-3": "eb432fe18759fe100385384f6567a3df6269fb77c3ea1d2913e18d56bb337c0e",
    "mixtral": "bebeda6fc26219d2b4cbcfd6aeaf59d111952e53691e90f84becb5d27bf57eea",
    "phi-3": "618ec57312871036456a1dcbd400df323738f48a55f149578afed927bf3ce40d",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_seed_gives_the_same_bytes(architecture: str, tmp_path: Path) -> None:
    first = make_checkpoint(architecture, tmp_path / "first")
    second = make_checkpoint(architecture, tmp_path / "second")
    other = make_checkpoint(architecture, tmp_path / "other", seed=1)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }
    assert digest(first) == WEIGHTS_SHA256[architecture]
    assert digest(first) != digest(other)


def digest(checkpoint: Path) -> str:
    """Of its shards, one after the other."""
    shards = sorted(checkpoint.glob("*.safetensors"))
    return hashlib.sha256(b"".join(shard.read_bytes() for shard in shards)).hexdigest()


@pytest.mark.parametrize("kind", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_two_ranks_can_share_it(kind: Architecture) -> None:
    assert kind.sizes.heads % 2 == 0
    assert kind.sizes.key_value_heads in (1, 2, 4)
    assert kind.sizes.intermediate % 2 == 0


def test_fields_have_the_names_of_the_architecture(tmp_path: Path) -> None:
    config = json.loads((make_checkpoint("dbrx", tmp_path, layers=5) / "config.json").read_text())
    assert (config["n_layers"], config["n_heads"], config["attn_config"]["kv_n_heads"]) == (5, 6, 2)
    assert (config["ffn_config"]["moe_num_experts"], config["ffn_config"]["moe_top_k"]) == (16, 4)
    assert not {"num_hidden_layers", "head_dim", ""} & config.keys()


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_hold_the_same_tensors_and_the_index_finds_them(shards: int, tmp_path: Path) -> None:
    whole = load_file(make_checkpoint("mixtral", tmp_path / "whole") / "model.safetensors")
    cut = make_checkpoint("mixtral", tmp_path / "cut", shards=shards)
    held = {path.name: load_file(path) for path in cut.glob("*.safetensors")}
    assert len(held) == shards
    together = {name: tensor for tensors in held.values() for name, tensor in tensors.items()}
    assert together.keys() == whole.keys()
    assert all(torch.equal(together[name], tensor) for name, tensor in whole.items())
    index = cut / "model.safetensors.index.json"
    assert index.exists() == (shards > 1)
    if shards > 1:
        assert json.loads(index.read_text()) == {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in whole.values())},
            "weight_map": {name: file for file, tensors in held.items() for name in tensors},
        }


def test_sizes_can_be_chosen(tmp_path: Path) -> None:
    path = make_checkpoint("mixtral", tmp_path, layers=3, hidden=256, experts=4)
    with safe_open(path / "model.safetensors", "np") as tensors:
        names = set(tensors.keys())
        assert tensors.get_slice("lm_head.weight").get_shape() == [VOCABULARY_TOKENS, 256]
    assert "model.layers.2.block_sparse_moe.experts.3.w1.weight" in names
    assert "model.layers.2.block_sparse_moe.experts.4.w1.weight" not in names


@pytest.mark.parametrize("sizes", [{"hidden": 100}, {"hidden": 96, "key_value_heads": 2}], ids=["hidden", "heads"])
def test_sizes_that_do_not_divide_are_refused(sizes: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must divide"):
        make_checkpoint("mixtral", tmp_path, **sizes)


@pytest.mark.parametrize(
    "text", ["Good morning!", "Größe, 東京, 🙂\n\t\x00", ""], ids=["plain", "beyond ASCII", "empty"]
)
def test_the_tokenizer_keeps_every_text(text: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(make_checkpoint("phi-3", tmp_path) / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))


def test_the_command_takes_seed_and_sizes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "tools/tiny_checkpoint.py",
        "llama-3",
        str(tmp_path / "x"),
        "--seed",
        "3",
        "--layers",
        "1",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert said.stdout.strip() == str(tmp_path / "x")
    assert json.loads((tmp_path / "x" / "config.json").read_text())["num_hidden_layers"] == 1

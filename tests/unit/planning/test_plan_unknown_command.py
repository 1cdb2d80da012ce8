"""`conclave plan` of architectures that no reader knows: from the weights' headers, their index, or config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.sparse_weights import GRANITE, granite_tensors, size_bytes, write_index, write_weights
from typer.testing import CliRunner, Result

from conclave.errors import ConclaveError
from conclave_cli.main import app
from conclave_weights.errors import WeightsUnfit

ON_L4 = ("--accelerator", "L4", "--gpus-per-node", "1", "-o", "json")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def planned(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, *ON_L4)
    assert result.exit_code == 0, result.exception
    plan: dict[str, Any] = json.loads(result.stdout)
    return plan


def uncertain(plan: dict[str, Any]) -> str:
    return next(reason for reason in plan["because"] if reason.startswith("uncertain: no reader knows Granite"))


def test_headers_give_the_size_of_the_weights_to_the_byte(tmp_path: Path) -> None:
    plan = planned("--weights", str(write_weights(tmp_path / "weights")))
    rotary = 4096 * 128 * 2
    assert plan["memory"]["weights"] == size_bytes(granite_tensors()) + rotary
    assert f"the headers of {len(granite_tensors())} tensors" in uncertain(plan)


def test_a_config_elsewhere_is_read_instead_of_the_one_beside_the_weights(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(GRANITE | {"max_position_embeddings": 1024}))
    plan = planned("--weights", str(weights), "--config", str(other))
    assert plan["maxModelLen"] == 1024
    assert "the headers of" in uncertain(plan)


def test_an_index_beside_the_config_gives_the_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GRANITE))
    alone = planned("--config", str(tmp_path / "config.json"))
    assert "config.json alone" in uncertain(alone)
    write_index(tmp_path, granite_tensors())
    plan = planned("--config", str(tmp_path / "config.json"))
    rotary = 4096 * 128 * 2
    assert plan["memory"]["weights"] == pytest.approx(size_bytes(granite_tensors()) + rotary, rel=0.01)
    assert "the 0.8 GiB that the index file of the weights says" in uncertain(plan)


def test_weights_of_an_architecture_that_a_reader_knows_are_counted_from_its_config(tmp_path: Path) -> None:
    config = {name: GRANITE[name] for name in GRANITE if "expert" not in name}
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    plan = planned("--weights", str(write_weights(tmp_path / "weights", config)))
    assert not [reason for reason in plan["because"] if "no reader" in reason]


BAD = [
    ("no directory", lambda root: root / "none", "none/config.json"),
    ("a directory without weights", lambda root: _only_config(root), "no *.safetensors files"),
    (
        "files of the index are missing",
        lambda root: _without_file(root),
        "1 of 1 files of model.safetensors.index.json",
    ),
    ("a file that is cut off", lambda root: _cut(root), "truncated"),
]


def _only_config(root: Path) -> Path:
    (root / "config.json").write_text(json.dumps(GRANITE))
    return root


def _without_file(root: Path) -> Path:
    (write_weights(root / "w") / "model-1.safetensors").unlink()
    return root / "w"


def _cut(root: Path) -> Path:
    with (write_weights(root / "w") / "model-1.safetensors").open("r+b") as file:
        file.truncate(10_000)
    return root / "w"


@pytest.mark.parametrize(("make", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_weights_that_cannot_be_read_are_named(tmp_path: Path, make: Any, words: str) -> None:
    result = run("--weights", str(make(tmp_path)), *ON_L4)
    assert isinstance(result.exception, ConclaveError)
    assert words in str(result.exception)


@pytest.mark.parametrize("total", [None, "12", -3, 0, True, 1.5, 2**70], ids=repr)
def test_an_index_without_a_size_is_named(tmp_path: Path, total: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GRANITE))
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    result = run("--config", str(tmp_path / "config.json"), *ON_L4)
    assert isinstance(result.exception, WeightsUnfit)
    assert "metadata.total_size" in str(result.exception)


def test_an_embedding_model_is_refused_by_that_word_and_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bert.json"
    path.write_text(json.dumps(GRANITE | {"architectures": ["BertModel"], "model_type": "bert"}))
    result = run("--config", str(path), *ON_L4)
    assert isinstance(result.exception, ConclaveError)
    assert str(result.exception).startswith(f"{path}: architectures is 'BertModel': an embedding model")
    assert result.exception.exit_code == 2

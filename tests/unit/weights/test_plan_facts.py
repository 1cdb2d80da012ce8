"""`python -m conclave_weights inspect`, as the inspection Job's container runs it, on real tiny checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.tiny_checkpoint import ARCHITECTURES, make_checkpoint

from conclave.catalogue.facts import read_config
from conclave.catalogue.inspected import read_report, write_report
from conclave.kubernetes.reports import LONGEST_REPORT_BYTES
from conclave_weights.errors import ArchitectureUnknown, ConfigInvalid, ConfigMissing, WeightsUnfit, WeightsUnreadable
from conclave_weights.inspection.plan_facts import plan_facts

ROOM_BYTES = 4000


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for architecture in ARCHITECTURES:
        make_checkpoint(architecture, root / architecture)
    return root


@pytest.fixture
def weights(checkpoints: Path, tmp_path: Path) -> Path:
    """A Mixtral that a test may spoil."""
    return Path(shutil.copytree(checkpoints / "mixtral", tmp_path / "weights"))


def run(root: Path, report: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conclave_weights", "inspect", "--report", str(report), str(root)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_report_of_a_checkpoint_gives_the_facts_of_its_config(
    checkpoints: Path, architecture: str, tmp_path: Path
) -> None:
    root, report = checkpoints / architecture, tmp_path / "report"
    completed = run(root, report)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert len(report.read_bytes()) < LONGEST_REPORT_BYTES / 2
    told = read_report(report.read_text())
    config = json.loads((root / "config.json").read_text())
    assert told.config == config
    assert read_config(told.config) == read_config(config)
    shards = list(root.glob("*.safetensors"))
    assert (told.files, told.dtypes) == (len(shards), ("BF16",))
    assert told.size_bytes == 2 * told.parameters
    headers = sum(path.stat().st_size for path in shards) - told.size_bytes
    assert 0 < headers < 64 * 1024 * len(shards)


def edit(**changes: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        config = json.loads((root / "config.json").read_text()) | changes
        kept = {name: value for name, value in config.items() if value is not ...}
        (root / "config.json").write_text(json.dumps(kept))

    return apply


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / name).unlink()
        make(root / name)

    return apply


SPOILED: dict[str, tuple[Callable[[Path], None], type[WeightsUnfit], str]] = {
    "no config.json": (
        remove("config.json"),
        ConfigMissing,
        "no config.json, expected one beside the weights; the directory holds generation_config.json, model",
    ),
    "an empty config.json": (
        write("config.json", b""),
        ConfigInvalid,
        "config.json: is not valid JSON: Expecting value",
    ),
    "half a config.json": (write("config.json", b'{"a": '), ConfigInvalid, "config.json: is not valid JSON: "),
    "a list": (write("config.json", b"[]"), ConfigInvalid, "config.json: has a JSON list, expected an object"),
    "a text that is no UTF-8": (write("config.json", b"\xff\xfe{}"), ConfigInvalid, "config.json: is not valid JSON: "),
    "a config.json of many levels": (
        write("config.json", b"[" * 200_000),
        ConfigInvalid,
        "config.json: is not valid JSON: ",
    ),
    "a config.json of a megabyte": (
        write("config.json", b" " * 2**20),
        ConfigInvalid,
        "config.json: has more than 262144 bytes",
    ),
    "a directory": (replace("config.json", Path.mkdir), ConfigInvalid, "config.json: is not a file"),
    "a pipe that nobody writes to": (replace("config.json", os.mkfifo), ConfigInvalid, "config.json: is not a file"),
    "a config.json that nothing makes small": (
        lambda root: edit(noise=os.urandom(4000).hex())(root),
        ConfigInvalid,
        "a pod can report at most 4000; give the config.json in spec.model.configRef",
    ),
    "no architecture": (edit(architectures=...), ConfigInvalid, "config.json: architectures is missing; expected a li"),
    "an architecture that nobody serves": (
        edit(architectures=["RwkvForCausalLM"]),
        ArchitectureUnknown,
        "config.json: architectures is 'RwkvForCausalLM': vLLM 0.32 has no such class",
    ),
    "a size that is a text": (
        edit(hidden_size="128"),
        ConfigInvalid,
        "config.json: hidden_size is '128'; expected a whole number from 1 to ",
    ),
    "a model type of another architecture": (
        edit(model_type="llama"),
        ConfigInvalid,
        "config.json: model_type is 'llama', expected 'mixtral' for MixtralForCausalLM",
    ),
    "layers that the files do not have": (
        edit(num_hidden_layers=3),
        WeightsUnfit,
        "tensors are missing: model.layers.2",
    ),
    "another hidden size than the files have": (edit(hidden_size=256), WeightsUnfit, "shapes differ from config.json"),
    "a checkpoint that vLLM refuses": (
        edit(quantization_config={"quant_method": "fbgemm_fp8"}),
        ArchitectureUnknown,
        "config.json: quantization_config: vLLM 0.32 refuses this checkpoint: The quantization method fbgemm_fp8 is",
    ),
    "a checkpoint that this release does not plan": (
        edit(quantization_config={"quant_method": "torchao"}),
        ArchitectureUnknown,
        "vLLM 0.32 serves quantization method torchao; this release of Conclave does not plan it yet; use another "
        "checkpoint of the model",
    ),
    "quantization beside config.json that is no JSON": (
        write("hf_quant_config.json", b"{"),
        ConfigInvalid,
        "hf_quant_config.json: is not valid JSON: ",
    ),
    "quantization beside config.json of a megabyte": (
        write("hf_quant_config.json", b" " * 2**20),
        ConfigInvalid,
        "hf_quant_config.json: has more than 262144 bytes",
    ),
    "no tokenizer": (remove("tokenizer.json"), WeightsUnfit, "no tokenizer"),
    "no tensors": (remove("model.safetensors"), WeightsUnfit, "no *.safetensors files"),
    "code": (write("modeling.py", b"print()"), WeightsUnfit, "modeling.py: Python code among the weights"),
    "half a file of tensors": (
        lambda root: os.truncate(root / "model.safetensors", 100_000),
        WeightsUnfit,
        "truncated",
    ),
}


@pytest.mark.parametrize(("spoil", "kind", "words"), SPOILED.values(), ids=SPOILED)
def test_what_cannot_be_served_is_told_by_kind(
    weights: Path, spoil: Callable[[Path], None], kind: type[WeightsUnfit], words: str
) -> None:
    spoil(weights)
    with pytest.raises(WeightsUnfit) as refused:
        plan_facts(weights, ROOM_BYTES)
    assert type(refused.value) is kind
    assert words in str(refused.value)


def test_the_report_has_the_quantization_that_lies_beside_config_json(weights: Path) -> None:
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (weights / "hf_quant_config.json").write_text(json.dumps(beside))
    told = read_report(write_report(plan_facts(weights, ROOM_BYTES)))
    stored = read_config(told.config).weight_format
    assert stored is not None
    assert (stored.declared, stored.kv_cache) == ("modelopt", "fp8")


def test_a_failure_is_written_as_its_kind_and_its_words(weights: Path, tmp_path: Path) -> None:
    remove("config.json")(weights)
    completed = run(weights, tmp_path / "report")
    assert completed.returncode == WeightsUnfit.exit_code
    assert completed.stderr.startswith("error: no config.json, expected one beside the weights")
    assert "Traceback" not in completed.stderr
    told = json.loads((tmp_path / "report").read_text())
    assert told == {"error": "ConfigMissing", "message": completed.stderr.removeprefix("error: ").strip()}


def test_the_longest_report_is_written_whole_and_a_longer_one_refused(weights: Path, tmp_path: Path) -> None:
    config = json.loads((weights / "config.json").read_text())
    noise = os.urandom(3000).hex()

    def length_of(characters: int) -> int:
        (weights / "config.json").write_text(json.dumps(config | {"noise": noise[:characters]}))
        return len(write_report(plan_facts(weights, 2**20)))

    fitting = max(characters for characters in range(3600, 6000, 40) if length_of(characters) <= ROOM_BYTES)
    assert length_of(fitting) > ROOM_BYTES - 60
    completed = run(weights, tmp_path / "report")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert len((tmp_path / "report").read_bytes()) == length_of(fitting)
    length_of(fitting + 40)
    assert run(weights, tmp_path / "report").returncode == WeightsUnfit.exit_code
    assert json.loads((tmp_path / "report").read_text())["error"] == "ConfigInvalid"


def test_a_directory_that_is_not_there_is_no_crash(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnreadable, match="cannot be read: No such file"):
        plan_facts(tmp_path / "nowhere", ROOM_BYTES)

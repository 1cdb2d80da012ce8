"""What the inspection Job reports of weights whose architecture no reader knows, and what is planned from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.sparse_weights import GRANITE, granite_tensors, size_bytes, write_weights
from tools.tiny_checkpoint import make_checkpoint

from conclave.catalogue.facts import read_config
from conclave.catalogue.inspected import read_report, write_report
from conclave.errors import InvalidInput
from conclave.kubernetes.reports import LONGEST_REPORT_BYTES
from conclave.planning.layout import Layout
from conclave.planning.weights import weight_bytes
from conclave_weights.errors import ArchitectureUnknown
from conclave_weights.inspection.directory import inspect_weights
from conclave_weights.inspection.plan_facts import plan_facts

CONFIGS = Path(__file__).parents[2] / "data/architectures"


def test_the_report_of_the_command_gives_the_operator_the_bytes_of_every_layer(tmp_path: Path) -> None:
    root, report = write_weights(tmp_path / "weights"), tmp_path / "report"
    command = [sys.executable, "-m", "conclave_weights", "inspect", "--report", str(report), str(root)]
    completed = subprocess.run(command, capture_output=True, text=True)
    assert (completed.returncode, completed.stderr) == (0, "")
    told = read_report(report.read_text())
    assert told.tensors is not None
    facts = read_config(told.config, told.tensors)
    assert weight_bytes(facts, Layout(), "bfloat16", None) == (size_bytes(granite_tensors()),)
    assert facts.evidence is not None
    assert facts.evidence.basis == "headers"


def test_a_known_architecture_reports_what_it_reported_before(tmp_path: Path) -> None:
    make_checkpoint("mixtral", tmp_path / "weights")
    told = json.loads(write_report(plan_facts(tmp_path / "weights", 4000)))
    assert told.keys() == {"config", "files", "parameters", "sizeBytes", "dtypes"}


def test_a_report_of_an_earlier_image_is_planned_from_its_config(tmp_path: Path) -> None:
    told = json.loads(write_report(plan_facts(write_weights(tmp_path / "weights"), 4000)))
    del told["tensors"]
    facts = read_config(read_report(json.dumps(told)).config, read_report(json.dumps(told)).tensors)
    assert facts.evidence is not None
    assert facts.evidence.basis == "config"


@pytest.mark.parametrize(
    "name",
    ["moonshotai--Kimi-K2.5.json", "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16.json", "zai-org--GLM-5.1.json"],
)
def test_the_report_of_a_large_model_fits_with_room(tmp_path: Path, name: str) -> None:
    """Kubernetes keeps 4096 bytes; every layer differs by a scale or two in the worst of checkpoints."""
    config = json.loads((CONFIGS / name).read_text(encoding="utf-8"))
    count = len(read_config(config).layers)
    prefix = "language_model.model.layers" if "text_config" in config else "model.layers"
    stored: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in range(count):
        for tensor, shape in (
            ("mlp.up_proj", (4096, 1024 + layer % 7)),
            ("self_attn.o_proj", (2048, 2048)),
            ("n", (64,)),
        ):
            stored[f"{prefix}.{layer}.{tensor}.weight"] = ("BF16", shape)
    facts = plan_facts(write_weights(tmp_path / "weights", config, stored), 4000)
    assert len(write_report(facts).encode()) < 0.95 * LONGEST_REPORT_BYTES


def test_an_embedding_model_is_refused_by_that_word(tmp_path: Path) -> None:
    config = GRANITE | {"architectures": ["BertModel"], "model_type": "bert"}
    with pytest.raises(ArchitectureUnknown, match="an embedding model"):
        plan_facts(write_weights(tmp_path / "weights", config), 4000)


def test_inspection_by_hand_says_how_such_weights_are_planned(tmp_path: Path) -> None:
    inspection = inspect_weights(write_weights(tmp_path / "weights"))
    assert inspection.problems == []
    assert inspection.compared_with.startswith("nothing: Conclave plans GraniteMoeForCausalLM by the headers")


FORGED: list[tuple[str, Any, str]] = [
    ("a number", 3, "tensors"),
    ("text that is no base64", "&", "tensors"),
    ("negative sizes", {"layers": [{"matrices": {"floats": -1}}], "tensors": 1}, "tensors"),
    ("no layers", {"layers": [], "tensors": 1}, "tensors"),
    ("a field that nobody reads", {"layers": [{}], "tensors": 1, "more": 2}, "tensors"),
    ("more layers than any model", {"layers": [{}] * 257, "tensors": 1}, "tensors"),
]


@pytest.mark.parametrize(("tensors", "words"), [row[1:] for row in FORGED], ids=[row[0] for row in FORGED])
def test_whatever_a_pod_writes_of_its_tensors_is_refused_by_field(tmp_path: Path, tensors: Any, words: str) -> None:
    told = json.loads(write_report(plan_facts(write_weights(tmp_path / "weights"), 4000)))
    with pytest.raises(InvalidInput, match=words):
        read_report(json.dumps(told | {"tensors": tensors}))

"""Every manifest under examples/ is one that `conclave validate` takes, and no model of them is planned only."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from conclave.catalogue.servable import not_yet_served
from conclave_cli.main import app
from conclave_cli.manifest_files import load_deployment

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.yaml") if path.name != "nodes.yaml")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid_and_its_model_is_served(example: Path) -> None:
    said = CliRunner().invoke(app, ["validate", "-f", str(example)], catch_exceptions=False)
    assert (said.exit_code, said.output.endswith("is valid\n")) == (0, True), said.output
    assert not_yet_served(load_deployment(example).spec.model.id) is None


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_planned_on_the_example_of_an_inventory(example: Path) -> None:
    nodes = str(ROOT / "examples" / "nodes.yaml")
    said = CliRunner().invoke(app, ["plan", "-f", str(example), "--inventory", nodes], catch_exceptions=False)
    assert (said.exit_code, "because  " in said.output) == (0, True), said.output


@pytest.mark.parametrize(
    ("example", "arguments", "planned"),
    [
        ("dbrx", ["--accelerator", "NVIDIA-A100-SXM4-40GB"], "tensor 8, pipeline 1"),
        ("dbrx", ["--accelerator", "NVIDIA-A100-SXM4-80GB"], "tensor 4, pipeline 1"),
        ("grok-1", ["--accelerator", "NVIDIA-H100-80GB-HBM3", "--nodes", "2"], "tensor 8, pipeline 2"),
        ("phi-3.5-moe", ["--accelerator", "NVIDIA-A100-SXM4-80GB"], "tensor 2, pipeline 1"),
    ],
    ids=["DBRX on eight of 40 GB", "DBRX on four of 80 GB", "Grok-1 on two nodes", "Phi-3.5 MoE on two"],
)
def test_an_example_is_planned_as_its_comment_says(example: str, arguments: list[str], planned: str) -> None:
    path = str(ROOT / "examples" / f"{example}.yaml")
    said = CliRunner().invoke(app, ["plan", "-f", path, *arguments], catch_exceptions=False)
    assert (said.exit_code, planned in said.output) == (0, True), said.output

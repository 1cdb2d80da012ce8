"""Which plugins vLLM loads in a serving process: ours, whatever else is installed beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from conclave.engine.environment import MOST_SEQUENCES
from conclave_openai.limits.request import load_limits
from conclave_serving.environment import CLOSED_ENVIRONMENT, PLUGIN

ROOT = Path(__file__).parents[3]
GROUPS = ("platform", "io_processor", "stat_logger", "endpoint", "general")
"""The general one last: to load ours from it closes the process."""
LOADED = f"""
import json
from vllm.plugins import load_plugins_by_group
print(json.dumps({{group: sorted(load_plugins_by_group(f"vllm.{{group}}_plugins")) for group in {GROUPS!r}}}))
"""


def loaded(installed: Path, before: str = "", **variables: str) -> dict[str, list[str]]:
    """By group, what the real vLLM loads with these variables and the packages of one more directory."""
    inherited = {name: value for name, value in os.environ.items() if name != "VLLM_PLUGINS"}
    environment = {**inherited, "PYTHONPATH": str(installed), "VLLM_LOGGING_LEVEL": "ERROR", **variables}
    ended = subprocess.run(
        [sys.executable, "-c", before + LOADED],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found: dict[str, list[str]] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_an_entry_point_of_another_package_is_not_loaded(tmp_path: Path) -> None:
    metadata = tmp_path / "intruder-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "".join(f"[vllm.{group}_plugins]\nintruder = intruder:run\n" for group in GROUPS)
    )
    (tmp_path / "intruder.py").write_text("def run(): return None\n")
    without = {name: value for name, value in CLOSED_ENVIRONMENT.items() if name != "VLLM_PLUGINS"}
    assert all("intruder" in names for names in loaded(tmp_path, **without).values())
    ours = {**{group: [] for group in GROUPS}, "general": [PLUGIN]}
    assert loaded(tmp_path, **CLOSED_ENVIRONMENT) == ours
    assert loaded(tmp_path, before="import conclave_serving", **without) == ours, "where Serve builds the application"


def test_the_name_is_the_entry_points_the_products_and_the_suites() -> None:
    for file, group in (("pyproject.toml", "general"), ("e2e/platform/pyproject.toml", "platform")):
        project = tomllib.loads((ROOT / file).read_text())["project"]
        assert list(project["entry-points"][f"vllm.{group}_plugins"]) == [PLUGIN]


def test_the_engine_takes_as_many_sequences_of_one_request_as_the_edge() -> None:
    limits = load_limits()
    assert limits.sequences == limits.fields["n"].maximum == MOST_SEQUENCES

"""The bare wheel in a clean environment: plan, validate and models work without Ray, vLLM or a Kubernetes client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conclave import __version__

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, expect: int = 0) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the locked base requirements and the wheel, nothing else."""
    home = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", home, cwd=ROOT)
    (wheel,) = home.glob("conclave_inference-*.whl")
    run(sys.executable, "-m", "venv", home / "venv", cwd=home)
    pip = [home / "venv/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    run(*pip, "--require-hashes", "-r", ROOT / "requirements/cli.txt", cwd=home)
    run(*pip, "--no-deps", wheel, cwd=home)
    return home


def test_the_bare_wheel_carries_no_engine_and_no_cluster_client(environment: Path) -> None:
    for module in ("ray", "vllm", "torch", "kubernetes", "kopf"):
        run(environment / "venv/bin/python", "-c", f"import {module}", cwd=environment, expect=1)


def test_the_bare_wheel_plans_validates_and_lists_models(environment: Path) -> None:
    conclave = environment / "venv/bin/conclave"
    assert __version__ in run(conclave, "version", cwd=environment)
    models = json.loads(run(conclave, "models", "-o", "json", cwd=environment))
    assert "databricks/dbrx-instruct" in json.dumps(models)
    request = ["--model", "mistralai/Mixtral-8x7B-Instruct-v0.1", "--accelerator", "NVIDIA-A100-SXM4-80GB"]
    request += ["--gpus-per-node", "8", "--nodes", "1"]
    plan = json.loads(run(conclave, "plan", *request, "-o", "json", cwd=environment))
    assert plan["tensor"] * plan["pipeline"] == plan["gpusPerReplica"]
    run(conclave, "validate", "-f", ROOT / "examples/mixtral.yaml", cwd=environment)
    run(
        conclave,
        "plan",
        "-f",
        ROOT / "examples/mixtral.yaml",
        "--accelerator",
        "NVIDIA-L4",
        "--gpus-per-node",
        "1",
        "--nodes",
        "1",
        "-o",
        "json",
        cwd=environment,
        expect=2,
    )


def test_commands_that_need_more_say_what_to_install(environment: Path) -> None:
    conclave = environment / "venv/bin/conclave"
    for command in (["up", "-f", str(ROOT / "examples/mixtral.yaml"), "--weights", str(environment)], ["status"]):
        done = subprocess.run([str(conclave), *command], cwd=environment, capture_output=True, text=True)
        assert done.returncode not in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        assert "conclave-inference[" in done.stderr or "requirements/" in done.stderr, done.stderr

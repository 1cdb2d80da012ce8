"""The commands of a model's pods work for a user that the image does not know, as OpenShift assigns one.

In a user namespace of their own: the user has no name, no home and no capabilities. Files of whoever runs the tests are
its own.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from tests.openshift import FIRST_ID

from conclave_weights.verify.digest import digest_of, hash_files

UNSHARE = ["unshare", "--user", f"--map-user={FIRST_ID}", "--map-group=0"]


def can_be_another_user() -> bool:
    return (
        shutil.which("unshare") is not None and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode
    )


pytestmark = pytest.mark.skipif(not can_be_another_user(), reason="this machine makes no user namespaces")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    directory = tmp_path / "weights"
    directory.mkdir()
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    return directory


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As the image sets a pod's variables."""
    variables = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "USER": "conclave"}
    command = [*UNSHARE, sys.executable, "-m", "conclave_weights", *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_files_are_verified_and_the_report_is_written(weights: Path, tmp_path: Path) -> None:
    digest = digest_of(hash_files(weights))
    done = run("verify", "--digest", digest, "--report", tmp_path / "report", weights)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "report").read_text())["totalBytes"] > 0


def test_files_are_inspected(weights: Path, tmp_path: Path) -> None:
    done = run("inspect", "--report", tmp_path / "report", weights)
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "report").read_text())


def test_files_that_the_user_may_not_read_are_said_to_be_unreadable(weights: Path, tmp_path: Path) -> None:
    (weights / "config.json").chmod(0)
    done = run("inspect", "--report", tmp_path / "report", weights)
    assert done.returncode == 4
    assert json.loads((tmp_path / "report").read_text())["error"] == "WeightsUnreadable"

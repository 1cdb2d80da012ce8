"""`python -m conclave_weights verify` as the init container runs it: one line and an exit code."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from conclave_weights.digest import digest_of, hash_files


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    (tmp_path / "tokenizer.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "conclave_weights", *arguments], capture_output=True, text=True)


def test_the_right_digest_passes(weights: Path) -> None:
    digest = digest_of(hash_files(weights))
    completed = run("verify", "--digest", digest, str(weights))
    assert (completed.returncode, completed.stderr) == (0, "")
    assert f"3 files, {sum(path.stat().st_size for path in weights.iterdir())} bytes: {digest}" in completed.stdout


def test_another_digest_is_refused_without_a_traceback(weights: Path) -> None:
    wanted = "sha256:" + "0" * 64
    completed = run("verify", "--digest", wanted, str(weights))
    assert completed.returncode == 4
    assert completed.stderr.startswith(f"error: weights {weights}: digest ")
    assert wanted in completed.stderr
    assert "Traceback" not in completed.stderr


def test_damaged_weights_are_refused_before_hashing(weights: Path) -> None:
    digest = digest_of(hash_files(weights))
    with (weights / "model.safetensors").open("r+b") as shard:
        shard.truncate(20)
    completed = run("verify", "--digest", digest, str(weights))
    assert completed.returncode == 4
    assert "truncated" in completed.stderr


def test_the_report_tells_a_mismatch_from_what_is_damaged_and_what_cannot_be_read(
    weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digest = digest_of(hash_files(weights))
    report = tmp_path_factory.mktemp("report") / "termination-log"
    shard = weights / "model.safetensors"
    whole = shard.read_bytes()

    def told() -> tuple[int, object]:
        completed = run("verify", "--report", str(report), "--digest", digest, str(weights))
        return completed.returncode, json.loads(report.read_text()).get("error")

    assert told() == (0, None)
    shard.write_bytes(whole[:-1] + b"5")
    assert told() == (4, "DigestMismatch")
    shard.write_bytes(whole[:-1])
    assert told() == (4, "WeightsUnfit")
    shard.unlink()
    shard.mkdir()
    assert told() == (4, "WeightsUnreadable")
    shard.rmdir()
    shard.write_bytes(whole)
    assert told() == (0, None)

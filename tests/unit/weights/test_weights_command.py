"""`python -m conclave_weights verify` and `await` as init containers run them: lines and an exit code."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conclave_weights.verify.digest import digest_of, hash_files


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


def as_another_shard(shard: Path) -> bytes:
    """Changes its last byte, and returns what it was."""
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"5")
    return whole


def test_what_is_found_unfit_is_reported_and_noted_and_the_command_ends_well(
    weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digest = digest_of(hash_files(weights))
    scratch = tmp_path_factory.mktemp("scratch")
    report, notes = scratch / "termination-log", scratch / "notes"

    def verified() -> tuple[int, object, str]:
        options = ("--report", str(report), "--notes", str(notes))
        completed = run("verify", *options, "--digest", digest, str(weights))
        return completed.returncode, json.loads(report.read_text()).get("error"), completed.stderr[:6]

    assert verified() == (0, None, "")
    assert run("await", str(notes)).stdout == ""
    whole = as_another_shard(weights / "model.safetensors")
    assert verified() == (0, "DigestMismatch", "error:")
    assert list(json.loads(notes.read_text())) == [str(weights)]
    (weights / "model.safetensors").write_bytes(whole)
    assert verified() == (0, None, "")
    assert run("await", str(notes)).stdout == "", "it was found sound at last"


def test_nothing_is_awaited_where_nothing_was_noted(tmp_path: Path) -> None:
    completed = run("await", str(tmp_path / "notes"))
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")


@contextmanager
def awaiting(notes: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """The command on real files, and a function that reads its lines up to one that has these words."""
    command = [sys.executable, "-m", "conclave_weights", "await", "--look-seconds", "0.1", *options, str(notes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        try:
            yield process, lambda words: next(line for line in lines if words in line)
        finally:
            process.kill()


def test_mending_the_files_ends_the_wait_and_another_change_does_not(
    weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digest = digest_of(hash_files(weights))
    notes = tmp_path_factory.mktemp("scratch") / "notes"
    shard = weights / "model.safetensors"
    whole = as_another_shard(shard)
    assert run("verify", "--notes", str(notes), "--digest", digest, str(weights)).returncode == 0
    with awaiting(notes) as (process, told):
        assert (
            told("wrong")
            == f"{weights}: the weights are wrong; waiting for a repair and checking the files every 0.1 s\n"
        )
        shard.write_bytes(whole[:-1] + b"6")
        assert f"{weights}: the weights are still wrong: weights {weights}: digest " in told("still wrong")
        assert process.poll() is None
        shard.write_bytes(whole)
        assert told("are correct") == f"{weights}: the weights are correct, 3 files: {digest}\n"
        assert process.wait(30) == 0


def test_files_that_do_not_change_are_read_again_in_the_end(
    weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    notes = tmp_path_factory.mktemp("scratch") / "notes"
    assert run("verify", "--notes", str(notes), "--digest", f"sha256:{'0' * 64}", str(weights)).returncode == 0
    with awaiting(notes, "--read-seconds", "0.3") as (_, told):
        assert told("reading") == told("reading")


def test_a_pod_that_goes_ends_the_wait(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As process 1 of a container, which would ignore the signal."""
    notes = tmp_path_factory.mktemp("scratch") / "notes"
    assert run("verify", "--notes", str(notes), "--digest", f"sha256:{'0' * 64}", str(weights)).returncode == 0
    with awaiting(notes) as (process, told):
        told("wrong")
        process.terminate()
        assert process.wait(30) == 128 + 15


def test_a_directory_that_was_removed_is_awaited_by_the_next_pod(
    weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    notes = tmp_path_factory.mktemp("scratch") / "notes"
    assert run("verify", "--notes", str(notes), "--digest", f"sha256:{'0' * 64}", str(weights)).returncode == 0
    with awaiting(notes) as (process, told):
        told("wrong")
        shutil.rmtree(weights)
        assert process.wait(30) == 4
        assert process.stderr is not None
        assert "the directory was removed" in process.stderr.read()

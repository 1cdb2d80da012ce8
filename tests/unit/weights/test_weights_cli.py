"""`conclave weights`, as a user types it."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from conclave.errors import InvalidInput
from conclave_cli.main import app
from conclave_weights.errors import DigestMismatch
from conclave_weights.verify.digest import digest_of, hash_files


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    root = tmp_path / "weights"
    root.mkdir()
    (root / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    (root / "tokenizer.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (root / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


def test_what_digest_prints_verifies(weights: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    printed = CliRunner().invoke(app, ["weights", "digest", str(weights), "--manifest", str(manifest)])
    assert printed.stdout.strip() == digest_of(hash_files(weights))
    verified = CliRunner().invoke(app, ["weights", "verify", str(weights), "--digest", printed.stdout.strip()])
    assert (verified.exit_code, "3 files" in verified.stdout) == (0, True)


def test_a_changed_file_is_named_from_the_manifest(weights: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    digest = CliRunner().invoke(app, ["weights", "digest", str(weights), "--manifest", str(manifest)]).stdout.strip()
    shard = weights / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"5")
    arguments = ["weights", "verify", str(weights), "--digest", digest, "--manifest", str(manifest)]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, DigestMismatch)
    assert "model.safetensors: sha256 " in str(refused.exception)
    assert "config.json" not in str(refused.exception)


def test_the_manifest_alone_verifies_and_names(weights: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    digest = run("digest", weights, "--manifest", manifest).stdout.strip()
    assert digest in run("verify", weights, "--manifest", manifest).stdout
    (weights / "config.json").unlink()
    refused = run("verify", weights, "--manifest", manifest)
    assert "config.json: missing, expected 41 bytes; copy it" in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "give --digest", id="nothing to verify against"),
        pytest.param(["--digest", "sha256:12"], "64 hex digits", id="a digest cut off"),
        pytest.param(["--manifest", "/nowhere/manifest"], "cannot be read", id="no such manifest"),
    ],
)
def test_what_cannot_be_verified_is_refused_before_anything_is_read(
    weights: Path, arguments: list[str], message: str
) -> None:
    (weights / "model.safetensors").unlink()
    refused = run("verify", weights, *arguments)
    assert isinstance(refused.exception, InvalidInput)
    assert message in str(refused.exception)


def test_a_manifest_among_the_weights_is_refused(weights: Path) -> None:
    refused = run("digest", weights, "--manifest", weights / "MANIFEST")
    assert isinstance(refused.exception, InvalidInput)
    assert not (weights / "MANIFEST").exists()


# The disk ends after 100 bytes, of 250 and more: the write fails, or, where the signal is not ignored, all ends there.
FULL_DISK = """
import resource, signal, sys
from conclave_cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
if sys.argv.pop(1) == "interrupted":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
main()
"""


@pytest.mark.parametrize("before", [None, "the manifest of yesterday"])
@pytest.mark.parametrize(("kind", "code"), [("full", 2), ("interrupted", -signal.SIGXFSZ)])
def test_nothing_half_written_bears_the_manifests_name(
    weights: Path, tmp_path: Path, kind: str, code: int, before: str | None
) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    manifest = directory / "manifest"
    if before is not None:
        manifest.write_text(before)
    command = [sys.executable, "-c", FULL_DISK, kind, "weights", "digest", str(weights), "--manifest", str(manifest)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert (manifest.read_text() if manifest.exists() else None) == before
    if kind == "full":
        assert f"{manifest}: cannot be written: File too large" in ended.stderr
        assert [path.name for path in directory.iterdir()] == [manifest.name] * (before is not None)


def test_a_manifest_replaces_the_file_that_a_link_leads_to_and_goes_into_a_pipe(weights: Path, tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    assert run("digest", weights, "--manifest", link).exit_code == 0
    assert (link.is_symlink(), file.read_text().count("\n")) == (True, 3)
    command = [sys.executable, "-m", "conclave_cli.main", "weights", "digest", weights, "--manifest", "/dev/stdout"]
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert piped.startswith(file.read_text())


def test_long_work_tells_a_pipe_each_tenth_once(weights: Path) -> None:
    with (weights / "model.safetensors").open("r+b") as shard:
        header = json.dumps({"a": {"dtype": "U8", "shape": [2**30], "data_offsets": [0, 2**30]}}).encode()
        shard.write(struct.pack("<Q", len(header)) + header)
        shard.truncate(8 + len(header) + 2**30)
    told = run("digest", weights).stderr.splitlines()
    assert told == [f"hashing: {percent} % of 1.0 GiB" for percent in range(10, 101, 10)]

"""`conclave weights`, as a user types it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from conclave.errors import InvalidInput
from conclave_cli.main import app
from conclave_weights.digest import digest_of, hash_files
from conclave_weights.errors import DigestMismatch


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


def test_long_work_tells_a_pipe_each_tenth_once(weights: Path) -> None:
    with (weights / "model.safetensors").open("r+b") as shard:
        header = json.dumps({"a": {"dtype": "U8", "shape": [2**30], "data_offsets": [0, 2**30]}}).encode()
        shard.write(struct.pack("<Q", len(header)) + header)
        shard.truncate(8 + len(header) + 2**30)
    told = run("digest", weights).stderr.splitlines()
    assert told == [f"hashing: {percent} % of 1.0 GiB" for percent in range(10, 101, 10)]

"""`conclave weights digest` and `verify`, as a user types them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from typer.testing import CliRunner

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

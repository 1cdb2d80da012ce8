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
from conclave_weights.errors import DigestMismatch, DownloadFailed, WeightsUnfit
from conclave_weights.transfer.object_store import ObjectStore
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


KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
WRONG_DOWNLOADS = {
    "a host without a scheme": (
        ("s3://models/x", "--endpoint", "minio"),
        '--endpoint "minio" is not the base URL of an object store: http:// or https://, a host',
    ),
    "a host and a port": (("s3://models/x", "--endpoint", "minio:9000"), '--endpoint "minio:9000" is not the base URL'),
    "a port that is none": (
        ("s3://models/x", "--endpoint", "https://minio:99999"),
        '--endpoint "https://minio:99999" is not the base URL of an object store: http:// or https://, a host',
    ),
    "a region with a line break": (
        ("s3://models/x", "--region", "eu-west-1\n"),
        "is not a region: lower-case letters, digits and dashes, such as eu-west-1",
    ),
    "an address of another kind": (("gs://models/x",), "is not an object store's address, expected s3://bucket/path"),
    "a bucket of one letter": (
        ("s3://x/y",),
        's3://x/y: the bucket name "x" has 1 character; S3 bucket names have 3 to 63. Correct the bucket.',
    ),
    "a bucket of 64 letters": (("s3://" + "x" * 64,), "has 64 characters; S3 bucket names have 3 to 63"),
    "a bucket in capitals": (
        ("s3://Models/x",),
        'the bucket name is "Models"; S3 bucket names have lower-case letters',
    ),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG_DOWNLOADS.values(), ids=WRONG_DOWNLOADS)
@pytest.mark.parametrize("keys", [KEYS, {}], ids=["with keys", "without keys"])
def test_a_wrong_address_is_refused_before_the_store_is_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
    keys: dict[str, str],
) -> None:
    for variable in KEYS:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in keys.items():
        monkeypatch.setenv(variable, value)
    uri, *options = arguments
    refused = run("download", uri, tmp_path / "target", *options)
    assert isinstance(refused.exception, InvalidInput), refused.exception
    assert refused.exception.exit_code == 2
    assert message in str(refused.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", [*KEYS, "AWS_SESSION_TOKEN"])
def test_a_key_with_a_line_break_is_refused_without_repeating_it(variable: str) -> None:
    """As `kubectl create secret --from-file` makes it of a file that ends with one."""
    with pytest.raises(DownloadFailed, match=f"{variable} has a space, a line break") as refusal:
        ObjectStore("s3://models/x", environment=KEYS | {variable: "hidden\n"})
    assert "hidden" not in str(refusal.value)


def test_the_download_of_a_pod_reports_a_wrong_address_as_a_failed_download(tmp_path: Path) -> None:
    report = tmp_path / "report"
    command = [sys.executable, "-m", "conclave_weights", "download", "--report", report, "--endpoint", "http://x:99999"]
    ended = subprocess.run(
        [*command, "s3://models/x", tmp_path / "target"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 4
    assert json.loads(report.read_text())["error"] == "DownloadFailed"
    assert "Traceback" not in ended.stderr


def test_a_target_of_something_else_is_named_without_a_digest_that_was_not_given(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in KEYS.items():
        monkeypatch.setenv(variable, value)
    refused = run("download", "s3://models/mixtral", weights)
    assert str(refused.exception) == (
        f"{weights} exists and was not downloaded from s3://models/mixtral; remove it, or name another directory"
    )


@pytest.mark.parametrize(
    "arguments", [("digest",), ("verify", "--digest", "sha256:" + "0" * 64)], ids=["digest", "verify"]
)
def test_the_first_fault_comes_with_the_command_that_lists_all(weights: Path, arguments: tuple[str, ...]) -> None:
    (weights / "tokenizer.json").unlink()
    refused = run(arguments[0], weights, *arguments[1:])
    assert isinstance(refused.exception, WeightsUnfit)
    assert "no tokenizer" in str(refused.exception)
    assert "copy the model's tokenizer" in str(refused.exception)
    assert str(refused.exception).endswith(f"`conclave weights inspect {weights}` lists all problems.")


@pytest.mark.parametrize("command", ["inspect", "digest", "convert"])
@pytest.mark.parametrize("is_file", [True, False], ids=["a file", "nothing there"])
def test_a_path_that_is_no_directory(tmp_path: Path, command: str, is_file: bool) -> None:
    path = tmp_path / "weights"
    if is_file:
        path.write_text("")
    refused = run(command, path, *([tmp_path / "target"] if command == "convert" else []))
    held = "the pickled weights" if command == "convert" else "config.json"
    assert str(refused.exception) == (
        f"{path} is a file; expected the directory that holds {held}"
        if is_file
        else f"{path}: no such directory; give the directory that holds {held}"
    )


def test_a_file_that_is_no_manifest_is_a_wrong_argument(weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "mixtral.yaml"
    file.write_text("apiVersion: conclave.dev/v1alpha1\n")
    refused = run("verify", weights, "--manifest", file)
    assert isinstance(refused.exception, InvalidInput)
    assert str(refused.exception) == (
        f"--manifest {file}: line 1 is 'apiVersion: conclave.dev/v1alpha1', expected `sha256 size path`. "
        "Give the file that `conclave weights digest --manifest` wrote."
    )


@pytest.mark.parametrize("config", ["{}", '{"architectures": ["MixtralForCausalLM"], "hidden_size": "x"}'])
def test_an_inspection_does_not_call_a_readable_config_unreadable(weights: Path, config: str) -> None:
    (weights / "config.json").write_text(config)
    shown = run("inspect", weights)
    assert shown.exit_code == 4
    assert "compared with nothing: the problem with config.json is below" in shown.stdout

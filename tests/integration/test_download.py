"""Downloads from a real S3 server (MinIO): whole, killed and gone on with, broken, changed meanwhile, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from tests.integration.testbed.minio import PASSWORD, USER, Minio, Wire
from tools.tiny_checkpoint import make_checkpoint

import conclave_weights.transfer.download
from conclave_weights.errors import DigestMismatch, DownloadFailed, WeightsUnfit
from conclave_weights.transfer.download import MARKER, Download, download
from conclave_weights.transfer.object_store import ObjectStore
from conclave_weights.verify.digest import digest_of, hash_files

MIB = 2**20
BUCKET = "models"
SLACK_BYTES = MIB
"""Lists and headers."""


@pytest.fixture(scope="module")
def minio() -> Iterator[Minio]:
    directory = Path(tempfile.mkdtemp(prefix="conclave-minio-"))
    try:
        with Minio(directory) as server:
            server.make_bucket(BUCKET)
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint in two shards, and a file large enough to be cut in."""
    root = make_checkpoint("mixtral", tmp_path_factory.mktemp("weights") / "tiny", shards=2)
    (root / "merges").mkdir()
    (root / "merges" / "large.txt").write_bytes(os.urandom(24 * MIB))
    (root / "empty.txt").touch()
    (root / ".gitattributes").write_text("no part of the weights")
    return root


@pytest.fixture
def prefix(minio: Minio, weights: Path, tmp_path: Path) -> str:
    """The weights under a prefix of the test's own."""
    minio.upload(weights, BUCKET, tmp_path.name)
    return tmp_path.name


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


def store(minio: Minio, prefix: str, endpoint: str = "") -> ObjectStore:
    return ObjectStore(f"s3://{BUCKET}/{prefix}", endpoint=endpoint or minio.url, environment=minio.environment)


def visible(root: Path) -> dict[str, bytes]:
    """What a digest counts."""
    paths = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def size_bytes(root: Path) -> int:
    return sum(map(len, visible(root).values()))


def run(prefix: str, target: Path, endpoint: str, *arguments: str) -> subprocess.Popen[str]:
    """What the download Job's container runs."""
    command = [sys.executable, "-m", "conclave_weights", "download", "--endpoint", endpoint, *arguments]
    credentials = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD}
    return subprocess.Popen(
        [*command, f"s3://{BUCKET}/{prefix}", str(target)],
        env={**os.environ, **credentials},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def test_the_weights_arrive_whole_under_a_marker(minio: Minio, weights: Path, prefix: str, target: Path) -> None:
    digest = digest_of(hash_files(weights))
    done = download(store(minio, prefix), target, digest)
    assert done == Download(size_bytes(weights), size_bytes(weights), size_bytes(weights), is_whole=True)
    assert visible(target) == visible(weights)
    assert digest_of(hash_files(target)) == digest
    marker = json.loads((target / MARKER).read_text())
    assert (marker["source"], marker["digest"]) == (f"s3://{BUCKET}/{prefix}", digest)
    assert sorted(path.name for path in target.parent.iterdir()) == ["weights"]
    assert [path.name for path in target.rglob(".*")] == [MARKER]


def test_a_second_download_asks_the_store_for_nothing(minio: Minio, prefix: str, target: Path) -> None:
    first = download(store(minio, prefix), target)
    with Wire(minio.port) as wire:
        endpoint = json.loads((target / MARKER).read_text())["endpoint"]
        assert endpoint == minio.url
        again = download(store(minio, prefix), target)
        assert (again.fetched_bytes, again.total_bytes, wire.received_bytes) == (0, first.total_bytes, 0)


@pytest.mark.parametrize("after_bytes", [200_000, 5 * MIB, 20 * MIB])
def test_a_killed_download_has_no_name_and_goes_on_where_it_was(
    minio: Minio, weights: Path, prefix: str, target: Path, after_bytes: int
) -> None:
    with Wire(minio.port, stall_after=after_bytes) as wire:
        process = run(prefix, target, wire.url)
        assert wire.stalled.wait(60)
        process.send_signal(signal.SIGKILL)
        assert finished(process)[0] == -signal.SIGKILL
    assert not target.exists()
    partial = target.with_name("weights.partial")
    assert visible(partial) == {}
    kept_bytes = sum(path.stat().st_size for path in partial.rglob(".*") if path.is_file())
    with Wire(minio.port) as wire:
        code, stdout, stderr = finished(run(prefix, target, wire.url))
        assert (code, stderr) == (0, "")
        assert wire.received_bytes < size_bytes(weights) - kept_bytes + SLACK_BYTES
    assert f"{size_bytes(weights) - kept_bytes} bytes fetched by this run" in stdout
    assert visible(target) == visible(weights)


def test_a_connection_that_breaks_costs_no_byte_that_had_arrived(
    minio: Minio, weights: Path, prefix: str, target: Path
) -> None:
    with Wire(minio.port, break_after=8 * MIB) as wire:
        tries = 0
        while not target.exists():
            tries += 1
            assert tries < 5
            code, _, stderr = finished(run(prefix, target, wire.url))
            assert code == 0 or "no answer" in stderr
        assert wire.received_bytes < size_bytes(weights) + 2 * SLACK_BYTES
    assert visible(target) == visible(weights)


def test_it_stops_at_the_wished_percents_and_reports_them(
    minio: Minio, weights: Path, prefix: str, target: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    reported = []
    for percent in (25, 50, 100):
        arguments = ("--until-percent", str(percent), "--report", str(report))
        code, stdout, stderr = finished(run(prefix, target, minio.url, *arguments))
        assert (code, stderr) == (0, "")
        assert f" of {size_bytes(weights)} bytes (" in stdout
        reported.append(json.loads(report.read_text()))
        assert target.exists() == (percent == 100)
    total_bytes = size_bytes(weights)
    assert [item["totalBytes"] for item in reported] == [total_bytes] * 3
    assert total_bytes * 0.25 <= reported[0]["doneBytes"] < total_bytes * 0.5 <= reported[1]["doneBytes"] < total_bytes
    assert reported[2]["doneBytes"] == total_bytes


def test_an_object_that_changes_meanwhile_is_told_and_then_fetched_anew(
    minio: Minio, weights: Path, prefix: str, target: Path
) -> None:
    listed = store(minio, prefix)
    objects = listed.list()
    new = b"x" * (24 * MIB)
    obstore.put(minio.store(BUCKET), f"{prefix}/merges/large.txt", new, use_multipart=False)
    large = next(item for item in objects if item.path == "merges/large.txt")
    with pytest.raises(DownloadFailed, match=r"merges/large\.txt: changed while it was read"):
        list(listed.read(large, 0))
    download(store(minio, prefix), target)
    assert visible(target) == visible(weights) | {"merges/large.txt": new}


def test_what_was_fetched_of_an_older_object_is_not_gone_on_with(
    minio: Minio, weights: Path, prefix: str, target: Path
) -> None:
    download(store(minio, prefix), target, until_percent=60)
    for name in ("merges/large.txt", "config.json"):
        content = visible(weights)[name]
        obstore.put(minio.store(BUCKET), f"{prefix}/{name}", content + b" ", use_multipart=False)
    download(store(minio, prefix), target)
    changed = {name: visible(weights)[name] + b" " for name in ("merges/large.txt", "config.json")}
    assert visible(target) == visible(weights) | changed


def test_other_weights_than_the_digests_get_no_name_until_the_store_is_mended(
    minio: Minio, weights: Path, prefix: str, target: Path
) -> None:
    digest = digest_of(hash_files(weights))
    bucket = minio.store(BUCKET)
    obstore.put(bucket, f"{prefix}/empty.txt", b"!", use_multipart=False)
    with pytest.raises(DigestMismatch, match=f"expected {digest}"):
        download(store(minio, prefix), target, digest)
    assert not target.exists()
    obstore.put(bucket, f"{prefix}/empty.txt", b"", use_multipart=False)
    mended = download(store(minio, prefix), target, digest)
    assert (mended.is_whole, mended.fetched_bytes) == (True, 0)


def test_what_cannot_be_served_gets_no_name_and_unchanged_objects_are_kept(
    minio: Minio, weights: Path, prefix: str, target: Path
) -> None:
    bucket = minio.store(BUCKET)
    obstore.put(bucket, f"{prefix}/config.json", b"{}", use_multipart=False)
    for _ in range(2):
        with pytest.raises(WeightsUnfit, match="no `architectures`"):
            download(store(minio, prefix), target)
    assert not target.exists()
    config = (weights / "config.json").read_bytes()
    obstore.put(bucket, f"{prefix}/config.json", config, use_multipart=False)
    assert download(store(minio, prefix), target).fetched_bytes == len(config)
    assert visible(target) == visible(weights)


def test_bytes_that_differ_from_the_stores_md5_are_fetched_anew(minio: Minio, prefix: str, target: Path) -> None:
    download(store(minio, prefix), target, until_percent=99)
    (part,) = target.with_name("weights.partial").glob(".config.json.*")
    content = part.read_bytes()
    part.write_bytes(b"?" * len(content))
    with pytest.raises(DownloadFailed, match=r"config\.json: the bytes that arrived do not match"):
        download(store(minio, prefix), target)
    done = download(store(minio, prefix), target)
    assert (target / "config.json").read_bytes() == content
    assert "1 of" in done.notes[0]
    assert "compared by size only" in done.notes[0]


def verified(target: Path, digest: str, scratch: Path) -> tuple[int, str | None]:
    """Exit code and error of what the pod's container verify-weights runs."""
    report, notes = scratch / "termination-log", scratch / "unfit-weights.json"
    options = ["--report", str(report), "--notes", str(notes), "--digest", digest]
    command = [sys.executable, "-m", "conclave_weights", "verify", *options, str(target)]
    code = subprocess.run(command, capture_output=True, timeout=120).returncode
    return code, json.loads(report.read_text()).get("error")


def flip_a_byte(root: Path) -> None:
    shard = sorted(root.glob("*.safetensors"))[0]
    with shard.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def swap_the_shards(root: Path) -> None:
    first, second = sorted(root.glob("*.safetensors"))
    first.rename(root / "between")
    second.rename(first)
    (root / "between").rename(second)


def lead_elsewhere(root: Path) -> None:
    (root / "config.json").rename(root.parent / "elsewhere.json")
    (root / "config.json").symlink_to("../elsewhere.json")


SWAPS: dict[str, Callable[[Path], object]] = {
    "a flipped byte": flip_a_byte,
    "two shards exchanged": swap_the_shards,
    "a file that is one too many": lambda root: (root / "code.py").write_text("import os"),
    "a file that is gone": lambda root: (root / "tokenizer.json").unlink(),
    "a link in place of a file": lead_elsewhere,
    "a pipe in place of a file": lambda root: ((root / "config.json").unlink(), os.mkfifo(root / "config.json")),
}


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_what_was_changed_beside_its_marker_is_found_by_the_pod_and_mended_by_the_job(
    minio: Minio, weights: Path, prefix: str, target: Path, tmp_path: Path, swap: Callable[[Path], object]
) -> None:
    digest = digest_of(hash_files(weights))
    job = ("--digest", digest, "--keep", target.name)
    assert finished(run(prefix, target, minio.url, *job))[0] == 0
    assert verified(target, digest, tmp_path) == (0, None)
    mounted = target.stat().st_ino
    marker = (target / MARKER).read_text()
    swap(target)
    assert (target / MARKER).read_text() == marker
    code, error = verified(target, digest, tmp_path)
    assert (code, error in ("DigestMismatch", "WeightsUnfit")) == (0, True)

    code, stdout, stderr = finished(run(prefix, target, minio.url, *job))
    assert (code, stderr) == (0, "")
    assert f"note: {target}: the files were changed after the download" in stdout
    assert visible(target) == visible(weights)
    assert target.stat().st_ino == mounted, "a pod that waits has this directory mounted"
    command = [sys.executable, "-m", "conclave_weights", "await", "--look-seconds", "0.1"]
    awaited = subprocess.run(
        [*command, str(tmp_path / "unfit-weights.json")], capture_output=True, text=True, timeout=120
    )
    assert (awaited.returncode, "correct" in awaited.stdout) == (0, True)
    assert verified(target, digest, tmp_path) == (0, None)


def test_a_person_is_asked_before_changed_files_are_fetched_anew(
    minio: Minio, weights: Path, prefix: str, target: Path
) -> None:
    digest = digest_of(hash_files(weights))
    download(store(minio, prefix), target, digest)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(DigestMismatch, match=f"do not match {digest}; remove {target}, then repeat"):
        download(store(minio, prefix), target, digest)
    assert (target / "notes.txt").read_text() == "mine"


def test_a_step_before_the_last_one_reads_nothing_of_what_is_there(
    minio: Minio, weights: Path, prefix: str, target: Path
) -> None:
    digest = digest_of(hash_files(weights))
    download(store(minio, prefix), target, digest, keep=[])
    flip_a_byte(target)
    assert download(store(minio, prefix), target, digest, keep=[], until_percent=50).is_whole
    assert download(store(minio, prefix), target, digest, keep=[]).fetched_bytes == size_bytes(weights)


def test_a_finished_download_that_was_changed_before_it_got_its_name_gets_none(
    minio: Minio, weights: Path, prefix: str, target: Path
) -> None:
    """As a crash between marker and name leaves it."""
    digest = digest_of(hash_files(weights))
    download(store(minio, prefix), target, digest)
    partial = target.with_name("weights.partial")
    target.rename(partial)
    flip_a_byte(partial)
    done = download(store(minio, prefix), target, digest)
    assert done.fetched_bytes == size_bytes(weights)
    assert visible(target) == visible(weights)
    target.rename(partial)
    assert download(store(minio, prefix), target, digest).fetched_bytes == 0, "unchanged, nothing is fetched"


def make_hostile(partial: Path, outside: Path) -> None:
    """Everything that a downloader writes to, led elsewhere or blocked."""
    partial.mkdir(parents=True)
    for name in (".conclave-download.lock", f"{MARKER}.new", "config.json"):
        (partial / name).symlink_to(outside / "mine")
    (partial / "merges").symlink_to(outside)
    os.mkfifo(partial / "pipe")
    (partial / MARKER).write_text('{"objects": [{"path": "../../outside/mine", "size_bytes": 4, "etag": ""}]}')


def test_a_partial_directory_leads_no_download_elsewhere(
    minio: Minio, weights: Path, prefix: str, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("kept")
    partial = target.with_name("weights.partial")
    make_hostile(partial, outside)
    for item in store(minio, prefix).list():
        if "/" not in item.path:
            (partial / conclave_weights.transfer.download._part_name(item)).symlink_to(outside / "mine")
    download(store(minio, prefix), target)
    assert visible(target) == visible(weights)
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("mine", "kept")]


def test_a_link_in_place_of_the_partial_directory_is_refused(
    minio: Minio, prefix: str, target: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    target.parent.mkdir()
    target.with_name("weights.partial").symlink_to(tmp_path / "outside")
    with pytest.raises(DownloadFailed, match=r"weights\.partial: is a symbolic link, expected a directory of user"):
        download(store(minio, prefix), target)
    assert list((tmp_path / "outside").iterdir()) == []


FORGED: dict[str, str] = {
    "no objects": '{"source": "s3://models/x"}',
    "objects that are a number": '{"objects": 5}',
    "an object that is a text": '{"objects": ["config.json"]}',
    "an object without a size": '{"objects": [{"path": "config.json", "etag": ""}]}',
    "a path that leads up": '{"objects": [{"path": "../x", "size_bytes": 1, "etag": ""}]}',
    "a path of its own": '{"objects": [{"path": "/etc/hostname", "size_bytes": 1, "etag": ""}]}',
    "brackets without an end": "[" * 100_000,
    "no JSON": "marker",
}


@pytest.mark.parametrize("marker", FORGED.values(), ids=FORGED)
def test_a_marker_that_is_none_is_none(minio: Minio, weights: Path, prefix: str, target: Path, marker: str) -> None:
    download(store(minio, prefix), target, keep=[])
    (target / MARKER).write_text(marker)
    with pytest.raises(DownloadFailed, match="exists and was not downloaded from s3://"):
        download(store(minio, prefix), target)
    download(store(minio, prefix), target, until_percent=50, keep=[])
    (target.with_name("weights.partial") / MARKER).write_text(marker)
    assert download(store(minio, prefix), target, keep=[]).is_whole
    assert visible(target) == visible(weights)


def test_other_sources_go_and_those_in_use_and_what_is_not_ours_stay(minio: Minio, prefix: str, target: Path) -> None:
    root = target.parent
    for name in ("used", "old"):
        download(store(minio, prefix), root / name)
    (root / "older.partial").mkdir()
    (root / "lost+found").mkdir()
    download(store(minio, prefix), target, keep=["used"])
    assert sorted(path.name for path in root.iterdir()) == ["lost+found", "used", "weights"]


def test_two_downloads_of_the_same_do_not_write_the_same_files(minio: Minio, prefix: str, target: Path) -> None:
    with Wire(minio.port, stall_after=MIB) as wire:
        process = run(prefix, target, wire.url)
        assert wire.stalled.wait(60)
        with pytest.raises(DownloadFailed, match="another download is running"):
            download(store(minio, prefix), target)
        process.kill()
        finished(process)


def test_a_full_disk_is_told_before_the_first_byte(
    minio: Minio, prefix: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        conclave_weights.transfer.download.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000)
    )
    with pytest.raises(DownloadFailed, match="bytes are missing and 1000 are free; free space"):
        download(store(minio, prefix), target)
    assert not any(path.stat().st_size for path in target.parent.rglob(".*.*") if path.is_file())


def test_a_target_of_something_else_is_left_alone(minio: Minio, prefix: str, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "config.json").write_text("mine")
    with pytest.raises(DownloadFailed, match="exists and was not downloaded from s3://models/"):
        download(store(minio, prefix), target)
    assert visible(target) == {"config.json": b"mine"}


WRONG_SECRET = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": "another"}
REFUSED: tuple[tuple[str, str, Callable[[Minio], dict[str, Any]], str], ...] = (
    ("an absent bucket", "s3://absent/x", lambda minio: {}, "there is no bucket absent; correct the address"),
    ("an empty prefix", "s3://models/none", lambda minio: {}, "no object has this prefix"),
    ("a part of a name", "s3://models/hal", lambda minio: {}, "no object has this prefix"),
    (
        "a wrong secret",
        "s3://models/x",
        lambda minio: {"environment": WRONG_SECRET},
        "SignatureDoesNotMatch .* the store refuses the credentials; correct AWS_ACCESS_KEY_ID",
    ),
    (
        "an unknown key",
        "s3://models/x",
        lambda minio: {"environment": WRONG_SECRET | {"AWS_ACCESS_KEY_ID": "nobody"}},
        "InvalidAccessKeyId .* the store refuses the credentials",
    ),
    (
        "a bucket that is nobody's",
        "s3://minio/x",
        lambda minio: {},
        r"AllAccessDisabled .*lack a permission; grant s3:ListBucket on minio and s3:GetObject",
    ),
    (
        "no credentials",
        "s3://models/x",
        lambda minio: {"environment": {}},
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not set",
    ),
    (
        "nobody at the endpoint",
        "s3://models/x",
        lambda minio: {"endpoint": "http://127.0.0.1:1"},
        "no answer: Connection refused; check endpoint",
    ),
    (
        "a name that is none",
        "s3://models/x",
        lambda minio: {"endpoint": "http://store.invalid"},
        "no answer: failed to lookup address",
    ),
    (
        "TLS where there is none",
        "s3://models/x",
        lambda minio: {"endpoint": minio.url.replace("http", "https")},
        "no answer: Invalid",
    ),
)


@pytest.mark.parametrize(
    ("uri", "changes", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_the_store_refuses_is_told_in_plain_words(
    minio: Minio, target: Path, uri: str, changes: Callable[[Minio], dict[str, Any]], message: str
) -> None:
    obstore.put(minio.store(BUCKET), "half/config.json", b"{}", use_multipart=False)
    options = {"endpoint": minio.url, "environment": minio.environment} | changes(minio)
    with pytest.raises(DownloadFailed, match=message) as failure:
        download(ObjectStore(uri, **options), target)
    assert not target.exists()
    assert "another" not in str(failure.value)


def test_the_report_of_a_failure_has_its_kind_and_no_secret(minio: Minio, target: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    code, _, stderr = finished(run("nowhere", target, minio.url, "--report", str(report)))
    assert code == WeightsUnfit.exit_code
    assert stderr.startswith("error: s3://models/nowhere")
    told = json.loads(report.read_text())
    assert told["error"] == "DownloadFailed"
    assert "no object has this prefix" in told["message"]
    assert PASSWORD not in report.read_text()

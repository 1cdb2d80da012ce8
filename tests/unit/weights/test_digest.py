"""The digest of weights: what it is made of, and that every change is found and named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave_weights.digest import (
    WeightsFile,
    differences,
    digest_of,
    hash_files,
    list_files,
    read_manifest,
    verify,
    write_manifest,
)
from conclave_weights.errors import DigestMismatch, WeightsUnfit

FILES = {"config.json": b"{}", "a/shard-1.safetensors": b"\x00" * 5000, "a-b.txt": b"x"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    root = tmp_path / "weights"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_the_digest_is_over_the_sorted_lines_of_path_size_and_sha256(weights: Path) -> None:
    lines = sorted(
        f"{name}\0{len(content)}\0{hashlib.sha256(content).hexdigest()}\n".encode() for name, content in FILES.items()
    )
    assert digest_of(hash_files(weights)) == "sha256:" + hashlib.sha256(b"".join(lines)).hexdigest()


def test_threads_and_listing_order_do_not_matter(weights: Path) -> None:
    files = hash_files(weights, threads=1)
    assert hash_files(weights, threads=8) == files
    assert digest_of(reversed(files)) == digest_of(files)


def test_progress_counts_every_byte(weights: Path) -> None:
    counted: list[int] = []
    hash_files(weights, on_progress=counted.append)
    assert sum(counted) == sum(len(content) for content in FILES.values())


def test_hidden_files_and_lost_and_found_are_no_weights(weights: Path) -> None:
    before = digest_of(hash_files(weights))
    (weights / ".gitattributes").write_text("x")
    (weights / ".cache").mkdir()
    (weights / ".cache" / "lock").write_text("x")
    (weights / "lost+found").mkdir()
    assert digest_of(hash_files(weights)) == before


def flip_a_byte(root: Path) -> None:
    shard = root / "a/shard-1.safetensors"
    content = bytearray(shard.read_bytes())
    content[4321] ^= 1
    shard.write_bytes(content)


def truncate(root: Path) -> None:
    (root / "a/shard-1.safetensors").write_bytes(b"\x00" * 4999)


def append(root: Path) -> None:
    (root / "a/shard-1.safetensors").write_bytes(b"\x00" * 5001)


def remove(root: Path) -> None:
    (root / "config.json").unlink()


def add(root: Path) -> None:
    (root / "model.py").write_text("import os")


def rename(root: Path) -> None:
    (root / "a/shard-1.safetensors").rename(root / "a/shard-2.safetensors")


def swap_two(root: Path) -> None:
    first, second = (root / "config.json").read_bytes(), (root / "a-b.txt").read_bytes()
    (root / "config.json").write_bytes(second)
    (root / "a-b.txt").write_bytes(first)


CHANGES = [
    pytest.param(flip_a_byte, ["a/shard-1.safetensors", "content changed"], id="one byte flipped"),
    pytest.param(truncate, ["a/shard-1.safetensors: 4999 bytes, expected 5000: truncated"], id="a file truncated"),
    pytest.param(append, ["a/shard-1.safetensors: 5001 bytes, expected 5000"], id="a byte appended"),
    pytest.param(remove, ["config.json: missing"], id="a file missing"),
    pytest.param(add, ["model.py: not part of the weights"], id="a file added"),
    pytest.param(rename, ["a/shard-1.safetensors: renamed to a/shard-2.safetensors"], id="a file renamed"),
    pytest.param(swap_two, ["config.json: 1 bytes", "a-b.txt: 2 bytes"], id="two files swapped"),
]


@pytest.mark.parametrize(("change", "named"), CHANGES)
def test_every_change_is_refused_and_named(weights: Path, change: Callable[[Path], None], named: list[str]) -> None:
    manifest = hash_files(weights)
    digest = digest_of(manifest)
    assert verify(weights, digest) == manifest
    change(weights)
    with pytest.raises(DigestMismatch) as refusal:
        verify(weights, digest, manifest=manifest)
    assert [part for part in named if part not in str(refusal.value)] == []
    with pytest.raises(DigestMismatch, match=digest):
        verify(weights, digest)


def test_a_manifest_that_is_not_the_digests_own_is_refused(weights: Path) -> None:
    manifest = hash_files(weights)
    with pytest.raises(DigestMismatch, match="weights manifest"):
        verify(weights, digest_of(manifest), manifest=manifest[1:])


@pytest.mark.parametrize(
    ("link", "target"),
    [
        pytest.param("extra.safetensors", "/etc/hostname", id="a link that escapes"),
        pytest.param("extra.safetensors", "config.json", id="a link to a file beside it"),
        pytest.param("up", "..", id="a link to the parent directory"),
        pytest.param("nowhere", "missing", id="a dangling link"),
    ],
)
def test_links_are_refused(weights: Path, link: str, target: str) -> None:
    (weights / link).symlink_to(target)
    with pytest.raises(WeightsUnfit, match=f"{link} is a symbolic link to {target}"):
        list_files(weights)


def test_a_fifo_is_refused(weights: Path) -> None:
    import os

    os.mkfifo(weights / "pipe")
    with pytest.raises(WeightsUnfit, match="pipe is neither file nor directory"):
        list_files(weights)


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_no_files_no_digest(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsUnfit, match=name):
        list_files(tmp_path / name)


PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1)
WEIGHTS_FILES = st.lists(
    st.builds(
        WeightsFile,
        path=PATHS,
        size_bytes=st.integers(0, 2**50),
        sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    ),
    unique_by=lambda file: file.path,
)


@given(WEIGHTS_FILES, WEIGHTS_FILES)
def test_two_sets_have_one_digest_exactly_when_nothing_differs(
    one: list[WeightsFile], other: list[WeightsFile]
) -> None:
    assert (digest_of(one) == digest_of(other)) == (differences(one, other) == ())


@given(WEIGHTS_FILES.map(lambda files: [f for f in files if not set(f.path) & set("\x85\u2028\u2029")]))
def test_a_manifest_reads_back_as_written(files: list[WeightsFile]) -> None:
    assert read_manifest(write_manifest(files)) == tuple(sorted(files))


@pytest.mark.parametrize("line", ["", "abc 1 x", "0" * 64 + " x config.json", "0" * 64 + " 12 "])
def test_a_malformed_manifest_line_is_named(line: str) -> None:
    with pytest.raises(WeightsUnfit, match="line 1"):
        read_manifest(line + "\n")

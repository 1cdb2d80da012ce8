"""The digest of weights: what it is made of, and that every change is found and named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave_weights.errors import DigestMismatch, WeightsUnfit
from conclave_weights.verify.digest import (
    WeightsFile,
    differences,
    digest_of,
    hash_files,
    list_files,
    read_manifest,
    verify,
    write_manifest,
)

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


def overwrite(root: Path) -> None:
    (root / "a-b.txt").write_bytes((root / "config.json").read_bytes())


def swap_two(root: Path) -> None:
    first, second = (root / "config.json").read_bytes(), (root / "a-b.txt").read_bytes()
    (root / "config.json").write_bytes(second)
    (root / "a-b.txt").write_bytes(first)


SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
CHANGES = [
    pytest.param(
        flip_a_byte,
        rf"a/shard-1.safetensors: sha256 \w+, expected {SHA256['a/shard-1.safetensors']}: "
        "content changed; copy it again",
        id="one byte flipped",
    ),
    pytest.param(
        truncate, "a/shard-1.safetensors: 4999 bytes, expected 5000: truncated; copy it again", id="a file truncated"
    ),
    pytest.param(
        append, "a/shard-1.safetensors: 5001 bytes, expected 5000: too long; copy it again", id="a byte appended"
    ),
    pytest.param(remove, "config.json: missing, expected 2 bytes; copy it", id="a file missing"),
    pytest.param(add, r"model.py: not part of the weights \(9 bytes\); remove it", id="a file added"),
    pytest.param(
        rename, "a/shard-1.safetensors: renamed to a/shard-2.safetensors; rename it back", id="a file renamed"
    ),
    pytest.param(
        overwrite,
        rf"a-b.txt: has the contents of config.json \(sha256 {SHA256['config.json']}\), "
        rf"expected sha256 {SHA256['a-b.txt']}: overwritten; copy it again",
        id="a file overwritten by another",
    ),
    pytest.param(
        swap_two,
        rf"a-b.txt: has the contents of config.json .*: exchanged with config.json; exchange their names\n"
        rf"  config.json: has the contents of a-b.txt \(sha256 {SHA256['a-b.txt']}\), "
        rf"expected sha256 {SHA256['config.json']}: exchanged with a-b.txt; exchange their names",
        id="two files swapped",
    ),
]


@pytest.mark.parametrize(("change", "named"), CHANGES)
def test_every_change_is_refused_and_told_apart(weights: Path, change: Callable[[Path], None], named: str) -> None:
    manifest = hash_files(weights)
    digest = digest_of(manifest)
    assert verify(weights, digest) == verify(weights, None, manifest=manifest) == manifest
    change(weights)
    for wanted in (digest, None):
        with pytest.raises(DigestMismatch) as refusal:
            verify(weights, wanted, manifest=manifest)
        assert re.fullmatch(named, str(refusal.value).partition("\n  ")[2])
    with pytest.raises(DigestMismatch, match=digest):
        verify(weights, digest)


def test_a_file_replaced_by_a_link_is_refused_as_a_link(weights: Path, tmp_path: Path) -> None:
    manifest = hash_files(weights)
    (weights / "config.json").rename(tmp_path / "elsewhere")
    (weights / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsUnfit, match=r"config.json is a symbolic link to .*elsewhere.*cp -rL"):
        verify(weights, None, manifest=manifest)


def test_nothing_to_verify_against_is_an_error(weights: Path) -> None:
    with pytest.raises(ValueError, match="give a digest, a manifest, or both"):
        verify(weights, None)


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


ANY_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
"""As a file system takes them: with the line feeds that end the digest's lines."""
SPLICES = st.sampled_from(["a", "a\n", "a\nb", "1", f"1\n{'0' * 64}", f"{'0' * 64}\na"])


@given(
    *[
        st.lists(
            st.builds(
                WeightsFile,
                path=ANY_NAMES | SPLICES,
                size_bytes=st.integers(0, 3),
                sha256=st.sampled_from(["0" * 64, "1" * 64]),
            ),
            max_size=4,
            unique_by=lambda file: file.path,
        )
    ]
    * 2
)
def test_no_name_makes_two_sets_one_digest(one: list[WeightsFile], other: list[WeightsFile]) -> None:
    assert (digest_of(one) == digest_of(other)) == (sorted(one) == sorted(other))


@given(WEIGHTS_FILES, WEIGHTS_FILES)
def test_two_sets_have_one_digest_exactly_when_nothing_differs(
    one: list[WeightsFile], other: list[WeightsFile]
) -> None:
    assert (digest_of(one) == digest_of(other)) == (differences(one, other) == ())


@given(WEIGHTS_FILES.filter(bool))
def test_a_manifest_reads_back_as_written(files: list[WeightsFile]) -> None:
    assert read_manifest(write_manifest(files)) == tuple(sorted(files))


@pytest.mark.parametrize(
    "line", ["", "abc 1 x", "0" * 64 + " x config.json", "0" * 64 + " ² x", "g" * 64 + " 1 x", "0" * 64 + " 12 "]
)
def test_a_malformed_manifest_line_is_named(line: str) -> None:
    with pytest.raises(WeightsUnfit, match="line 1"):
        read_manifest(line + "\n")


def test_a_file_named_twice_in_a_manifest_is_refused() -> None:
    line = "0" * 64 + " 1 config.json\n"
    with pytest.raises(WeightsUnfit, match=r"line 2 has config\.json for the second time"):
        read_manifest(line + line)

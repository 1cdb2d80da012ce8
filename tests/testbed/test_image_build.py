"""What the builder makes anew, what it finds and what it leaves out, over a Debian that is an empty directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tools.images.build import Builder, debian_key
from tools.images.dockerfile import DockerfileError
from tools.images.layers import StepFailed
from tools.images.machine import MachineUnfit, borrowed_environment, sources_of

DOCKERFILE = """
FROM debian:bookworm-slim AS base
FROM base AS files
COPY big /opt/big
FROM base AS image
COPY --from=files /opt/big /opt/big
COPY small /opt/small/
ENV HOME=/home
USER 1:1
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A tree to copy from."""
    context = tmp_path / "context"
    (context / "big/__pycache__").mkdir(parents=True)
    (context / "big/__pycache__/x.pyc").write_text("of another Python")
    (context / "big/run").write_text("x")
    (context / "big/run").chmod(0o700)
    (context / "small").write_text("small")
    return context


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Holds a base layer already."""
    opt = tmp_path / "cache" / "layers" / debian_key("bookworm") / "diff" / "opt"
    opt.mkdir(parents=True)
    opt.chmod(0o711)
    return tmp_path / "cache"


def _files(layer: Path) -> dict[str, str]:
    return {str(path.relative_to(layer)): path.read_text() for path in layer.rglob("*") if path.is_file()}


def test_an_image_is_its_layers_and_its_configuration(context: Path, cache: Path) -> None:
    image = Builder(DOCKERFILE, context, cache).image("image")
    assert [_files(layer) for layer in image.layers] == [{}, {"opt/big/run": "x"}, {"opt/small/small": "small"}]
    assert image.environment["HOME"] == "/home"
    assert image.configuration == {"User": "1:1"}
    (run,) = image.layers[1].glob("opt/big/run")
    assert stat.S_IMODE(run.stat().st_mode) == 0o755, "readable for the image's user, whatever the checkout's modes are"
    assert stat.S_IMODE((image.layers[1] / "opt").stat().st_mode) == 0o711, "the directory of the layer below"


CHANGES: dict[str, tuple[str, str, list[int]]] = {
    "nothing": ("elsewhere", "x", []),
    "a file that the last step copies": ("small", "other", [2]),
    "a file below all steps": ("big/run", "other", [1, 2]),
    "byte code of this machine": ("big/__pycache__/x.pyc", "other", []),
}


@pytest.mark.parametrize(("path", "text", "made"), CHANGES.values(), ids=CHANGES)
def test_what_is_made_anew_after_a_change(path: str, text: str, made: list[int], context: Path, cache: Path) -> None:
    before = Builder(DOCKERFILE, context, cache).image("image").layers
    (context / path).write_text(text)
    after = Builder(DOCKERFILE, context, cache).image("image").layers
    assert [number for number, layer in enumerate(after) if layer not in before] == made


def test_a_directory_that_is_kept_apart_leaves_a_mount_point(context: Path, cache: Path) -> None:
    whole = Builder(DOCKERFILE, context, cache).image("image")
    image = Builder(DOCKERFILE, context, cache, apart=["/opt/big"]).image("image")
    assert list((image.layers[1] / "opt/big").iterdir()) == []
    assert _files(image.apart["/opt/big"]) == {"run": "x"}
    assert _files(image.layers[2]) == _files(whole.layers[2])
    assert image.key != whole.key


def test_an_archive_is_written_once(context: Path, cache: Path) -> None:
    builder = Builder(DOCKERFILE, context, cache)
    image = builder.image("image")
    path = builder.archive(image, "image", "conclave/x:1")
    path.write_bytes(b"imported already")
    assert builder.archive(image, "image", "conclave/x:1") == path
    assert path.read_bytes() == b"imported already"
    assert builder.archive(image, "image", "conclave/x:2") != path


def test_prune_removes_what_no_build_asked_for(context: Path, cache: Path) -> None:
    first = Builder(DOCKERFILE, context, cache)
    old_archive = first.archive(first.image("image"), "image", "conclave/x:1")
    (cache / "layers" / "0123.partial").mkdir()
    for path in (old_archive, *(cache / "layers").iterdir()):
        os.utime(path, (1e9, 1e9))
    (context / "small").write_text("other")
    builder = Builder(DOCKERFILE, context, cache)
    image = builder.image("image")
    archive = builder.archive(image, "image", "conclave/x:1")
    builder.prune(before=1e9 + 1)
    left = set((cache / "layers").iterdir())
    assert {layer.parent for layer in image.layers} < left
    assert len(left) == 4, "three of the image, and the one that it copied from"
    assert list(cache.glob("*.tar")) == [archive]


FAULTS: dict[str, tuple[str, str]] = {
    "a base that debootstrap cannot make": (
        "FROM alpine:3 AS image",
        "FROM alpine:3: expected a stage or debian:SUITE-slim",
    ),
    "a digest, which debootstrap cannot honour": (
        f"FROM debian:bookworm-slim@sha256:{'0' * 64} AS image",
        "expected a stage or debian:SUITE-slim",
    ),
    "a file that is not there": (
        "FROM debian:bookworm-slim AS image\nCOPY none /x",
        "COPY .*none: there is no such file",
    ),
    "another target": ("FROM debian:bookworm-slim AS other", "no stage image; expected one of other"),
    "nothing that could be apart": ("FROM debian:bookworm-slim AS image", "no COPY --from to /opt/big"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(text: str, message: str, context: Path, cache: Path) -> None:
    with pytest.raises(DockerfileError, match=message):
        Builder(text, context, cache, apart=["/opt/big"]).image("image")


def test_a_tree_of_several_layers_is_not_copied_in_part(context: Path, cache: Path) -> None:
    text = DOCKERFILE.replace("COPY big /opt/big", "COPY big /opt/big\nCOPY small /opt/big/")
    with pytest.raises(StepFailed, match="/opt/big lies in 2 layers; expected 1"):
        Builder(text, context, cache).image("image")


TARGETS = [
    "Vendor|stable|http://vendor.example/apt|main",
    "Debian|trixie-security|http://mirror.example/security|main",
    "Debian|trixie|http://mirror.example/debian|main",
    "Debian|trixie-updates|http://mirror.example/debian|main",
    "Debian|trixie|http://mirror.example/debian|main",
]


@pytest.mark.parametrize("suite", ["trixie", "bookworm"], ids=["this machine's own release", "another release"])
def test_debian_comes_from_where_this_machine_gets_it(suite: str) -> None:
    assert sources_of(TARGETS, suite) == [
        ("http://mirror.example/debian", suite, "main"),
        ("http://mirror.example/debian", f"{suite}-updates", "main"),
        ("http://mirror.example/security", f"{suite}-security", "main"),
    ]


def test_a_machine_without_debians_lists_is_told_how_to_get_them() -> None:
    with pytest.raises(MachineUnfit, match="apt-get update"):
        sources_of(["Vendor|stable|http://vendor.example/apt|main"], "bookworm")


def test_a_step_gets_the_way_to_the_network_and_no_other_variable() -> None:
    own = {"https_proxy": "p", "PIP_INDEX_URL": "i", "UV_HTTP_TIMEOUT": "9", "HF_TOKEN": "secret", "PIP_CERT": "/own"}
    borrowed = borrowed_environment(own)
    assert {name: value for name, value in borrowed.items() if not value.startswith("/mnt/")} == {
        "https_proxy": "p",
        "PIP_INDEX_URL": "i",
        "UV_HTTP_TIMEOUT": "9",
    }

"""The tar that container runtimes import: its digests, what it makes of deletions and hard links, its sameness."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tools.images.archive import write_archive

CONFIGURATION = {"User": "1000:1000", "Env": ["PATH=/bin"]}


def _layer(directory: Path) -> Path:
    (directory / "etc").mkdir(parents=True)
    (directory / "etc/b").write_text("second")
    (directory / "etc/a").write_text("first")
    (directory / "etc/a").chmod(0o750)
    os.link(directory / "etc/a", directory / "etc/hard")
    (directory / "etc/soft").symlink_to("/nowhere")
    for path in (*directory.glob("etc/*"), directory / "etc"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    return directory


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], list[list[tarfile.TarInfo]]]:
    with tarfile.open(path) as archive:
        content = {member.name: _bytes(archive, member.name) for member in archive}
        (manifest,) = json.loads(content["manifest.json"])
        config = json.loads(content[manifest["Config"]])
        layers = []
        for name, diff_id in zip(manifest["Layers"], config["rootfs"]["diff_ids"], strict=True):
            assert diff_id == f"sha256:{hashlib.sha256(content[name]).hexdigest()}"
            file = archive.extractfile(name)
            assert file is not None
            with tarfile.open(fileobj=file) as layer:
                layers.append(layer.getmembers())
    return manifest, config, layers


def _bytes(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def test_an_image_is_named_configured_and_ordered(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    write_archive(archive, "conclave/x:1", [_layer(tmp_path / "one"), _layer(tmp_path / "two")], CONFIGURATION, "amd64")
    manifest, config, layers = _read(archive)
    assert manifest["RepoTags"] == ["conclave/x:1"]
    assert (config["architecture"], config["os"], config["config"]) == ("amd64", "linux", CONFIGURATION)
    assert [member.name for member in layers[0]] == ["etc", "etc/a", "etc/b", "etc/hard", "etc/soft"]
    by_name = {member.name: member for member in layers[0]}
    assert stat.S_IMODE(by_name["etc/a"].mode) == 0o750
    assert (by_name["etc/hard"].islnk(), by_name["etc/hard"].linkname) == (True, "etc/a")
    assert by_name["etc/soft"].linkname == "/nowhere"
    assert {member.mtime for member in layers[0]} == {10**9}
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_archive(tmp_path / name, "conclave/x:1", [_layer(tmp_path / f"{name}-layer")], CONFIGURATION, "amd64")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes the device nodes by which overlayfs marks a deletion")
def test_a_deletion_of_overlayfs_is_the_image_formats(tmp_path: Path) -> None:
    below, above = _layer(tmp_path / "below"), tmp_path / "above"
    (above / "etc").mkdir(parents=True)
    os.mknod(above / "etc/a", stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(above / "etc", "trusted.overlay.opaque", b"y")
    write_archive(tmp_path / "image.tar", "conclave/x:1", [below, above], CONFIGURATION, "amd64")
    _, _, layers = _read(tmp_path / "image.tar")
    assert [member.name for member in layers[1]] == ["etc", "etc/.wh..wh..opq", "etc/.wh.a"]

"""Images without a registry: the pause image, built here, and the import of docker-archive files into both nodes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.build_tools import cache_dir, program
from tools.cluster.commands import ctr
from tools.cluster.layout import PAUSE_IMAGE, ClusterError, Layout, Node

PAUSE_SOURCE = Path(__file__).with_name("pause.c")


def import_archive(layout: Layout, archive: Path) -> tuple[str, ...]:
    """Into the containerd of every node; returns the names that the archive gave. Raises ClusterError."""
    names = archive_names(archive)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: _import(node, archive), layout.nodes))
    return names


def archive_names(archive: Path) -> tuple[str, ...]:
    """The tags that a docker-archive carries. Raises ClusterError where it is none."""
    try:
        with tarfile.open(archive, "r:") as tar:
            member = tar.extractfile("manifest.json")
            manifest = json.load(member) if member else []
    except (OSError, KeyError, tarfile.TarError, json.JSONDecodeError) as error:
        raise ClusterError(f"{archive}: {error}; expected a docker-archive tar with a manifest.json") from error
    return tuple(tag for image in manifest for tag in image.get("RepoTags") or ())


def pause_archive() -> Path:
    """Compiled once for each source, into the cache."""
    target = cache_dir() / f"pause-{hashlib.sha256(PAUSE_SOURCE.read_bytes()).hexdigest()[:16]}.tar"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        binary, partial = target.with_suffix(".bin"), target.with_suffix(".partial")
        done = subprocess.run(
            ["gcc", "-Os", "-static", "-s", "-o", binary, PAUSE_SOURCE], capture_output=True, text=True
        )
        if done.returncode:
            raise ClusterError(f"pause image: gcc exited {done.returncode}:\n{done.stderr}")
        partial.write_bytes(docker_archive(PAUSE_IMAGE, {"pause": binary.read_bytes()}, ["/pause"]))
        partial.rename(target)
        binary.unlink()
    return target


def docker_archive(name: str, programs: Mapping[str, bytes], entrypoint: list[str]) -> bytes:
    """An image of one layer that holds static programs only; the same bytes for the same arguments."""
    layer = _tar({path: (content, 0o755) for path, content in programs.items()})
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "User": "65534:65534"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"layer.tar": layer, "config.json": _json(config), "manifest.json": _json(manifest)}
    return _tar({path: (content, 0o644) for path, content in files.items()})


def _import(node: Node, archive: Path) -> None:
    command = ctr(program("ctr"), node.socket, "images", "import", archive)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"{node.name}: {archive} was not imported: {done.stderr.strip()}")


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, (content, mode) in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _architecture() -> str:
    """As Go names it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

"""Writes an image as a docker-archive, the tar that `docker load` and `ctr images import` read.

Called by `build`. The same layers and configuration give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

_OPAQUE = "trusted.overlay.opaque"


def write_archive(
    path: Path, reference: str, layers: Sequence[Path], configuration: Mapping[str, object], architecture: str
) -> None:
    """`layers` lowest first, each an upper directory of overlayfs."""
    partial = path.with_name(f"{path.name}.partial")
    with tarfile.open(partial, "w") as archive:
        digests = []
        for number, layer in enumerate(layers):
            with tempfile.TemporaryFile(dir=path.parent) as file:
                _write_layer(file, layer, layers[:number])
                size = file.tell()
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                _add(archive, f"{digest}.tar", file, size)
            digests.append(digest)
        config = _json(
            {
                "architecture": architecture,
                "config": configuration,
                "created": "1970-01-01T00:00:00Z",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            }
        )
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = _json([{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}.tar" for digest in digests]}])
        _add(archive, name, io.BytesIO(config), len(config))
        _add(archive, "manifest.json", io.BytesIO(manifest), len(manifest))
    partial.rename(path)


def entries(layer: Path, below: Sequence[Path]) -> Iterator[tuple[tarfile.TarInfo, Path]]:
    """What a layer's tar holds, sorted by name; a deletion is an empty file named `.wh.NAME`."""
    first_names: dict[int, str] = {}
    for path in _walk(layer):
        name = str(path.relative_to(layer))
        status = path.lstat()
        info = tarfile.TarInfo(name)
        info.uid, info.gid, info.mode = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
        info.mtime = int(status.st_mtime)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            yield tarfile.TarInfo(str(Path(name).with_name(f".wh.{Path(name).name}"))), path
        elif stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
            yield info, path
            if _is_opaque(path) and any((lower / name).is_dir() for lower in below):
                yield tarfile.TarInfo(f"{name}/.wh..wh..opq"), path
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
            yield info, path
        elif stat.S_ISREG(status.st_mode):
            first = first_names.setdefault(status.st_ino, name)
            if first == name:
                info.size = status.st_size
            else:
                info.type, info.linkname = tarfile.LNKTYPE, first
            yield info, path


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    archive.addfile(info, content)


def _write_layer(file: IO[bytes], layer: Path, below: Sequence[Path]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, path in entries(layer, below):
            if info.isreg() and info.size:
                with path.open("rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)


def _walk(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, _OPAQUE) == b"y"
    except OSError:
        return False


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

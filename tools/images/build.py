"""Walks the stages of a Dockerfile and has each of their steps made, unless the cache holds it already.

Called by `__main__` and by e2e. A step's key is made of the steps before it, its own words and the content of what it
copies, so that the same inputs build nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tools.images import archive
from tools.images.dockerfile import Configure, Copy, DockerfileError, Instruction, Run, Stage, parse
from tools.images.layers import LayerStore, say, tree_of

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MADE_HERE = {"BASE_DIGEST": "debootstrap"}
"""What a Dockerfile is read with: the base comes from no registry and has no digest; Debian's signature is checked."""
_DEBIAN = re.compile(r"debian:([a-z]+)-slim(@debootstrap)?")


@dataclass(frozen=True)
class Image:
    """A stage that was built."""

    key: str
    layers: tuple[Path, ...]
    """Lowest first."""
    environment: Mapping[str, str]
    configuration: Mapping[str, object]
    """Besides the environment, by the names of the image format."""
    apart: Mapping[str, Path]
    """Directories that the image has only a mount point for, by path in the image."""


class Builder:
    """Builds targets of one Dockerfile from one context directory."""

    def __init__(self, text: str, context: Path, cache: Path, apart: Sequence[str] = ()) -> None:
        """`apart`: paths whose `COPY --from` is left out of images: whoever runs them mounts `Image.apart` there."""
        self._stages: Mapping[str, Stage] = parse(text, MADE_HERE)
        self._context = context
        self._cache = cache
        self._store = LayerStore(cache / "layers")
        self._apart = frozenset(apart)
        self._built: dict[tuple[str, frozenset[str]], Image] = {}

    def image(self, target: str) -> Image:
        """Raises DockerfileError where there is no such stage."""
        if target not in self._stages:
            raise DockerfileError(f"there is no stage {target}; expected one of {', '.join(self._stages)}")
        with self._locked():
            image = self._stage(target, self._apart)
        missing = self._apart - set(image.apart)
        if missing:
            raise DockerfileError(f"{target} has no COPY --from to {', '.join(sorted(missing))}; nothing can be apart")
        return image

    def archive(self, image: Image, target: str, reference: str) -> Path:
        """The image as a tar to import, written where the cache has none."""
        name = hashlib.sha256(f"{image.key} {reference}".encode()).hexdigest()[:16]
        path = self._cache / f"{target}-{name}.tar"
        if not path.is_file():
            start = time.monotonic()
            configuration = {**image.configuration, "Env": [f"{k}={v}" for k, v in image.environment.items()]}
            archive.write_archive(path, reference, image.layers, configuration, ARCHITECTURES[platform.machine()])
            size_mb = path.stat().st_size / 1e6
            say(f"{target}: {path.name}, {size_mb:.0f} MB, {time.monotonic() - start:.0f} s")
        os.utime(path)
        return path

    def prune(self, before: float) -> None:
        """Remove layers and archives that no build has asked for since a time of the clock."""
        with self._locked():
            self._store.prune(before)
            for path in self._cache.glob("*.tar*"):
                if path.stat().st_mtime < before:
                    path.unlink()

    def run(self, image: Image, command: Sequence[str]) -> int:
        """A command in the image, as a pod with a read-only root runs it; returns its exit code."""
        home = image.environment.get("HOME", "/tmp")
        return self._store.execute(
            command,
            image.layers,
            image.environment,
            user=str(image.configuration.get("User", "0:0")),
            mounts=image.apart,
            writable=dict.fromkeys(("/tmp", home)),
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _stage(self, name: str, apart: frozenset[str]) -> Image:
        if (name, apart) not in self._built:
            stage = self._stages[name]
            image = self._stage(stage.base, apart) if stage.base in self._stages else self._debian(stage.base)
            for number, instruction in enumerate(stage.instructions, start=1):
                if isinstance(instruction, Copy) and instruction.stage is not None:
                    self._stage(instruction.stage, frozenset())
                start = time.monotonic()
                before = image
                image = self._step(image, instruction, apart)
                seconds = time.monotonic() - start
                if len(image.layers) > len(before.layers) and seconds >= 1:
                    step = type(instruction).__name__.upper()
                    say(f"{name} {number}/{len(stage.instructions)} {step} {_words(instruction)}: {seconds:.0f} s")
            self._built[name, apart] = image
        return self._built[name, apart]

    def _debian(self, reference: str) -> Image:
        match = _DEBIAN.fullmatch(reference)
        if match is None:
            raise DockerfileError(f"FROM {reference}: expected a stage or debian:SUITE-slim, which debootstrap makes")
        key = debian_key(match[1])
        return Image(key, (self._store.debian(key, match[1]),), {"PATH": _PATH}, {}, {})

    def _step(self, image: Image, instruction: Instruction, apart: frozenset[str]) -> Image:
        match instruction:
            case Configure("Env", Mapping() as variables):
                return _next(image, instruction, environment={**image.environment, **variables})
            case Configure("Labels", Mapping() as labels):
                before = image.configuration.get("Labels", {})
                assert isinstance(before, Mapping)
                return _next(image, instruction, configuration={"Labels": {**before, **labels}})
            case Configure(name, value):
                return _next(image, instruction, configuration={name: value})
            case Run(command, caches):
                after = _next(image, instruction)
                layer = self._store.run(after.key, command, image.layers, image.environment, caches)
            case Copy(None, sources, target):
                files = [(self._context / source, _target(source, target)) for source in sources]
                after = _next(image, instruction, content="".join(_digest(path) for path, _ in files))
                layer = self._store.place(after.key, files, image.layers, linked=False)
            case Copy(str() as stage, sources, target):
                source = self._stage(stage, frozenset())
                trees = [(tree_of(source.layers, path), _target(path, target)) for path in sources]
                if target in apart and len(trees) == 1:
                    after = _next(image, instruction, content=f"{source.key} apart")
                    after = replace(after, apart={**image.apart, target: trees[0][0]})
                    layer = self._store.empty(after.key, target, image.layers)
                else:
                    after = _next(image, instruction, content=source.key)
                    layer = self._store.place(after.key, trees, image.layers, linked=True)
        return replace(after, layers=(*image.layers, layer))


def debian_key(suite: str) -> str:
    """Of the layer that debootstrap makes."""
    return _key("debian", suite, platform.machine())


def _next(
    image: Image,
    instruction: Instruction,
    *,
    content: str = "",
    environment: Mapping[str, str] | None = None,
    configuration: Mapping[str, object] | None = None,
) -> Image:
    return replace(
        image,
        key=_key(image.key, repr(instruction), content),
        environment=environment or image.environment,
        configuration={**image.configuration, **(configuration or {})},
    )


def _target(source: str, target: str) -> str:
    """As COPY has it: into a directory that ends in a slash, else to that very path."""
    return f"{target}{Path(source).name}" if target.endswith("/") else target


def _digest(path: Path) -> str:
    lines = []
    for file in _files(path):
        executable = os.access(file, os.X_OK)
        content = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
        lines.append([str(file.relative_to(path.parent)), executable, hashlib.sha256(content).hexdigest()])
    return _key(json.dumps(lines))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if not path.exists():
            raise DockerfileError(f"COPY {path}: there is no such file")
        yield path
    elif path.name != "__pycache__":
        for child in sorted(path.iterdir()):
            yield from _files(child)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _words(instruction: Instruction) -> str:
    match instruction:
        case Run(command):
            words = command
        case Copy(stage, sources, target):
            words = f"{stage or 'context'}: {' '.join(sources)} to {target}"
        case Configure(name):
            words = name
    return f"{words[:60]} …" if len(words) > 61 else words

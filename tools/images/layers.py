"""Layers as directories of the cache, one for each key: made once, whole or not at all, and never changed.

Called by `build`. A layer is the upper directory of an overlay mount, so a whiteout in it is the kernel's own, which
`archive` translates. All is mounted in a namespace that ends with the step: a killed build leaves no mount.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tools.images import machine

_NAMESPACE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
_DROPPED = ("dev/*", "etc/hostname", "etc/apt/sources.list", "var/lib/apt/lists/*", "var/cache/apt/*", "var/log/*")
_UNREAD = ("usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*")
_DPKG = """path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
"""


class StepFailed(Exception):
    """A step ended with an error; the message ends with what it printed last."""


class LayerStore:
    """The directory of all layers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def debian(self, key: str, suite: str) -> Path:
        """A minimal Debian, as lean as the `slim` base image."""

        def make(partial: Path) -> None:
            diff = partial / "diff"
            (mirror, _, _), *_ = machine.debian_sources(suite)
            command = ["debootstrap", "--force-check-gpg", "--variant=minbase", suite, str(diff), mirror]
            _execute([*_NAMESPACE, *command], partial / "log", f"debootstrap {suite}", {})
            for pattern in (*_DROPPED, *_UNREAD):
                for path in diff.glob(pattern):
                    _remove(path, kept="copyright" if pattern.startswith("usr/share/doc") else None)
            (diff / "etc/resolv.conf").write_text("")
            (diff / "etc/dpkg/dpkg.cfg.d/lean").write_text(_DPKG)

        return self._made(key, make)

    def run(
        self, key: str, command: str, below: Sequence[Path], environment: Mapping[str, str], caches: Iterable[str]
    ) -> Path:
        """What a shell command changes as root over the layers `below` (lowest first)."""

        def make(partial: Path) -> None:
            for name in ("root", "work"):
                (partial / name).mkdir()
            machine.write_borrowed(partial / "borrowed", suite_of(below[0]))
            upper = f"upperdir={partial.name}/diff,workdir={partial.name}/work,redirect_dir=off"
            lines = [self._overlay(below, partial / "root", upper), *_system_mounts(partial / "root")]
            lines.append(_bind(partial / "borrowed", partial / "root" / machine.BORROWED.lstrip("/"), "ro"))
            for cache in caches:
                lines += _cache_mount(cache, partial / "root")
            variables = {**environment, **machine.borrowed_environment(os.environ)}
            lines.append(_chroot(partial / "root", ["/bin/sh", "-c", command], variables))
            self._in_namespace(lines, partial / "log", command)
            for name in ("root", "work", "borrowed"):
                shutil.rmtree(partial / name)

        return self._made(key, make)

    def place(self, key: str, trees: Iterable[tuple[Path, str]], below: Sequence[Path], *, linked: bool) -> Path:
        """Files or whole directories at absolute paths; `linked` where the sources are layers themselves."""

        def make(partial: Path) -> None:
            for source, target in trees:
                parent = self._parents(target, partial / "diff", below)
                _place(source, parent / Path(target).name, os.link if linked else _copied)

        return self._made(key, make)

    def empty(self, key: str, target: str, below: Sequence[Path]) -> Path:
        """A directory for a mount."""
        return self._made(key, lambda partial: self._parents(f"{target}/.", partial / "diff", below))

    def execute(
        self,
        command: Sequence[str],
        layers: Sequence[Path],
        environment: Mapping[str, str],
        *,
        user: str,
        mounts: Mapping[str, Path],
        writable: Iterable[str],
    ) -> int:
        """Runs a command as a pod would: that user, a read-only root, and fresh `writable` directories."""
        root = self._directory / f"run.{os.getpid()}"
        root.mkdir()
        try:
            lines = [self._overlay(layers, root, "ro"), *_system_mounts(root, resolver=False)]
            lines += [_bind(source, root / target.lstrip("/"), "ro") for target, source in mounts.items()]
            lines += [f"mount -t tmpfs -o mode=1777 tmpfs {root}{target}" for target in writable]
            lines.append(_chroot(root, command, environment, user=user))
            return subprocess.run([*_NAMESPACE, "sh", "-euc", "\n".join(lines)], cwd=self._directory).returncode
        finally:
            root.rmdir()

    def prune(self, before: float) -> None:
        """Remove layers that no build has asked for since a time of the clock, and what failed ones left."""
        for path in self._directory.iterdir():
            if path.stat().st_mtime < before:
                shutil.rmtree(path)

    def _made(self, key: str, make: Callable[[Path], object]) -> Path:
        target = self._directory / key
        if not target.is_dir():
            partial = self._directory / f"{key}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "diff").mkdir(parents=True)
            make(partial)
            partial.rename(target)
        os.utime(target)
        return target / "diff"

    def _overlay(self, layers: Sequence[Path], root: Path, options: str) -> str:
        """Relative names: the kernel reads options of at most a page."""
        lower = ":".join(str(layer.relative_to(self._directory)) for layer in reversed(layers))
        return f"mount -t overlay -o lowerdir={lower},{options} overlay {shlex.quote(str(root))}"

    def _in_namespace(self, lines: Sequence[str], log: Path, label: str) -> None:
        _execute([*_NAMESPACE, "sh", "-euc", "\n".join(lines)], log, label, {}, self._directory)

    def _parents(self, target: str, diff: Path, below: Sequence[Path]) -> Path:
        """The directory that holds `target`, in `diff`, with the owner and mode that the layers below give it."""
        made = diff
        for name in Path(target).parts[1:-1] if not target.endswith("/.") else Path(target).parts[1:]:
            made = made / name
            if not made.exists():
                made.mkdir(mode=0o755)
                relative = made.relative_to(diff)
                lower = next((layer / relative for layer in reversed(below) if (layer / relative).is_dir()), None)
                if lower is not None:
                    _copy_status(lower, made)
        return made


def suite_of(base: Path) -> str:
    """The Debian release that the lowest layer holds."""
    release = (base / "usr/lib/os-release").read_text()
    return next(line.partition("=")[2] for line in release.splitlines() if line.startswith("VERSION_CODENAME="))


def tree_of(layers: Sequence[Path], path: str) -> Path:
    """A path of an image as it lies in one layer; raises StepFailed where none or several have it."""
    found = [layer for layer in layers if os.path.lexists(layer / path.lstrip("/"))]
    if len(found) != 1:
        raise StepFailed(
            f"{path} lies in {len(found)} layers; expected 1: let one RUN make the whole of what is copied"
        )
    return found[0] / path.lstrip("/")


def say(words: str) -> None:
    """Progress, on stderr."""
    print(f"images: {words}", file=sys.stderr, flush=True)


def _system_mounts(root: Path, *, resolver: bool = True) -> list[str]:
    at = shlex.quote(str(root))
    lines = [f"mount -t proc proc {at}/proc", f"mount --rbind /dev {at}/dev"]
    if resolver:
        lines.append(f"mount --bind /etc/resolv.conf {at}/etc/resolv.conf")
    return lines


def _bind(source: Path, target: Path, mode: str) -> str:
    at = shlex.quote(str(target))
    return f"mount --bind {shlex.quote(str(source))} {at} && mount -o remount,bind,{mode} {at}"


def _cache_mount(cache: str, root: Path) -> list[str]:
    """In place of the cache lies this machine's own of the same name, so that nothing is fetched twice."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / Path(cache).name
    own.mkdir(parents=True, exist_ok=True)
    target = root / cache.lstrip("/")
    return [f"mkdir -p {shlex.quote(str(target))}", _bind(own, target, "rw")]


def _chroot(root: Path, command: Sequence[str], environment: Mapping[str, str], user: str = "0:0") -> str:
    variables = [f"{name}={value}" for name, value in environment.items()]
    return shlex.join(["exec", "chroot", f"--userspec={user}", str(root), "/usr/bin/env", "-i", *variables, *command])


def _execute(
    command: Sequence[str], log: Path, label: str, environment: Mapping[str, str], cwd: Path | None = None
) -> None:
    label = f"{label[:70]} …" if len(label) > 71 else label
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            while True:
                try:
                    process.wait(timeout=15)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  {time.monotonic() - start:.0f} s: {label}")
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode:
        said = log.read_text(errors="replace")[-3000:]
        raise StepFailed(f"`{label}` exited {process.returncode}; {log} has all that it printed:\n{said}")


def _place(source: Path, target: Path, put: Callable[[Path, Path], object]) -> None:
    status = source.lstat()
    if stat.S_ISDIR(status.st_mode):
        target.mkdir(exist_ok=True)
        for child in sorted(source.iterdir()):
            if child.name != "__pycache__" or put is os.link:
                _place(child, target / child.name, put)
        if put is os.link:
            _copy_status(source, target)
    elif stat.S_ISLNK(status.st_mode):
        target.symlink_to(source.readlink())
    elif stat.S_ISREG(status.st_mode):
        put(source, target)
    else:
        raise StepFailed(f"{source} is neither file, directory nor link; expected one of them in what is copied")


def _copy_status(source: Path, target: Path) -> None:
    shutil.copystat(source, target)
    os.chown(target, source.stat().st_uid, source.stat().st_gid)


def _copied(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
    os.utime(target, (0, 0))


def _remove(path: Path, kept: str | None) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink()
    elif kept is not None and (path / kept).exists():
        for child in path.iterdir():
            if child.name != kept:
                _remove(child, None)
    else:
        shutil.rmtree(path)

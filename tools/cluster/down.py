"""`make cluster-down`: ends the cluster, takes back what it changed on the machine, and checks that nothing is left.

It also ends a cluster that came up in part or lost processes, and says nothing is there where there is none.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tools.cluster import machine
from tools.cluster.layout import ClusterError, Layout
from tools.cluster.processes import Record, all_recorded, kill, stop

PROGRAMS_OF_PODS = frozenset({"containerd-shim-runc-v2", "runc"})
"""They are children of nobody: found by the state folder in their arguments."""
CNI_RESULTS = Path("/var/lib/cni/results")
SHIM_SOCKETS = Path("/run/containerd/s")
LOG_LINKS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
PATHS = (CNI_RESULTS, SHIM_SOCKETS, LOG_LINKS, DEVICE_PLUGINS)
"""Folders whose place cannot be chosen; each is removed where it is empty in the end, and its parents of that kind."""


def down(layout: Layout) -> None:
    """Raises ClusterError that names everything that is left."""
    records = all_recorded(layout)
    first = [record for record in records if not record.name.startswith(("etcd", "containerd"))]
    stop(first, grace_s=5)
    shim_sockets = list(_shim_sockets(layout))
    _end_pods(layout)
    stop(records, grace_s=5)
    _end_pods(layout)
    _unmount(layout)
    machine.restore(layout)
    _remove_files(layout, shim_sockets)
    found = left(layout, records)
    if found:
        raise ClusterError("left behind:\n" + "\n".join(f"  {thing}" for thing in found))
    shutil.rmtree(layout.state, ignore_errors=True)
    layout.lock.unlink(missing_ok=True)


def left(layout: Layout, records: tuple[Record, ...]) -> list[str]:
    """Every process, mount, link, chain, cgroup, setting and file of ours that is still there, one line each."""
    found = [f"process {record.pid} ({record.name})" for record in records if record.running]
    found += [f"process {pid} ({name})" for pid, name in _pod_processes(layout)]
    found += [f"mount {path}" for path in _mounts(layout)]
    found += machine.left(layout)
    found += [f"file {path}" for path in _files_elsewhere(layout)]
    return found


def _end_pods(layout: Layout) -> None:
    """All that runs in the nodes' cgroups, then the shims that watched over it."""
    deadline = time.monotonic() + 20
    while (alive := _pod_processes(layout)) and time.monotonic() < deadline:
        for pid, _ in alive:
            kill(pid)
        time.sleep(0.05)


def _pod_processes(layout: Layout) -> list[tuple[int, str]]:
    pods = [(pid, "in a pod") for pid in machine.cgroup_processes(layout)]
    return pods + [(pid, name) for pid, name in _by_arguments(layout)]


def _by_arguments(layout: Layout) -> Iterator[tuple[int, str]]:
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (directory / "cmdline").read_text(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name = Path(arguments[0]).name
        if name in PROGRAMS_OF_PODS and any(argument.startswith(f"{layout.state}/") for argument in arguments):
            yield int(directory.name), name


def _mounts(layout: Layout) -> list[Path]:
    """Those in the state folder, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return sorted((point for point in points if point.is_relative_to(layout.state)), reverse=True)


def _unmount(layout: Layout) -> None:
    for point in _mounts(layout):
        if subprocess.run(["umount", point], capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", point], capture_output=True)


def _shim_sockets(layout: Layout) -> Iterator[Path]:
    for node in layout.nodes:
        for file in (node.directory / "containerd" / "state").glob("io.containerd.runtime.v2.task/*/*/bootstrap.json"):
            address = json.loads(file.read_text()).get("address", "")
            yield Path(address.removeprefix("unix://"))


def _files_elsewhere(layout: Layout) -> list[Path]:
    found = [path for path in CNI_RESULTS.glob("*") if _is_of(layout, json.loads(path.read_text()).get("netns", ""))]
    links = (path for path in LOG_LINKS.glob("*") if path.is_symlink())
    return found + [path for path in links if _is_of(layout, path.readlink())]


def _is_of(layout: Layout, path: str | Path) -> bool:
    return Path(path).is_relative_to(layout.state)


def _remove_files(layout: Layout, shim_sockets: list[Path]) -> None:
    for path in (*shim_sockets, *_files_elsewhere(layout)):
        path.unlink(missing_ok=True)
    for name in ("kubelet.sock", "kubelet_internal_checkpoint"):
        (DEVICE_PLUGINS / name).unlink(missing_ok=True)
    for path in PATHS:
        for folder in (path, path.parent):
            if folder.is_dir() and not any(folder.iterdir()) and folder != LOG_LINKS.parent:
                folder.rmdir()

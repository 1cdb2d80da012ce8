"""The whole machine as far as a cluster could change it: taken before `up` and after `down`, the two must be equal.

Wider than what down.py looks for by name, so that it also finds what nobody thought of. Only a machine on which nothing
else changes meanwhile can be compared.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

from tools.cluster import down, machine

Snapshot = dict[str, list[str]]
IDENTITIES = (Path("/etc/hosts"), Path("/etc/resolv.conf"))
FOLDERS = (
    *down.PATHS,
    *(Path(path) for path in ("/etc/cni", "/etc/containerd", "/etc/kubernetes", "/opt/containerd", "/run/containerd")),
    *(Path(path) for path in ("/run/netns", "/run/runc", "/run/nri", "/var/lib/kubelet", "/var/lib/containerd")),
    *(Path(path) for path in ("/var/lib/cni", "/var/log/pods", "/var/log/containers", "/usr/libexec/kubernetes")),
)
PROGRAMS = re.compile(
    r"^(etcd|kube.*|containerd.*|runc|coredns|ray-operator|pause)$",
)
COUNTERS = re.compile(r" \[\d+:\d+\]$")
SETTING_FOLDERS = ("net/ipv4", "net/ipv6", "net/bridge", "net/netfilter", "vm", "kernel")
CHANGES_BY_ITSELF = re.compile(
    r"conf/(conclave|veth)|neigh/|nf_conntrack_(count|buckets)|random/|ns_last_pid|pty/nr|route/|stat|perf_event|"
    r"max_lock_depth|tainted|overflow|sched_|loadavg|icmp_ratemask|tcp_fastopen_key"
)


def snapshot() -> Snapshot:
    """Each part as sorted lines."""
    return {
        "processes": sorted(_processes()),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": sorted(link["ifname"] for link in json.loads(machine.run("ip", "-j", "link"))),
        "addresses": sorted(_addresses()),
        "routes": sorted(machine.run("ip", "route").splitlines()),
        "network namespaces": sorted(machine.run("ip", "netns", "list").splitlines()),
        "rules": sorted(_rules()),
        "sets": sorted(_optional("ipset", "list", "-name").splitlines()),
        "cgroups": sorted(_cgroups()),
        "settings": sorted(_settings()),
        "files": sorted(_files()),
    }


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that came or went."""
    found = []
    for part in sorted(before.keys() | after.keys()):
        was, now = before.get(part, []), after.get(part, [])
        found += [f"{part}: new: {line}" for line in now if line not in was]
        found += [f"{part}: gone: {line}" for line in was if line not in now]
    return found


def _processes() -> list[str]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            name = (directory / "cmdline").read_text(errors="replace").split("\0")[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if PROGRAMS.match(Path(name).name):
            found.append(f"{directory.name} {name}")
    return found


def _addresses() -> list[str]:
    links = json.loads(machine.run("ip", "-j", "addr"))
    return [f"{link['ifname']} {entry['local']}/{entry['prefixlen']}" for link in links for entry in link["addr_info"]]


def _rules() -> list[str]:
    """Chains that an empty table has anyway are left out: iptables makes a table when it is first looked at."""
    found = []
    for family in machine.FAMILIES:
        for line in machine.run(f"{family}-save").splitlines():
            is_builtin = re.match(r":[A-Z]+ ACCEPT", line)
            if not line.startswith(("#", "*", "COMMIT")) and not is_builtin:
                found.append(f"{family} {COUNTERS.sub('', line)}")
    return found


def _cgroups() -> list[str]:
    return [str(path) for hierarchy, _ in machine.hierarchies() for path in hierarchy.rglob("*") if path.is_dir()]


def _settings() -> list[str]:
    found = []
    for folder in SETTING_FOLDERS:
        for path in (machine.SYSCTL / folder).rglob("*"):
            name = str(path.relative_to(machine.SYSCTL))
            if not path.is_file() or CHANGES_BY_ITSELF.search(name):
                continue
            try:
                found.append(f"{name} = {path.read_text().strip()}")
            except (OSError, UnicodeDecodeError):  # write-only, or of a feature that is off
                continue
    return found


def _files() -> list[str]:
    found = [f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in IDENTITIES if path.is_file()]
    for folder in FOLDERS:
        found += [str(path) for path in (folder, *(folder.rglob("*") if folder.is_dir() else ())) if path.exists()]
    return found


def _optional(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except FileNotFoundError:
        return ""

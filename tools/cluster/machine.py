"""What the cluster changes on the machine itself: bridge, cgroups, kernel settings, rules of iptables.

`prepare` makes it, `restore` takes it back, `left` says what of it is there. Called by up.py and down.py; needs root.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tools.cluster.configs import EVICTING_BELOW_PERCENT
from tools.cluster.layout import (
    CHAIN_PREFIXES,
    CONTROL_PLANE_ADDRESS,
    DNS_ADDRESS,
    HOST_BRIDGE,
    HOST_NETWORK,
    NODE_ADDRESS,
    POD_NETWORK,
    SERVICE_NETWORK,
    SET_PREFIX,
    ClusterError,
    Layout,
)

SYSCTL = Path("/proc/sys")
WANTED = {"net/ipv4/ip_forward": "1"}
SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/accept_redirects",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What we, kubelets, kube-proxy and CNI plugins set; in an order in which it can be restored: the kernel changes
accept_redirects together with ip_forward."""
RULES = f"""*nat
:CONCLAVE-POSTROUTING - [0:0]
-A CONCLAVE-POSTROUTING -s {POD_NETWORK} ! -d {POD_NETWORK} -j MASQUERADE
COMMIT
*filter
:CONCLAVE-FORWARD - [0:0]
-A CONCLAVE-FORWARD -s {POD_NETWORK} -j ACCEPT
-A CONCLAVE-FORWARD -d {POD_NETWORK} -j ACCEPT
COMMIT
"""
JUMPS = (("nat", "POSTROUTING", "CONCLAVE-POSTROUTING"), ("filter", "FORWARD", "CONCLAVE-FORWARD"))
FAMILIES = ("iptables", "ip6tables")
GIB = 2**30
ROOM_BYTES = 9 * GIB
"""Of disk that the images of `make e2e`, unpacked by two containerds, and its pods take. Seen in a whole run:
4.1 GiB, and 8.3 for seconds in the test that has a kubelet evict a pod."""


def run(*command: str | Path, stdin: str | None = None) -> str:
    """stdout. Raises ClusterError with what the command said."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True)
    if done.returncode:
        words = " ".join(map(str, command))
        raise ClusterError(f"`{words}` exited {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def prepare(layout: Layout) -> None:
    """Idempotent: what is there already stays."""
    _set_kernel(layout)
    _make_bridge()
    for hierarchy in _hierarchies_to_make():
        for node in layout.nodes:
            _make_cgroup(hierarchy / node.cgroup)
    run("iptables-restore", "--wait", "--noflush", stdin=RULES)
    for table, chain, target in JUMPS:
        if subprocess.run(["iptables", "-w", "-t", table, "-C", chain, "-j", target], capture_output=True).returncode:
            run("iptables", "-w", "-t", table, "-A", chain, "-j", target)


def refuse_where_taken() -> None:
    """Raises ClusterError where another Kubernetes, or a network of the same addresses, is on this machine."""
    for family in FAMILIES:
        chains = sorted({chain for _, chain in _chains(run(f"{family}-save"))})
        if chains:
            raise ClusterError(
                f"{family} has chains of another Kubernetes ({', '.join(chains[:3])}, …): this cluster would mix "
                "with it; take a machine without one, or end the other first"
            )
    for link in json.loads(run("ip", "-j", "addr")):
        for entry in link["addr_info"]:
            network = ipaddress.ip_network(f"{entry['local']}/{entry['prefixlen']}", strict=False)
            for ours in (HOST_NETWORK, POD_NETWORK, SERVICE_NETWORK):
                if network.version == ours.version and network.overlaps(ours):
                    raise ClusterError(f"{link['ifname']} has {network}, which overlaps with the cluster's {ours}")


def refuse_where_full(state: Path) -> None:
    """Raises ClusterError where the folder's disk has no room: kubelets would evict pods that have started."""
    place = next(path for path in (state, *state.parents) if path.is_dir())
    disk = shutil.disk_usage(place)
    evicting_below = disk.total * EVICTING_BELOW_PERCENT // 100
    if disk.free < evicting_below + ROOM_BYTES:
        raise ClusterError(
            f"state folder {state}: its disk has {disk.free / GIB:.1f} GiB free, and the cluster takes up to "
            f"{ROOM_BYTES / GIB:.0f} GiB; kubelets evict all pods below {evicting_below / GIB:.1f} GiB. Free some, for "
            "instance by `.venv/bin/python -m tools.images operator --prune 7`, or name a folder on another disk by "
            "--state"
        )


def restore(layout: Layout) -> None:
    """Takes all of it back; what is not there is no error."""
    for link in our_links():
        _delete_link(link)
    for family in FAMILIES:
        script = removal_script(run(f"{family}-save"))
        if script:
            run(f"{family}-restore", "--wait", "--noflush", stdin=script)
    for name in _our_sets():
        run("ipset", "destroy", name)
    for cgroup in our_cgroups(layout):
        for directory, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):  # what stays is found by `left`, and named
                Path(directory).rmdir()
    for setting, value in _settings_before(layout).items():
        path = SYSCTL / setting
        if path.read_text().strip() != value:
            path.write_text(value)


def left(layout: Layout) -> list[str]:
    """What of it is there now, one line each."""
    found = [f"link {link}" for link in our_links()]
    for family in FAMILIES:
        found += [f"{family} {table} {chain}" for table, chain in _chains(run(f"{family}-save"))]
    found += [f"ipset {name}" for name in _our_sets()]
    found += [f"cgroup {cgroup}" for cgroup in our_cgroups(layout)]
    found += [
        f"{setting} is {now}, was {before}"
        for setting, before in _settings_before(layout).items()
        if (now := (SYSCTL / setting).read_text().strip()) != before
    ]
    return found


def _delete_link(link: str) -> None:
    """One that has gone by itself, as a pod's does a moment after its process, is no error."""
    try:
        run("ip", "link", "delete", link)
    except ClusterError:
        if link in our_links():
            raise


def our_links() -> list[str]:
    """Our bridges and what is plugged into them; the other ends of those lie in pods."""
    links = json.loads(run("ip", "-j", "link"))
    bridges = {link["ifname"] for link in links if re.fullmatch(rf"{HOST_BRIDGE[:-1]}\d", link["ifname"])}
    return [link["ifname"] for link in links if link["ifname"] in bridges or link.get("master") in bridges]


def our_cgroups(layout: Layout) -> list[Path]:
    return [
        hierarchy / node.cgroup
        for hierarchy, _ in hierarchies()
        for node in layout.nodes
        if (hierarchy / node.cgroup).is_dir()
    ]


def cgroup_processes(layout: Layout) -> list[int]:
    """Ids of all that run in the nodes' cgroups: pods."""
    return sorted({pid for cgroup in our_cgroups(layout) for pid in processes_below(cgroup)})


def processes_below(cgroup: Path) -> set[int]:
    """A group may go while it is read: containerd, still there, takes away those whose processes have ended."""
    found: set[int] = set()
    for directory, _, _ in os.walk(cgroup):
        try:
            found |= {int(pid) for pid in (Path(directory) / "cgroup.procs").read_text().split()}
        except OSError:  # the group went, or is threaded
            continue
    return found


def removal_script(saved: str) -> str:
    """What iptables-restore needs to take our chains, and the jumps to them, out of what iptables-save printed."""
    script: list[str] = []
    for table, lines in _tables(saved):
        chains = [chain for name, chain in _chains(saved) if name == table]
        if not chains:
            continue
        targets = re.compile(rf" -[jg] ({'|'.join(map(re.escape, chains))})(?: |$)")
        jumps = [line for line in lines if line.startswith("-A ") and targets.search(line)]
        foreign = [f"-D {line[3:]}" for line in jumps if line.split()[1] not in chains]
        script += [f"*{table}", *foreign, *(f"-F {c}" for c in chains), *(f"-X {c}" for c in chains), "COMMIT"]
    return "".join(f"{line}\n" for line in script)


def _our_sets() -> list[str]:
    return [
        name for name in run("ipset", "list", "-name").split() if name.startswith((SET_PREFIX, f"inet6:{SET_PREFIX}"))
    ]


def _chains(saved: str) -> list[tuple[str, str]]:
    """Table and name of each chain that is ours."""
    return [
        (table, line[1:].split()[0])
        for table, lines in _tables(saved)
        for line in lines
        if line.startswith(":") and line[1:].startswith(CHAIN_PREFIXES)
    ]


def _tables(saved: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^\*", saved, flags=re.MULTILINE)[1:]:
        table, *lines = part.splitlines()
        yield table, lines


def _set_kernel(layout: Layout) -> None:
    for module, sign in (("br_netfilter", SYSCTL / "net/bridge"), ("overlay", None)):
        if sign is not None and not sign.is_dir():
            run("modprobe", module)
        if sign is None and f"nodev\t{module}\n" not in Path("/proc/filesystems").read_text():
            run("modprobe", module)
    if not layout.changed_settings.is_file():
        before = {name: (SYSCTL / name).read_text().strip() for name in SETTINGS if (SYSCTL / name).is_file()}
        layout.changed_settings.write_text(json.dumps(before))
    for setting, value in WANTED.items():
        if (SYSCTL / setting).read_text().strip() != value:
            (SYSCTL / setting).write_text(value)


def _settings_before(layout: Layout) -> dict[str, str]:
    return json.loads(layout.changed_settings.read_text()) if layout.changed_settings.is_file() else {}


def _make_bridge() -> None:
    if HOST_BRIDGE not in our_links():
        run("ip", "link", "add", HOST_BRIDGE, "type", "bridge")
    for address in (CONTROL_PLANE_ADDRESS, DNS_ADDRESS, NODE_ADDRESS):
        run("ip", "address", "replace", f"{address}/{HOST_NETWORK.prefixlen}", "dev", HOST_BRIDGE)
    run("ip", "link", "set", HOST_BRIDGE, "up")
    # The machine itself reaches services even where it has no default route.
    run("ip", "route", "replace", SERVICE_NETWORK.with_prefixlen, "dev", HOST_BRIDGE)


def _make_cgroup(path: Path) -> None:
    path.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts with none, and then takes no process
        if (path / name).is_file() and not (path / name).read_text().strip():
            (path / name).write_text((path.parent / name).read_text())


def _hierarchies_to_make() -> list[Path]:
    """All of version 1, its named ones too, where it has a controller; else the one of version 2."""
    found = hierarchies()
    is_first = any(kind == "controllers" for _, kind in found)
    return [path for path, kind in found if (kind == "unified") != is_first]


def hierarchies() -> list[tuple[Path, str]]:
    """Mount points of cgroups: of controllers, of a name, or unified."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.append((Path(where), "unified"))
        elif kind == "cgroup":
            found.append((Path(where), "named" if "name=" in options else "controllers"))
    return found

"""What the cluster is made of: its addresses, names and paths. Pure; every other module of this folder reads it.

Everything that the cluster makes on the machine carries a name from here (`conclave…`), lies in the state folder, or is
a chain of kube-proxy: this is how `down` finds it, and how it leaves everybody else's alone.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from tools.build_tools import cache_dir

HOST_BRIDGE = "conclave0"
"""A bridge without ports, to whose addresses the control plane and the kubelets are bound."""
HOST_NETWORK = ipaddress.ip_network("10.243.0.0/24")
CONTROL_PLANE_ADDRESS = "10.243.0.1"
DNS_ADDRESS = "10.243.0.10"
NODE_ADDRESS = "10.243.0.11"
"""Of every node: whoever filters for the pods of one address then filters for those of all, on the one machine."""
POD_NETWORK = ipaddress.ip_network("10.244.0.0/16")
SERVICE_NETWORK = ipaddress.ip_network("10.96.0.0/16")
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"
API_URL = f"https://{CONTROL_PLANE_ADDRESS}:6443"
PAUSE_IMAGE = "localhost/conclave/pause:1"
CHAIN_PREFIXES = ("CONCLAVE-", "KUBE-")
"""Chains of iptables: ours, and those of kube-proxy and of the engine of network policies."""
SET_PREFIX = "KUBE-"
"""Sets of addresses, of that engine."""
LONGEST_SOCKET_PATH = 107
"""Bytes that Linux takes for the path of a socket."""


class ClusterError(Exception):
    """The cluster cannot be made, or something of it is left; the message says what, and what to do."""


@dataclass(frozen=True)
class Node:
    """One kubelet with a containerd of its own; both share the machine with every other node."""

    name: str
    number: int
    directory: Path

    @property
    def port(self) -> int:
        """Of the kubelet; its health is told on another. Nodes differ in ports, not in addresses (NODE_ADDRESS)."""
        return 10250 + 10 * self.number

    @property
    def health_port(self) -> int:
        return self.port + 1

    @property
    def pod_network(self) -> str:
        return f"10.244.{self.number}.0/24"

    @property
    def bridge(self) -> str:
        return f"conclave{self.number}"

    @property
    def cgroup(self) -> str:
        return f"conclave-{self.name}"

    @property
    def cni_network(self) -> str:
        return f"conclave-{self.name}"

    @property
    def socket(self) -> Path:
        return self.directory / "containerd.sock"

    @property
    def kubelet(self) -> Path:
        return self.directory / "kubelet"

    @property
    def sockets(self) -> tuple[Path, ...]:
        """All whose path is ours to choose."""
        return self.socket, Path(f"{self.socket}.ttrpc"), self.kubelet / "pod-resources" / "kubelet.sock"


@dataclass(frozen=True)
class Layout:
    """The state folder and the nodes."""

    state: Path

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(f"node-{number}", number, self.state / f"node-{number}") for number in (1, 2))

    @property
    def credentials(self) -> Path:
        return self.state / "credentials"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def records(self) -> Path:
        """One file for each process that was started."""
        return self.state / "processes"

    @property
    def changed_settings(self) -> Path:
        """The kernel settings as they were before."""
        return self.state / "sysctl.json"

    @property
    def lock(self) -> Path:
        """Beside the state folder, since it outlives it."""
        return self.state.with_name(f"{self.state.name}.lock")

    @property
    def kubeconfig(self) -> Path:
        return self.credentials / "admin.kubeconfig"


def layout_of(state: Path | None) -> Layout:
    """Of the given folder, else of $CONCLAVE_CACHE/cluster. Raises ClusterError where its path is too long."""
    layout = Layout((state or cache_dir() / "cluster").absolute())
    longest = max(len(os.fsencode(path)) for node in layout.nodes for path in node.sockets)
    if longest > LONGEST_SOCKET_PATH:
        raise ClusterError(
            f"state folder {layout.state}: the sockets in it would have paths of {longest} bytes, Linux takes "
            f"{LONGEST_SOCKET_PATH}; choose a shorter one with --state"
        )
    return layout

"""Configuration files of the nodes' programs, as text. Pure; written by tools/cluster/nodes.py.

Both nodes share one machine: whatever has a default path or a default cgroup is given one of its own here, or each
kubelet would end the other's pods (cgroupRoot, podLogsDir) and the machine would keep files after the end.
"""

from __future__ import annotations

import json
from pathlib import Path

from tools.cluster.layout import (
    CONTROL_PLANE_ADDRESS,
    DNS_ADDRESS,
    DNS_SERVICE_ADDRESS,
    NODE_ADDRESS,
    PAUSE_IMAGE,
    POD_NETWORK,
    Layout,
    Node,
)

CNI_PLUGINS = Path("/usr/lib/cni")
"""Where Debian puts them."""
EVICTING_BELOW_PERCENT = 1
"""Of a disk; below it kubelets end the pods, whoever filled it."""


def containerd(node: Node) -> str:
    directory = node.directory / "containerd"
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc dies with "can't get final child's PID from pipe".
    return f"""version = 3
root = "{directory / "root"}"
state = "{directory / "state"}"

[grpc]
address = "{node.socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{directory / "opt"}"

[plugins."io.containerd.nri.v1.nri"]
disable = true

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{CNI_PLUGINS}"]
conf_dir = "{node.directory / "cni"}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
Root = "{directory / "runc"}"
SystemdCgroup = false
"""


def cni(node: Node) -> str:
    """A bridge a node, no host ports. Who leaves the pod network is masqueraded by a rule of ours, not here: pods see
    each other's addresses.
    """
    ranges = [[{"subnet": node.pod_network}]]
    ipam = {
        "type": "host-local",
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(node.directory / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": node.bridge, "isGateway": True, "hairpinMode": True, "ipam": ipam}
    return json.dumps({"cniVersion": "1.0.0", "name": node.cni_network, "plugins": [bridge]}, indent=1)


def kubelet(layout: Layout, node: Node) -> str:
    """Images are never collected: none could be fetched again."""
    credentials = layout.credentials
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cpuCFSQuota": False,  # a limit of a fraction of a CPU would make Ray's start take minutes
            "address": NODE_ADDRESS,
            "port": node.port,
            "healthzBindAddress": NODE_ADDRESS,
            "healthzPort": node.health_port,
            "tlsCertFile": str(credentials / f"kubelet-{node.name}.crt"),
            "tlsPrivateKeyFile": str(credentials / f"kubelet-{node.name}.key"),
            "authentication": {
                "x509": {"clientCAFile": str(credentials / "ca.crt")},
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{node.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{node.cgroup}",
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(node.directory / "pod-logs"),
            "volumePluginDir": str(node.directory / "volume-plugins"),
            "clusterDNS": [DNS_SERVICE_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": "/etc/resolv.conf",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "200Mi",
                "nodefs.available": f"{EVICTING_BELOW_PERCENT}%",
                "imagefs.available": f"{EVICTING_BELOW_PERCENT}%",
            },
        },
        indent=1,
    )


def kube_proxy(layout: Layout, node: Node) -> str:
    """One for the machine; it speaks for the first node and leaves the settings of conntrack alone."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(layout.credentials / "system-kube-proxy.kubeconfig")},
            "mode": "iptables",
            "clusterCIDR": str(POD_NETWORK),
            "hostnameOverride": node.name,
            "nodePortAddresses": [f"{NODE_ADDRESS}/32"],
            "healthzBindAddress": f"{CONTROL_PLANE_ADDRESS}:10256",
            "metricsBindAddress": f"{CONTROL_PLANE_ADDRESS}:10249",
            "iptables": {"localhostNodePorts": False},
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        },
        indent=1,
    )


def corefile(layout: Layout, resolv_conf: Path) -> str:
    """cluster.local from the API server, the rest, where the machine can ask somebody, from there."""
    asks = resolv_conf.is_file() and any(line.startswith("nameserver") for line in resolv_conf.read_text().splitlines())
    return f""". {{
    bind {DNS_ADDRESS}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {layout.credentials / "coredns.kubeconfig"}
        ttl 5
    }}
    {f"forward . {resolv_conf}" if asks else ""}
}}
"""

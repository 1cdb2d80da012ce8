"""The processes of the cluster, in the order in which they are started, and what each needs on disk.

`components` is called by up.py, which starts them, and by status.py, which counts them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.build_tools import program
from tools.cluster import commands, configs
from tools.cluster.credentials import KUBELET_CLIENT, pair
from tools.cluster.layout import API_URL, CONTROL_PLANE_ADDRESS, NODE_ADDRESS, Layout, Node
from tools.cluster.processes import Record, ensure

NAMES = (
    "etcd",
    "kube-apiserver",
    "containerd-node-1",
    "containerd-node-2",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "coredns",
    "kube-router",
    "kubelet-node-1",
    "kubelet-node-2",
    "ray-operator",
)


@dataclass(frozen=True)
class Starter:
    """Starts processes of one cluster; each of its methods returns what runs already where it does."""

    layout: Layout
    audit: bool
    free_port: Callable[[], int]

    def etcd(self) -> Record:
        # Its ports are kept: a second `up` must find the same store behind the API server.
        client, peer = self._kept_ports("etcd", 2)
        directory = self.layout.credentials / "etcd"
        urls = f"https://127.0.0.1:{client}", f"https://127.0.0.1:{peer}"
        secured = commands.etcd_credentials(pair(directory, "etcd"), directory / "ca.crt")
        return self._start("etcd", "etcd", *commands.etcd(self.layout.state / "etcd", *urls, *secured))

    def api_server(self) -> Record:
        credentials = self.layout.credentials
        store, kubelets = pair(credentials / "etcd", "kube-apiserver"), pair(credentials, KUBELET_CLIENT)
        options = [
            "--allow-privileged",
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            f"--etcd-cafile={credentials / 'etcd' / 'ca.crt'}",
            f"--etcd-certfile={store.certificate}",
            f"--etcd-keyfile={store.key}",
            f"--kubelet-certificate-authority={credentials / 'ca.crt'}",
            f"--kubelet-client-certificate={kubelets.certificate}",
            f"--kubelet-client-key={kubelets.key}",
            "--kubelet-preferred-address-types=InternalIP",
        ]
        if self.audit:
            policy = self._write(self.layout.state / "audit-policy.json", json.dumps(commands.AUDIT_POLICY))
            options += commands.audit(policy, self.layout.state / "audit.jsonl")
        return self._start(
            "kube-apiserver",
            "kube-apiserver",
            *commands.api_server(
                f"https://127.0.0.1:{self._kept_ports('etcd', 2)[0]}",
                CONTROL_PLANE_ADDRESS,
                int(API_URL.rpartition(":")[2]),
                pair(credentials, "kube-apiserver"),
                credentials / "ca.crt",
                credentials / "service-accounts.key",
                *options,
            ),
        )

    def controllers(self) -> list[Record]:
        credentials = self.layout.credentials
        return [
            self._start(
                "kube-controller-manager",
                "kube-controller-manager",
                *commands.controller_manager(
                    credentials / "system-kube-controller-manager.kubeconfig",
                    credentials / "service-accounts.key",
                    credentials / "ca.crt",
                    self.layout.state / "volume-plugins",
                ),
            ),
            self._start(
                "kube-scheduler",
                "kube-scheduler",
                *commands.scheduler(credentials / "system-kube-scheduler.kubeconfig"),
            ),
        ]

    def network(self) -> list[Record]:
        state = self.layout.state
        proxy = self._write(state / "kube-proxy.json", configs.kube_proxy(self.layout, self.layout.nodes[0]))
        names = self._write(state / "Corefile", configs.corefile(self.layout, Path("/etc/resolv.conf")))
        return [
            self._start("kube-proxy", "kube-proxy", f"--config={proxy}"),
            self._start("coredns", "coredns", f"-conf={names}"),
        ]

    def network_policies(self) -> Record:
        """Not beside kube-proxy's first rules: it writes the whole table filter, and kube-proxy tries again only when a
        Service changes (Kubernetes 1.36, `pkg/proxy/iptables/proxier.go:forceSyncProxyRules`)."""
        kubeconfig, node = self.layout.credentials / "kube-router.kubeconfig", self.layout.nodes[0].name
        return self._start("kube-router", "kube-router", *commands.network_policies(kubeconfig, node))

    def containerd(self, node: Node) -> Record:
        (node.directory / "cni").mkdir(parents=True, exist_ok=True)
        self._write(node.directory / "cni" / "10-conclave.conflist", configs.cni(node))
        config = self._write(node.directory / "containerd.toml", configs.containerd(node))
        # containerd finds its shim beside itself, runc in the PATH of the machine.
        return self._start(f"containerd-{node.name}", "containerd", f"--config={config}")

    def kubelet(self, node: Node) -> Record:
        config = self._write(node.directory / "kubelet.json", configs.kubelet(self.layout, node))
        kubeconfig = self.layout.credentials / f"system-node-{node.name}.kubeconfig"
        certificates = node.directory / "certificates"
        arguments = commands.kubelet(config, kubeconfig, node.kubelet, certificates, node.name, NODE_ADDRESS)
        return self._start(f"kubelet-{node.name}", "kubelet", *arguments)

    def ray_operator(self) -> Record:
        kubeconfig = self.layout.credentials / "kuberay.kubeconfig"
        addresses = f"{CONTROL_PLANE_ADDRESS}:8080", f"{CONTROL_PLANE_ADDRESS}:8082"
        return self._start("ray-operator", "ray-operator", *commands.ray_operator(kubeconfig, *addresses))

    def _start(self, name: str, binary: str, *arguments: str) -> Record:
        return ensure(self.layout, name, [program(binary), *arguments])

    def _write(self, path: Path, text: str) -> Path:
        """An unchanged file is not touched: kube-proxy ends when its configuration is written."""
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
        return path

    def _kept_ports(self, name: str, count: int) -> list[int]:
        path = self.layout.state / f"{name}-ports.json"
        if not path.is_file():
            path.write_text(json.dumps([self.free_port() for _ in range(count)]))
        ports: list[int] = json.loads(path.read_text())
        return ports

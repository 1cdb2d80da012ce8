"""Command lines of Kubernetes' own programs, as lists of arguments. Pure.

Called by tools/cluster/control_plane.py and nodes.py, and by tests/integration/testbed, which runs the control plane
alone on loopback.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.cluster.certificates import KeyPair
from tools.cluster.layout import SERVICE_NETWORK

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "None",
            "users": ["system:apiserver", "system:kube-controller-manager"],
            "verbs": ["get", "list", "watch"],
        },
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"], "verbs": ["get", "list", "watch"]},
        {"level": "Metadata"},
    ],
}
"""Metadata of every request except the control plane's own reads."""


def etcd(data: Path, client_url: str, peer_url: str, *options: str) -> list[str]:
    """One member that does not wait for the disk: what it holds need not outlive the machine."""
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=default={peer_url}",
        "--unsafe-no-fsync",
        "--log-level=warn",
        *options,
    ]


def etcd_credentials(pair: KeyPair, authority: Path) -> list[str]:
    """Only holders of a certificate of that authority are let in, for whoever writes etcd owns the cluster."""
    return [
        f"--cert-file={pair.certificate}",
        f"--key-file={pair.key}",
        f"--trusted-ca-file={authority}",
        "--client-cert-auth",
        f"--peer-cert-file={pair.certificate}",
        f"--peer-key-file={pair.key}",
        f"--peer-trusted-ca-file={authority}",
        "--peer-client-cert-auth",
    ]


def api_server(
    etcd_url: str,
    address: str,
    port: int,
    serving: KeyPair,
    client_authority: Path,
    service_account_key: Path,
    *options: str,
) -> list[str]:
    """Node and RBAC authorization; bound to one address, which it also advertises."""
    return [
        f"--etcd-servers={etcd_url}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--secure-port={port}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={client_authority}",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={service_account_key}",
        f"--service-account-key-file={service_account_key}",
        *options,
    ]


def audit(policy: Path, log: Path) -> list[str]:
    """One file of JSON lines that is never rotated."""
    return [f"--audit-policy-file={policy}", f"--audit-log-path={log}", "--audit-log-maxsize=0"]


def controller_manager(
    kubeconfig: Path, service_account_key: Path, authority: Path, volume_plugins: Path, *options: str
) -> list[str]:
    """It makes the folder of volume plugins, outside of all others where it is not told."""
    return [
        f"--kubeconfig={kubeconfig}",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={service_account_key}",
        f"--root-ca-file={authority}",
        f"--flex-volume-plugin-dir={volume_plugins}",
        "--leader-elect=false",
        "--secure-port=0",
        *options,
    ]


def scheduler(kubeconfig: Path) -> list[str]:
    return [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]


def network_policies(kubeconfig: Path, node: str) -> list[str]:
    """kube-router's filter alone: its router and its proxy, where the flaws reported of it lie, stay off."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        "--run-loadbalancer=false",
        "--health-port=0",
        "--metrics-port=0",
    ]


def ray_operator(kubeconfig: Path, metrics_address: str, health_address: str) -> list[str]:
    """Beside the control plane, so it reaches Ray's heads in pods through the API server."""
    return [
        f"-kubeconfig={kubeconfig}",
        "-use-kubernetes-proxy",
        "-enable-leader-election=false",
        f"-metrics-addr={metrics_address}",
        f"-health-probe-bind-address={health_address}",
    ]


def kubelet(config: Path, kubeconfig: Path, root: Path, certificates: Path, name: str, address: str) -> list[str]:
    return [
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={root}",
        f"--cert-dir={certificates}",
        f"--hostname-override={name}",
        f"--node-ip={address}",
    ]


def ctr(program: Path, socket: Path, *arguments: str | Path) -> list[str]:
    """containerd's own client, in the namespace that kubelets use."""
    return [str(program), f"--address={socket}", "--namespace=k8s.io", *map(str, arguments)]


def as_text(command: Sequence[str | Path]) -> list[str]:
    return [str(part) for part in command]

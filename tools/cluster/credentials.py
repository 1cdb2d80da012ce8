"""Certificates and kubeconfigs of a cluster, made whole at once when it is first brought up.

The authorities' own keys are forgotten: a cluster that is brought up again uses what lies there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tools.cluster.certificates import Authority, KeyPair
from tools.cluster.kubeconfig import write_kubeconfig
from tools.cluster.layout import API_SERVICE_ADDRESS, API_URL, CONTROL_PLANE_ADDRESS, NODE_ADDRESS, Layout

DAYS = 30
KUBELET_CLIENT = "kube-apiserver-kubelet-client"
USERS: dict[str, tuple[str, ...]] = {
    "admin": ("system:masters",),
    "system:kube-controller-manager": (),
    "system:kube-scheduler": (),
    "system:kube-proxy": (),
    "coredns": (),
    "kube-router": (),
    "kuberay": (),
}
"""Users with a kubeconfig, and their groups."""


def make_credentials(layout: Layout) -> None:
    """Nothing where they are there already. No file of a half-made set ever lies in the final place."""
    if layout.credentials.is_dir():
        return
    partial = layout.credentials.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    (partial / "etcd").mkdir()
    store = Authority(partial / "etcd", "conclave-cluster-etcd", DAYS)
    store.serving("etcd", ["127.0.0.1"], also_client=True)
    store.client("kube-apiserver", ())

    authority = Authority(partial, "conclave-cluster", DAYS)
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    authority.serving("kube-apiserver", [CONTROL_PLANE_ADDRESS, API_SERVICE_ADDRESS, *names])
    authority.client(KUBELET_CLIENT, ())
    authority.bare_key("service-accounts")
    for node in layout.nodes:
        authority.serving(f"kubelet-{node.name}", [NODE_ADDRESS, node.name])
    users = USERS | {f"system:node:{node.name}": ("system:nodes",) for node in layout.nodes}
    for user, groups in users.items():
        pair = authority.client(user, groups)
        final = KeyPair(*(layout.credentials / path.name for path in pair))
        write_kubeconfig(partial, "conclave", API_URL, layout.credentials / "ca.crt", user, final)
    partial.rename(layout.credentials)


def pair(directory: Path, name: str) -> KeyPair:
    return KeyPair(directory / f"{name}.crt", directory / f"{name}.key")

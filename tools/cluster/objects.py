"""Kubernetes objects of the cluster itself: roles, the DNS service, what a GPU operator says of a node. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tools.cluster.credentials import KUBELET_CLIENT
from tools.cluster.layout import DNS_ADDRESS, DNS_SERVICE_ADDRESS

Manifest = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Gpus:
    """The fake GPUs of one node."""

    count: int
    product: str
    memory_mib: int


def gpu_labels(gpus: Gpus, region: str) -> dict[str, str | None]:
    """As NVIDIA's GPU feature discovery writes them; None takes a label off."""
    present = gpus.count > 0
    return {
        "topology.kubernetes.io/region": region,
        "nvidia.com/gpu.present": "true" if present else None,
        "nvidia.com/gpu.product": gpus.product if present else None,
        "nvidia.com/gpu.count": str(gpus.count) if present else None,
        "nvidia.com/gpu.memory": str(gpus.memory_mib) if present else None,
    }


def gpu_status(gpus: Gpus) -> Manifest:
    """A merge patch of the node's status: the kubelet keeps a resource that it does not know."""
    resources = {"nvidia.com/gpu": str(gpus.count) if gpus.count else None}
    return {"status": {"capacity": resources, "allocatable": resources}}


def kuberay_role(home: Path, user: str) -> list[Manifest]:
    """KubeRay's own ClusterRole, bound to a user."""
    role = yaml.safe_load((home / "config/rbac/role.yaml").read_text())
    return [role, binding(user, role["metadata"]["name"], user)]


def kuberay_crds(home: Path) -> list[Path]:
    return sorted((home / "config/crd/bases").glob("*.yaml"))


def system_objects() -> list[Manifest]:
    """DNS is a process of the machine: its Service has no selector, and an EndpointSlice that points there."""
    rules: Sequence[Mapping[str, object]] = [
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    read = ["get", "list", "watch"]
    filters: Sequence[Mapping[str, object]] = [
        {"apiGroups": [""], "resources": ["pods", "services", "namespaces", "nodes", "endpoints"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
    ]
    ports = [{"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    service = {"name": "kube-dns", "namespace": "kube-system"}
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": "coredns"}, "rules": rules},
        binding("coredns", "coredns", "coredns"),
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": "kube-router"}, "rules": filters},
        binding("kube-router", "kube-router", "kube-router"),
        binding(KUBELET_CLIENT, "system:kubelet-api-admin", KUBELET_CLIENT),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service | {"labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": DNS_SERVICE_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": service | {"labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [DNS_ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
    ]


def binding(name: str, role: str, user: str) -> Manifest:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
    }

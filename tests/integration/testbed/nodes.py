"""Fake GPU nodes: Node objects with the labels and resources that a GPU operator gives a real one."""

from __future__ import annotations

from typing import Any

from tests.integration.testbed.kube import Kube

LAST_TRANSITION = "2026-01-01T00:00:00Z"


def gpu_node(name: str, product: str, count: int, memory_mib: int, region: str = "eu-west-1") -> dict[str, Any]:
    """The Node object, Ready, with `count` GPUs in capacity and allocatable."""
    resources = {"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "500Gi"}
    if count:
        resources["nvidia.com/gpu"] = str(count)
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": LAST_TRANSITION}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/region": region,
                "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.product": product,
                "nvidia.com/gpu.count": str(count),
                "nvidia.com/gpu.memory": str(memory_mib),
            },
        },
        "status": {"capacity": resources, "allocatable": resources, "conditions": [ready]},
    }


def create_gpu_node(
    kube: Kube, name: str, product: str, count: int, memory_mib: int, region: str = "eu-west-1"
) -> None:
    """Makes the node anew and takes off the not-ready taint that admission adds to every new node."""
    kube.delete("v1", "Node", name)
    kube.create(gpu_node(name, product, count, memory_mib, region))
    kube.patch("v1", "Node", name, {"spec": {"taints": None}})

"""Makes the plan's inventory of Node and Pod objects: product, memory, taken and free GPUs, who may be scheduled.

Pure; called by `observe`. A node counts where its labels name a product (GPU feature discovery, AMD's node labeller).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from conclave.api.modeldeployment import Toleration
from conclave.catalogue.accelerators import find_accelerator
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.quantities import whole_units
from conclave.kubernetes.shapes import read_node, read_pod
from conclave.names import AMD, NVIDIA, GpuVendor
from conclave.planning.inventory import Inventory, Node

_VENDORS = (NVIDIA, AMD)
_NVIDIA_MEMORY = "nvidia.com/gpu.memory"
"""In MiB."""
_AMD_MEMORY = "amd.com/gpu.vram"
"""For instance 192G."""
MOST_GPUS = 2**16
"""What a node is believed to have; no machine comes near it."""
_KEEPS_AWAY = ("NoSchedule", "NoExecute")
_LABEL_TOLERANCE = 0.01
"""Drivers of one product differ by less in what they report."""


def make_inventory(
    nodes: Iterable[JsonObject],
    pods: Iterable[JsonObject],
    own_uids: frozenset[str] = frozenset(),
    tolerations: Iterable[Toleration] = (),
) -> Inventory:
    """Free is what no pod holds; pods whose uid is in `own_uids` hold nothing."""
    taken: Counter[tuple[str, str]] = Counter()
    for pod in filter(None, map(read_pod, pods)):
        if pod["metadata"].get("uid") not in own_uids:
            for vendor in _VENDORS:
                taken[pod.get("spec", {}).get("nodeName", ""), vendor.resource] += gpus_of(pod, vendor.resource)
    tolerated = tuple(tolerations)
    found = []
    for node in filter(None, map(read_node, nodes)):
        labels = node["metadata"].get("labels", {})
        for vendor in _VENDORS:
            amount = node.get("status", {}).get("allocatable", {}).get(vendor.resource, "0")
            gpus = min(whole_units(amount, otherwise=0), MOST_GPUS)
            if gpus > 0 and vendor.product_label in labels:
                name = node["metadata"]["name"]
                found.append(
                    Node(
                        name=name,
                        accelerator=labels[vendor.product_label],
                        memory_bytes=_memory_bytes(labels, vendor),
                        gpus=gpus,
                        free_gpus=max(0, gpus - taken[name, vendor.resource]),
                        labels=labels,
                        schedulable=_is_schedulable(node, tolerated, vendor),
                    )
                )
    return Inventory(nodes=tuple(sorted(found, key=lambda node: node.name)))


def gpus_of(pod: JsonObject, resource: str) -> int:
    """GPUs that a pod holds on its node until it has ended; more than any node has where nobody can tell."""
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    spec = pod.get("spec", {})
    running, first = (
        [
            max(
                0, whole_units(container.get("resources", {}).get("limits", {}).get(resource, "0"), otherwise=MOST_GPUS)
            )
            for container in spec.get(part, [])
        ]
        for part in ("containers", "initContainers")
    )
    return max(sum(running), *first, 0)


def _memory_bytes(labels: dict[str, str], vendor: GpuVendor) -> int:
    """What a process can get of one GPU: the catalogue's figure where the node's own label is about that product."""
    match = find_accelerator(labels[vendor.product_label])
    labelled = _labelled_bytes(labels, vendor)
    if match is None or match.mig_profile is not None:
        return labelled or (match.memory_bytes if match else 0)
    nominal = (match.accelerator.label_mib or 0) << 20
    if labelled and abs(labelled - nominal) > _LABEL_TOLERANCE * labelled:
        return labelled
    return match.memory_bytes


def _labelled_bytes(labels: dict[str, str], vendor: GpuVendor) -> int:
    if vendor is NVIDIA:
        value = labels.get(_NVIDIA_MEMORY, "")
        return int(value) << 20 if re.fullmatch(r"[0-9]{1,9}", value) else 0
    amount = re.fullmatch(r"([0-9]{1,6})G", labels.get(_AMD_MEMORY, ""))
    return int(amount[1]) << 30 if amount else 0


def _is_schedulable(node: JsonObject, tolerations: tuple[Toleration, ...], vendor: GpuVendor) -> bool:
    spec, conditions = node.get("spec", {}), node.get("status", {}).get("conditions", [])
    is_ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    keeping_away = [taint for taint in spec.get("taints", []) if taint["effect"] in _KEEPS_AWAY]
    return (
        is_ready
        and not spec.get("unschedulable", False)
        and all(
            taint["key"] == vendor.resource or any(_tolerates(toleration, taint) for toleration in tolerations)
            for taint in keeping_away
        )
    )


def _tolerates(toleration: Toleration, taint: JsonObject) -> bool:
    """As the scheduler reads it: no key with Exists is every key, no effect is every effect."""
    if toleration.effect not in (None, taint["effect"]):
        return False
    if toleration.operator == "Exists":
        return toleration.key in (None, "", taint["key"])
    return bool(toleration.key == taint["key"] and (toleration.value or "") == taint.get("value", ""))

"""Makes the plan's inventory of Node and Pod objects: product, memory, taken and free GPUs, who may be scheduled.

Pure; called by `observe`. A node counts where its labels name a product (GPU feature discovery, AMD's node labeller).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

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
MOST_KNOWN = 16
"""Inventories for different tolerations that are kept."""
_LABEL_TOLERANCE = 0.01
"""Drivers of one product differ by less in what they report."""


class Capacity:
    """All nodes with GPUs and what pods hold of them, read once for as many deployments as ask.

    What `inventory` gives is shared between all who ask the same.
    """

    def __init__(self, nodes: Iterable[JsonObject], pods: Iterable[JsonObject]) -> None:
        self._held: dict[str, tuple[str, Counter[str]]] = {}
        """By the pod's uid: its node, and GPUs by resource."""
        self._taken: Counter[tuple[str, str]] = Counter()
        for pod in filter(None, map(read_pod, pods)):
            node = pod.get("spec", {}).get("nodeName", "")
            held = Counter({vendor.resource: gpus_of(pod, vendor.resource) for vendor in _VENDORS})
            if held.total():
                self._held[pod["metadata"].get("uid", "")] = node, held
                self._taken.update({(node, resource): gpus for resource, gpus in held.items()})
        self._nodes = [found for node in filter(None, map(read_node, nodes)) for found in _gpu_nodes(node)]
        self._nodes.sort(key=lambda found: found.node.name)
        self._known: dict[tuple[Toleration, ...], Inventory] = {}

    def inventory(self, own_uids: Iterable[str] = (), tolerations: Iterable[Toleration] = ()) -> Inventory:
        """Free is what no pod holds; pods whose uid is in `own_uids` hold nothing."""
        tolerated = tuple(tolerations)
        own: Counter[tuple[str, str]] = Counter()
        for uid in set(own_uids) - {""}:
            node, held = self._held.get(uid, ("", Counter()))
            own.update({(node, resource): gpus for resource, gpus in held.items()})
        if own:
            return self._inventory(own, tolerated)
        if tolerated not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[tolerated] = self._inventory(own, tolerated)
        return self._known[tolerated]

    def _inventory(self, own: Counter[tuple[str, str]], tolerated: tuple[Toleration, ...]) -> Inventory:
        nodes = []
        for node, vendor, is_usable, taints in self._nodes:
            taken = self._taken[node.name, vendor.resource] - own[node.name, vendor.resource]
            schedulable = is_usable and all(_is_tolerated(taint, tolerated, vendor) for taint in taints)
            if taken or schedulable != node.schedulable:
                free = max(0, node.gpus - taken)
                node = node.model_copy(update={"free_gpus": free, "schedulable": schedulable})
            nodes.append(node)
        return Inventory(nodes=tuple(nodes))


class LastCapacity:
    """The capacity of the last nodes and pods that were asked about: a cache gives the same ones until they change."""

    def __init__(self) -> None:
        self._of: tuple[object, object] = (None, None)
        self._capacity = Capacity((), ())

    def of(self, nodes: tuple[JsonObject, ...], pods: tuple[JsonObject, ...]) -> Capacity:
        if self._of[0] is not nodes or self._of[1] is not pods:
            self._of, self._capacity = (nodes, pods), Capacity(nodes, pods)
        return self._capacity


def make_inventory(
    nodes: Iterable[JsonObject],
    pods: Iterable[JsonObject],
    own_uids: Iterable[str] = (),
    tolerations: Iterable[Toleration] = (),
) -> Inventory:
    """The inventory of one who asks once."""
    return Capacity(nodes, pods).inventory(own_uids, tolerations)


class _GpuNode(NamedTuple):
    """A node's GPUs of one vendor, with nothing taken and nothing tolerated."""

    node: Node
    vendor: GpuVendor
    is_usable: bool
    """Whether it is ready and not cordoned."""
    taints: tuple[JsonObject, ...]
    """Those that keep pods away."""


def _gpu_nodes(node: JsonObject) -> Iterator[_GpuNode]:
    labels, status, spec = node["metadata"].get("labels", {}), node.get("status", {}), node.get("spec", {})
    taints = tuple(taint for taint in spec.get("taints", []) if taint["effect"] in _KEEPS_AWAY)
    for vendor in _VENDORS:
        gpus = min(whole_units(status.get("allocatable", {}).get(vendor.resource, "0"), otherwise=0), MOST_GPUS)
        if gpus > 0 and vendor.product_label in labels:
            is_usable = _is_ready(status) and not spec.get("unschedulable", False)
            found = Node(
                name=node["metadata"]["name"],
                accelerator=labels[vendor.product_label],
                memory_bytes=_memory_bytes(labels, vendor),
                gpus=gpus,
                free_gpus=gpus,
                labels=labels,
                schedulable=is_usable and all(_is_tolerated(taint, (), vendor) for taint in taints),
            )
            yield _GpuNode(found, vendor, is_usable, taints)


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


def _is_ready(status: JsonObject) -> bool:
    conditions = status.get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _is_tolerated(taint: JsonObject, tolerations: tuple[Toleration, ...], vendor: GpuVendor) -> bool:
    return taint["key"] == vendor.resource or any(_tolerates(toleration, taint) for toleration in tolerations)


def _tolerates(toleration: Toleration, taint: JsonObject) -> bool:
    """As the scheduler reads it: no key with Exists is every key, no effect is every effect."""
    if toleration.effect not in (None, taint["effect"]):
        return False
    if toleration.operator == "Exists":
        return toleration.key in (None, "", taint["key"])
    return bool(toleration.key == taint["key"] and (toleration.value or "") == taint.get("value", ""))

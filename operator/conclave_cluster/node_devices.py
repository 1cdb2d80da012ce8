"""What accelerators a node has: products, memory, physical GPUs or MIG slices, by its labels and allocatable resources.

Pure; called by `inventory`. An `OtherNode` holds what a plan cannot use, with the reason and what to do.

    allocatable                 labels                                       read as
    nvidia.com/gpu: 8           gpu.product, gpu.memory, gpu.count           8 GPUs of that product
    nvidia.com/gpu: 10          gpu.count 1                                  1 GPU that several pods share
    nvidia.com/mig-3g.40gb: 2   mig-3g.40gb.product, mig-3g.40gb.memory      2 slices, asked for by that name
    nvidia.com/gpu: 8           cloud.google.com/gke-accelerator             8 GPUs, found by that label
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from conclave.catalogue.accelerators import SHARED, find_accelerator, is_shared, least_slice_bytes, mig_profile
from conclave.catalogue.device_resources import find_other, mig_profile_of
from conclave.catalogue.node_labels import Labelled, cloud_labels, product_of_labels
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.quantities import whole_units
from conclave.names import AMD, NVIDIA, GpuVendor, gpu_vendor
from conclave.planning.inventory import Barrier, Node, OtherNode, Sharing
from conclave_cluster.resource_slices import SlicedDevices

VENDORS = (NVIDIA, AMD)
MOST_GPUS = 2**16
"""What a node is believed to have; no machine comes near it."""
_NVIDIA_MEMORY = "nvidia.com/gpu.memory"
"""In MiB."""
_AMD_MEMORY = "amd.com/gpu.vram"
"""For instance 192G."""
_LABEL_TOLERANCE = 0.01
"""Drivers of one product differ by less in what they report."""
_MIG = "-MIG-"
_STRATEGY = "gpu.sharing-strategy"
_MIG_REMEDY = "ask the MIG manager for one valid layout (label nvidia.com/mig.config), or for all-disabled"


class NodeDevices(NamedTuple):
    """Accelerators of one kind that a node has, with nothing taken."""

    node: Node
    vendor: GpuVendor


class _Product(NamedTuple):
    name: str
    selector: dict[str, str]
    """Empty where the vendor's product label has exactly this name."""
    memory_bytes: int
    """0 where nothing says it."""
    physical: int
    """GPUs of the node; 0 where nothing says it."""
    sharing: Sharing
    sharers: int
    """Pods that get one GPU at a time."""


def devices_of(node: JsonObject, sliced: Iterable[SlicedDevices] = ()) -> Iterator[NodeDevices | OtherNode]:
    """Each kind of accelerator of a node, usable or not. `sliced` is what DRA's ResourceSlices say of this node."""
    labels = node["metadata"].get("labels", {})
    allocatable = node.get("status", {}).get("allocatable", {})
    amounts = {resource: min(whole_units(amount, otherwise=0), MOST_GPUS) for resource, amount in allocatable.items()}
    found: list[NodeDevices | OtherNode] = []
    for vendor in VENDORS:
        found.extend(_whole(node, labels, vendor, amounts.get(vendor.resource, 0)))
    for resource, amount in sorted(amounts.items()):
        if amount > 0 and (profile := mig_profile_of(resource)):
            found.append(_slices(node, labels, resource, profile, amount))
    for resource, amount in sorted(amounts.items()):
        other = find_other(resource) if amount > 0 else None
        if other is not None:
            seen = f"{amount} {resource}: {other.what}"
            found.append(_other(node, labels, seen, other.remedy, _parent(labels)))
    yield from found
    if not found:
        yield from _absent(node, labels, tuple(sliced))


def _whole(
    node: JsonObject, labels: dict[str, str], vendor: GpuVendor, amount: int
) -> Iterator[NodeDevices | OtherNode]:
    if amount <= 0:
        return
    product = _product(labels, vendor)
    if product is None:
        seen = f"{amount} {vendor.resource}, and no label that is known says of which product{_unknown(labels)}"
        remedy = f"install GPU feature discovery, or label the node {vendor.product_label}=PRODUCT"
        yield _other(node, labels, seen, remedy)
        return
    if _is_in_mig_mode(labels, vendor, product.name):
        seen = (
            f"{amount} {vendor.resource} of {product.name}, which is in MIG mode: a pod that asks for one gets no GPU"
        )
        yield _other(node, labels, seen, _MIG_REMEDY, product.name)
        return
    if not product.memory_bytes:
        yield _unknown_memory(node, labels, product.name, vendor)
        return
    gpus, sharing = _physical(amount, product)
    yield NodeDevices(
        Node(
            name=node["metadata"]["name"],
            accelerator=product.name,
            memory_bytes=product.memory_bytes,
            gpus=gpus,
            free_gpus=gpus,
            labels=labels,
            selector=product.selector,
            sharing=sharing,
            devices=amount if sharing else 0,
        ),
        vendor,
    )


def _slices(
    node: JsonObject, labels: dict[str, str], resource: str, profile: str, amount: int
) -> NodeDevices | OtherNode:
    """MIG slices under a name of their own (`mig.strategy: mixed`). One slice is one accelerator."""
    label = f"{resource}.product"
    name = labels.get(label, "")
    selector = {label: name}
    if mig_profile(name) is None:
        parent = _product(labels, NVIDIA)
        if parent is None or mig_profile(parent.name) is not None:
            seen = f"{amount} {resource}, and no label that is known says of which product{_unknown(labels)}"
            return _other(node, labels, seen, f"install GPU feature discovery, or label the node {label}=PRODUCT")
        base = parent.name.removesuffix(SHARED)
        name = f"{base}{_MIG}{profile}"
        selector = parent.selector or {NVIDIA.product_label: parent.name}
    if is_shared(name):
        return _other(
            node, labels, f"{amount} {resource}, which several pods share", "switch off sharing of MIG slices", name
        )
    memory = _mib(labels.get(f"{resource}.memory", "")) or least_slice_bytes(profile)
    return NodeDevices(
        Node(
            name=node["metadata"]["name"],
            accelerator=name,
            memory_bytes=memory,
            gpus=amount,
            free_gpus=amount,
            labels=labels,
            resource=resource,
            selector=selector,
        ),
        NVIDIA,
    )


def _absent(node: JsonObject, labels: dict[str, str], sliced: tuple[SlicedDevices, ...]) -> Iterator[OtherNode]:
    """A node whose labels or ResourceSlices tell of accelerators, and that offers none to pods."""
    if sliced:
        counted = ", ".join(f"{devices.number} {devices.product}" for devices in sliced)
        drivers = ", ".join(dict.fromkeys(devices.driver for devices in sliced))
        seen = f"dynamic resource allocation has its accelerators ({counted} in ResourceSlices of {drivers})"
        remedy = f"run the device plugin on this node: worker pods ask for {NVIDIA.resource} or {AMD.resource}"
        yield _other(node, labels, seen, remedy, sliced[0].product)
        return
    for vendor in VENDORS:
        product = _product(labels, vendor)
        if product is not None:
            seen = f"its labels say {product.name}, and it offers no {vendor.resource}"
            in_mig_mode = _is_in_mig_mode(labels, vendor, product.name)
            remedy = _MIG_REMEDY if in_mig_mode else "see whether the driver and the device plugin run on it"
            yield _other(node, labels, seen, remedy, product.name)


def _product(labels: dict[str, str], vendor: GpuVendor) -> _Product | None:
    """By the vendor's feature discovery, else by the labels of the cloud."""
    name = labels.get(vendor.product_label, "")
    if name:
        strategy = labels.get(f"{vendor.domain}/{_STRATEGY}", "")
        sharers = _number(labels.get(f"{vendor.domain}/gpu.replicas", ""))
        count = _number(labels.get(f"{vendor.domain}/gpu.count", ""))
        sharing = _sharing(name, sharers, is_mps=strategy == "mps")
        known = _spelled(name, sharing)
        selector = {} if known == name else {vendor.product_label: name}
        return _Product(known, selector, _memory_bytes(labels, vendor, name), count, sharing, max(1, sharers))
    found = product_of_labels(labels)
    if found is None or gpu_vendor(found.product) is not vendor:
        return None
    return _of_cloud(labels, vendor, found)


def _of_cloud(labels: dict[str, str], vendor: GpuVendor, found: Labelled) -> _Product:
    sharers = _number(found.sharers)
    sharing = _sharing(found.product, sharers, is_mps=found.is_mps)
    memory = _memory_bytes(labels, vendor, found.product)
    name = _spelled(found.product, sharing)
    return _Product(name, found.selector, memory, _number(found.count), sharing, max(1, sharers))


def _sharing(product: str, sharers: int, *, is_mps: bool) -> Sharing:
    if is_mps:
        return Sharing.MPS
    return Sharing.TIME_SLICING if sharers > 1 or is_shared(product) else Sharing.NONE


def _spelled(product: str, sharing: Sharing) -> str:
    """With the suffix that GPU feature discovery adds where several pods get one GPU."""
    return product if sharing is Sharing.NONE or is_shared(product) else f"{product}{SHARED}"


def _physical(amount: int, product: _Product) -> tuple[int, Sharing]:
    """Accelerators among what the node offers, and how several pods get one where there are fewer."""
    gpus = -(-amount // product.sharers)
    if product.physical and gpus > product.physical and mig_profile(product.name) is None:
        return product.physical, product.sharing or Sharing.BY_SCHEDULER
    return gpus, product.sharing


def _is_in_mig_mode(labels: dict[str, str], vendor: GpuVendor, product: str) -> bool:
    """Whether its GPUs are divided: GPU feature discovery then writes 0 replicas of the whole, or MIG-INVALID."""
    if vendor is not NVIDIA:
        return False
    if _MIG in product.upper():
        return mig_profile(product) is None
    return labels.get("nvidia.com/gpu.replicas") == "0" and labels.get("nvidia.com/mig.capable") == "true"


def _parent(labels: dict[str, str]) -> str:
    product = _product(labels, NVIDIA) or _product(labels, AMD)
    return product.name if product else ""


def _unknown_memory(node: JsonObject, labels: dict[str, str], product: str, vendor: GpuVendor) -> OtherNode:
    label, unit = (_NVIDIA_MEMORY, "MIB") if vendor is NVIDIA else (_AMD_MEMORY, "192G")
    seen = f"the memory of {product} is unknown: no label {label}, and the catalogue does not know this product"
    remedy = (
        f"label the node {label}={unit} with what one GPU may use (a GPU that shares its host's memory has none of "
        "its own)"
    )
    return _other(node, labels, seen, remedy, product)


def _unknown(labels: dict[str, str]) -> str:
    """The label that a cloud gives its accelerators, with a value that the catalogue does not know."""
    key = next((key for key in cloud_labels() if labels.get(key)), None)
    return f" ({key} is {labels[key]})" if key else ""


def _other(node: JsonObject, labels: dict[str, str], seen: str, remedy: str, accelerator: str = "") -> OtherNode:
    barrier = Barrier(seen=seen, remedy=remedy)
    return OtherNode(name=node["metadata"]["name"], labels=labels, accelerator=accelerator, barrier=barrier)


def _memory_bytes(labels: dict[str, str], vendor: GpuVendor, product: str) -> int:
    """What a process can get of one GPU: the catalogue's figure where the node's own label is about that product, 0
    where nobody says it."""
    labelled = _labelled_bytes(labels, vendor)
    if (profile := mig_profile(product)) is not None:
        return labelled or least_slice_bytes(profile)
    match = find_accelerator(product)
    if match is None:
        return labelled
    nominal = (match.accelerator.label_mib or 0) << 20
    if labelled and abs(labelled - nominal) > _LABEL_TOLERANCE * labelled:
        return labelled
    return match.memory_bytes


def _labelled_bytes(labels: dict[str, str], vendor: GpuVendor) -> int:
    if vendor is NVIDIA:
        return _mib(labels.get(_NVIDIA_MEMORY, ""))
    amount = re.fullmatch(r"([0-9]{1,6})G", labels.get(_AMD_MEMORY, ""))
    return int(amount[1]) << 30 if amount else 0


def _mib(label: str) -> int:
    return int(label) << 20 if re.fullmatch(r"[0-9]{1,9}", label) else 0


def _number(label: str) -> int:
    return int(label) if re.fullmatch(r"[0-9]{1,9}", label) else 0

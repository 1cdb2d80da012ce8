"""What DRA's ResourceSlices say of the accelerators of nodes: driver, product, number.

Pure; called by `inventory`. Worker pods ask for a device plugin's resources, so that these accelerators are only named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.shapes import read_resource_slice

_GPU_DRIVERS = "gpu."
"""What drivers of GPUs begin with: gpu.nvidia.com, gpu.amd.com, gpu.intel.com."""
_PARTS = ("mig", "amdgpu-partition", "vfio")
"""Types of devices that are parts or other faces of a GPU that is listed too."""


class SlicedDevices(NamedTuple):
    """Accelerators of one product that a driver offers on a node."""

    driver: str
    product: str
    number: int


def is_of_gpus(item: JsonObject) -> bool:
    """Whether a ResourceSlice, as it is read, is about the GPUs of one node."""
    spec = item.get("spec", {})
    return bool(spec.get("nodeName")) and spec.get("driver", "").startswith(_GPU_DRIVERS)


def sliced_devices(slices: Iterable[JsonObject]) -> dict[str, tuple[SlicedDevices, ...]]:
    """By node. Whole GPUs where a driver lists them, else their parts."""
    counts: dict[str, Counter[tuple[str, str, bool]]] = {}
    for item in filter(None, map(read_resource_slice, slices)):
        if not is_of_gpus(item):
            continue
        spec = item["spec"]
        of_node = counts.setdefault(spec["nodeName"], Counter())
        for device in spec.get("devices", []):
            attributes = device.get("attributes", {}) or device.get("basic", {}).get("attributes", {})
            product = attributes.get("productName", {}).get("string", "")
            is_part = attributes.get("type", {}).get("string", "") in _PARTS
            of_node[spec["driver"], product or "GPUs of unknown product", is_part] += 1
    return {node: _of_node(found) for node, found in counts.items() if found}


def _of_node(found: Counter[tuple[str, str, bool]]) -> tuple[SlicedDevices, ...]:
    has_whole = any(not is_part for _, _, is_part in found)
    return tuple(
        SlicedDevices(driver, product, count)
        for (driver, product, is_part), count in sorted(found.items())
        if not (is_part and has_whole)
    )

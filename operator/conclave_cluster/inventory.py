"""Makes the plan's inventory of Node, Pod and ResourceSlice objects: what there is, what is taken, who may use it.

Pure; called by `observe` and `conclave plan --inventory`. `node_devices` reads a node, `barriers` what keeps pods off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from conclave.api.modeldeployment import Toleration
from conclave.catalogue.device_resources import is_planned
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import scheduled
from conclave.kubernetes.quantities import whole_units
from conclave.kubernetes.shapes import read_node, read_pod
from conclave.planning.inventory import Inventory, Node, OtherNode, Sharing
from conclave_cluster.barriers import barriers_of
from conclave_cluster.node_devices import MOST_GPUS, NodeDevices, devices_of
from conclave_cluster.resource_slices import sliced_devices

MOST_KNOWN = 16
"""Inventories for different tolerations that are kept."""


class Capacity:
    """All nodes with accelerators and what pods hold of them, read once for as many deployments as ask.

    What `inventory` gives is shared between all who ask the same.
    """

    def __init__(
        self, nodes: Iterable[JsonObject], pods: Iterable[JsonObject], slices: Iterable[JsonObject] = ()
    ) -> None:
        self._held: dict[str, tuple[str, Counter[str]]] = {}
        """By the pod's uid: its node, and accelerators by resource."""
        self._taken: Counter[tuple[str, str]] = Counter()
        for pod in filter(None, map(read_pod, pods)):
            node = pod.get("spec", {}).get("nodeName", "")
            if held := held_by(pod):
                self._held[pod["metadata"].get("uid", "")] = node, held
                self._taken.update({(node, resource): amount for resource, amount in held.items()})
        sliced = sliced_devices(slices)
        self._nodes: list[tuple[JsonObject, NodeDevices]] = []
        others: list[OtherNode] = []
        for item in filter(None, map(read_node, nodes)):
            for found in devices_of(item, sliced.get(item["metadata"]["name"], ())):
                if isinstance(found, OtherNode):
                    others.append(found)
                else:
                    self._nodes.append((item, found))
        self._nodes.sort(key=lambda entry: (entry[1].node.name, entry[1].node.resource))
        self._others = tuple(sorted(others, key=lambda other: other.name))
        self._known: dict[tuple[Toleration, ...], Inventory] = {}

    def inventory(self, own_uids: Iterable[str] = (), tolerations: Iterable[Toleration] = ()) -> Inventory:
        """Free is what no pod holds; pods whose uid is in `own_uids` hold nothing."""
        tolerated = tuple(tolerations)
        own: Counter[tuple[str, str]] = Counter()
        for uid in set(own_uids) - {""}:
            node, held = self._held.get(uid, ("", Counter()))
            own.update({(node, resource): amount for resource, amount in held.items()})
        if own:
            return self._inventory(own, tolerated)
        if tolerated not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[tolerated] = self._inventory(own, tolerated)
        return self._known[tolerated]

    def _inventory(self, own: Counter[tuple[str, str]], tolerated: tuple[Toleration, ...]) -> Inventory:
        nodes = []
        for item, (node, vendor) in self._nodes:
            key = node.name, node.resource_name
            taken = self._taken[key] - own[key]
            barriers = barriers_of(item, tolerated, vendor)
            if taken or barriers:
                node = node.model_copy(update={"free_gpus": _free(node, taken), "barriers": barriers})
            nodes.append(node)
        return Inventory(nodes=tuple(nodes), others=self._others)


def _free(node: Node, taken: int) -> int:
    """GPUs that a pod can get. With time slicing that is each GPU that has a place left: nobody knows which one a pod
    has got. A scheduler that shares GPUs gives a pod without limits only those that nobody has a part of."""
    if node.sharing in (Sharing.TIME_SLICING, Sharing.MPS):
        return max(0, min(node.gpus, node.devices - taken))
    return max(0, node.gpus - taken)


class LastCapacity:
    """The capacity of the last objects that were asked about: a cache gives the same ones until they change."""

    def __init__(self) -> None:
        self._of: tuple[tuple[JsonObject, ...], ...] = ()
        self._capacity = Capacity((), ())

    def of(
        self, nodes: tuple[JsonObject, ...], pods: tuple[JsonObject, ...], slices: tuple[JsonObject, ...] = ()
    ) -> Capacity:
        asked = (nodes, pods, slices)
        if len(self._of) != len(asked) or any(known is not new for known, new in zip(self._of, asked, strict=True)):
            self._of, self._capacity = asked, Capacity(*asked)
        return self._capacity


def make_inventory(
    nodes: Iterable[JsonObject],
    pods: Iterable[JsonObject],
    own_uids: Iterable[str] = (),
    tolerations: Iterable[Toleration] = (),
    slices: Iterable[JsonObject] = (),
) -> Inventory:
    """The inventory of one who asks once."""
    return Capacity(nodes, pods, slices).inventory(own_uids, tolerations)


def held_by(pod: JsonObject) -> Counter[str]:
    """Accelerators that a pod holds on its node until it has ended, by resource; more than any node has where nobody
    can tell."""
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return Counter()
    return +Counter(scheduled(pod, _accelerators))


def _accelerators(container: JsonObject) -> Iterator[tuple[str, int]]:
    for resource, amount in container.get("resources", {}).get("limits", {}).items():
        if is_planned(resource):
            yield resource, max(0, whole_units(amount, otherwise=MOST_GPUS))

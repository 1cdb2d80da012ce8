"""Reads an inventory file: a short list of nodes, or what `kubectl get nodes,pods,resourceslices -A -o yaml` prints.

Called by `conclave plan`. An error names the node and the field. In a list without pods all GPUs count as free; what
kubectl prints is read by the operator's own reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conclave.api.modeldeployment import Toleration
from conclave.catalogue.accelerators import all_accelerators, find_accelerator, is_product
from conclave.errors import InvalidInput
from conclave.kubernetes.shapes import read_node, read_pod, read_resource_slice
from conclave.planning.inventory import Inventory, Node
from conclave.planning.settings import CPU
from conclave.policy.admission import explain
from conclave_cli.manifest_files import read_listing
from conclave_cluster.inventory import make_inventory

MOST_MEMORY_GIB = 65536
"""Of one accelerator, far beyond any."""

_GIB = 2**30
_READERS = {"Node": read_node, "Pod": read_pod, "ResourceSlice": read_resource_slice}
_MOST_GPUS = 4096


class _ShortNode(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=253)]
    accelerator: Annotated[str, Field(min_length=1, max_length=128)]
    gpus: Annotated[int, Field(ge=0, le=_MOST_GPUS)]
    free: Annotated[int, Field(ge=0, le=_MOST_GPUS)] | None = None
    memory_gib: float | None = Field(default=None, gt=0, le=MOST_MEMORY_GIB, alias="memoryGib", strict=False)
    labels: dict[str, str] = Field(default_factory=dict)
    count: Annotated[int, Field(ge=1, le=4096)] = 1
    """Nodes of this kind; their names get a number."""


def read_inventory(file: str, tolerations: Sequence[Toleration] = ()) -> Inventory:
    """The inventory of a file, for a deployment with these tolerations; raises InvalidInput."""
    documents = read_listing(file)
    if not documents:
        raise InvalidInput(f"{file}: is empty, expected `nodes` or the output of `kubectl get nodes -o yaml`")
    problems = [document.located(problem) for document in documents for problem in document.problems]
    if problems:
        raise InvalidInput("\n".join(problems))
    read = [_read(file, document.value, tolerations) for document in documents]
    found = Inventory(
        nodes=tuple(node for inventory in read for node in inventory.nodes),
        others=tuple(node for inventory in read for node in inventory.others),
    )
    if not found.nodes and not found.others:
        raise InvalidInput(
            f"{file}: no node with accelerators; the nodes need the labels of GPU feature discovery or of a cloud, and "
            "allocatable accelerators"
        )
    return found


def product_memory(product: str, where: str) -> tuple[str, int]:
    """The node label's spelling of a product or short name, and its memory; raises InvalidInput for an unknown one."""
    match = find_accelerator(product)
    if match is None:
        is_cpu = product.lower() == CPU
        unknown = f"accelerator is {product!r}, which is not in the catalogue{_meant(product)}; give its memory"
        raise InvalidInput(
            f"{where}: {'a cpu needs the memory that one rank may use' if is_cpu else unknown} "
            "(memoryGib in a file, --gpu-memory-gib here)"
        )
    spellings = (match.accelerator.name, *match.accelerator.aliases)
    is_short = product.lower() in {spelling.lower() for spelling in spellings}
    return match.accelerator.products[0] if is_short else product, match.memory_bytes


def _meant(product: str) -> str:
    known = [name for entry in all_accelerators() for name in (entry.name, *entry.products)]
    longer = [name for name in known if product.strip() and is_product(name, product)]
    if close := longer or get_close_matches(product.replace(" ", "-"), known):
        return f" (did you mean {' or '.join(close[:3])}?)"
    return f" (it knows {', '.join(entry.name for entry in all_accelerators())})"


def _read(file: str, value: object, tolerations: Sequence[Toleration]) -> Inventory:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{file}: expected an object with `nodes`, or the output of kubectl get nodes")
    if "nodes" in value:
        entries = value["nodes"]
        if not isinstance(entries, list):
            raise InvalidInput(f"{file}: nodes is {type(entries).__name__}; expected a list")
        if not entries:
            raise InvalidInput(f"{file}: nodes is empty, expected nodes with name, accelerator and gpus")
        short = (node for index, entry in enumerate(entries) for node in _short(f"{file}: nodes[{index}]", entry))
        return Inventory(nodes=tuple(short))
    kind = value.get("kind")
    items = [value] if kind == "Node" else value.get("items")
    if kind not in ("Node", "NodeList", "List") or not isinstance(items, list):
        raise InvalidInput(f"{file}: kind is {kind!r}; expected `nodes`, or kind List, NodeList or Node")
    of_kind: dict[str, list[Any]] = {kind: [] for kind in _READERS}
    for index, item in enumerate(items):
        unsaid = "Node" if kind == "NodeList" else None  # the API server's own lists do not repeat it
        of_this = item.get("kind", unsaid) if isinstance(item, Mapping) else None
        if of_this in of_kind:
            if _READERS[of_this](item) is None:
                raise InvalidInput(
                    f"{file}: items[{index}] is a {of_this} without metadata.name, expected the output of `kubectl "
                    "get nodes -o yaml`"
                )
            of_kind[of_this].append(item)
    machines = [_ready_unless_said(node) for node in of_kind["Node"]]
    return make_inventory(machines, of_kind["Pod"], tolerations=tolerations, slices=of_kind["ResourceSlice"])


def _ready_unless_said(node: dict[str, Any]) -> dict[str, Any]:
    """A node written by hand has no conditions; one of a cluster always has."""
    status = node.get("status", {})
    status = status if isinstance(status, dict) else {}
    return node | {"status": {"conditions": [{"type": "Ready", "status": "True"}]} | status}


def _short(where: str, entry: object) -> list[Node]:
    try:
        short = _ShortNode.model_validate(entry)
    except ValidationError as error:
        raise InvalidInput(f"{where}: {explain(error, _ShortNode)[0]}") from error
    product, memory_bytes = short.accelerator, int((short.memory_gib or 0) * _GIB)
    if not memory_bytes:
        product, memory_bytes = product_memory(product, where)
    free = short.gpus if short.free is None else short.free
    if free > short.gpus:
        raise InvalidInput(f"{where}: free is {free}; expected at most gpus ({short.gpus})")
    names = [short.name] if short.count == 1 else [f"{short.name}-{number}" for number in range(short.count)]
    return [
        Node(
            name=name,
            accelerator=product,
            memory_bytes=memory_bytes,
            gpus=short.gpus,
            free_gpus=free,
            labels=short.labels,
        )
        for name in names
    ]

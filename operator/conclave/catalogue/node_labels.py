"""What a node's labels say of its accelerators where no feature discovery of the vendor runs: the labels of clouds.

Read by the cluster room. The vendor's own product label is asked first, and not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.accelerators import SHARED, Accelerator, all_accelerators, find_accelerator, is_shared
from conclave.catalogue.datafiles import read_rows

_MPS = "mps"
_PART = 0.85
"""A label that gives less than this share of an accelerator's memory is about a part of it (EC2's g6f)."""


class _CloudLabels(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    products: bool = False
    accelerators: dict[str, str] = Field(default_factory=dict)
    count: str = ""
    counts: dict[int, tuple[str, ...]] = Field(default_factory=dict)
    memory: str = ""
    mig: str = ""
    sharing: str = ""
    sharers: str = ""


class Labelled(BaseModel):
    """What labels say of a node's accelerators."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product: str
    """As GPU feature discovery would spell it, with the suffixes of MIG and of sharing."""
    selector: dict[str, str]
    """The labels that say so: pods that need this product select nodes by them."""
    count: str = ""
    """Of physical GPUs, as a label has it, or as the instance type is known to have; empty where nothing says so."""
    sharers: str = ""
    """How many pods get one GPU at a time, as the label has it."""
    is_mps: bool = False
    """Whether NVIDIA's Multi-Process Service shares the GPUs."""


def product_of_labels(labels: Mapping[str, str]) -> Labelled | None:
    """The accelerators of a node by the labels of its cloud; None where no label that is known says a product."""
    found = (_labelled(row, labels) for row in _rows())
    return next(filter(None, found), None)


def cloud_labels() -> tuple[str, ...]:
    """The labels that are asked, for a message that no product was found."""
    return tuple(row.label for row in _rows())


def _labelled(row: _CloudLabels, labels: Mapping[str, str]) -> Labelled | None:
    value = labels.get(row.label, "")
    if not value:
        return None
    selector = {row.label: value}
    memory = labels.get(row.memory, "")
    if row.products:
        accelerator = match.accelerator if (match := find_accelerator(value)) else None
        return Labelled(product=value, selector=selector) if accelerator else None
    name = _accelerator_name(row, value)
    if name is None and memory:
        name = row.accelerators.get(f"{value} {memory}")
        selector[row.memory] = memory
    if name is None:
        return None
    accelerator = _by_name()[name]
    if _is_a_part(accelerator, memory):
        return None
    product = accelerator.products[0]
    if profile := labels.get(row.mig, ""):
        product = f"{product}-MIG-{profile}"
        selector[row.mig] = profile
    strategy = labels.get(row.sharing, "")
    if strategy and not is_shared(product):
        product += SHARED
        selector[row.sharing] = strategy
    return Labelled(
        product=product,
        selector=selector,
        # GKE counts cards, of which MIG makes several devices.
        count="" if profile else labels.get(row.count) or _known_count(row, value),
        sharers=labels.get(row.sharers, ""),
        is_mps=strategy == _MPS,
    )


def _accelerator_name(row: _CloudLabels, value: str) -> str | None:
    if value in row.accelerators:
        return row.accelerators[value]
    family, _, size = value.partition(".")
    return row.accelerators.get(f"{family}.*") if size and "." not in size else None


def _known_count(row: _CloudLabels, value: str) -> str:
    return next((str(count) for count, values in row.counts.items() if value in values), "")


def _is_a_part(accelerator: Accelerator, memory: str) -> bool:
    nominal = accelerator.label_mib or 0
    return memory.isdecimal() and len(memory) < 10 and int(memory) < _PART * nominal


@cache
def _rows() -> tuple[_CloudLabels, ...]:
    return tuple(_CloudLabels.model_validate(row) for row in read_rows("node_labels.yaml"))


@cache
def _by_name() -> dict[str, Accelerator]:
    return {accelerator.name: accelerator for accelerator in all_accelerators()}

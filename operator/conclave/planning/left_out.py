"""The nodes that no pod of the deployment may use, summed up: which nodes, why, and what would admit pods.

Called by `plan.py`. A cluster may have thousands of nodes, and a status' message has a bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from conclave.api.plan import RejectedOption
from conclave.catalogue.accelerators import is_product
from conclave.planning.inventory import Barrier, node_names
from conclave.planning.request import PlanRequest

MOST_SENTENCES = 4
"""Different reasons that are listed, those of most nodes first; the rest are counted."""
_LONGEST_REASON = 1024


class _LeftOut(NamedTuple):
    name: str
    barriers: tuple[Barrier, ...]
    accelerator: str
    gpus: int
    """0 where what the node has is no part of the inventory."""


def left_out_nodes(request: PlanRequest, *, with_others: bool = True) -> tuple[RejectedOption, ...]:
    """One entry for each reason, for instance "node aks-a" and "taint sku=gpu:NoSchedule is not tolerated: add ...".

    `with_others`: also nodes whose accelerators no plan can use. A node is missing here if the request does not allow
    its accelerator, or if the request's selector does not match it.
    """
    alike: dict[tuple[Barrier, ...], list[_LeftOut]] = {}
    for node in (*_barred(request), *(_unusable(request) if with_others else ())):
        alike.setdefault(node.barriers, []).append(node)
    groups = sorted(alike.values(), key=lambda group: (-len(group), group[0].name))
    listed = [_entry(group) for group in groups[:MOST_SENTENCES]]
    rest = groups[MOST_SENTENCES:]
    if rest:
        count = sum(map(len, rest))
        reason = (
            f"may not be used for {_counted(len(rest), 'other reason')}: `kubectl describe node` shows their taints"
        )
        listed.append(RejectedOption(option=_counted(count, "further node"), reason=reason))
    return tuple(listed)


def _barred(request: PlanRequest) -> Iterator[_LeftOut]:
    for node in request.inventory.nodes:
        if node.barriers and node.gpus and any(map(node.is_meant, request.accelerators or ("",))):
            yield _LeftOut(node.name, node.barriers, node.accelerator, node.gpus)


def _unusable(request: PlanRequest) -> Iterator[_LeftOut]:
    for other in request.inventory.others:
        is_wanted = any(is_product(other.accelerator, wanted) for wanted in request.accelerators or ("",))
        if is_wanted or not other.accelerator:
            yield _LeftOut(other.name, (other.barrier,), other.accelerator, 0)


def _entry(group: list[_LeftOut]) -> RejectedOption:
    names = list(dict.fromkeys(node.name for node in group))  # a node may have several kinds of MIG slices
    words = [f"{barrier.seen}: {barrier.remedy}" for barrier in group[0].barriers]
    gpus: Counter[str] = Counter()
    for node in group:
        gpus[node.accelerator] += node.gpus
    has = ", ".join(f"{count} {product}" for product, count in sorted(gpus.items()) if count)
    if has:
        words.append(f"{'it has' if len(names) == 1 else 'they have'} {has}")
    return RejectedOption(option=node_names(names), reason="; ".join(words)[:_LONGEST_REASON])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"

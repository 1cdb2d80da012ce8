"""The options of a request: parallel layouts on each kind of accelerator, and whether each of them fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from conclave.api.plan import RejectedOption
from conclave.catalogue.modules import layer_formats
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.explain import option_name, too_few_gpus, too_many_gpus
from conclave.planning.inventory import Node
from conclave.planning.layout import Layout
from conclave.planning.parallelism import refusals, tensor_sizes
from conclave.planning.placement import Placement, place
from conclave.planning.request import PlanRequest

_MOST_TENSOR = 64
_PIPELINES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 64)


class Option(NamedTuple):
    """A layout on one kind of accelerator, with the nodes that have it."""

    device: Device
    layout: Layout
    nodes: tuple[Node, ...]


class Candidate(NamedTuple):
    """An option that fits, and where its pods lie."""

    option: Option
    fit: Fit
    placement: Placement


def _devices(request: PlanRequest) -> tuple[tuple[Device, tuple[Node, ...]], ...]:
    """Kinds of accelerators in order of preference, each with the nodes that one replica may use."""
    by_kind: dict[tuple[str, ...], list[Node]] = {}
    for node in request.nodes_of(""):
        by_kind.setdefault(_kind(node), []).append(node)
    wanted_kinds = dict.fromkeys(
        kind
        for wanted in request.accelerators or ("",)
        for kind in sorted(by_kind)
        if any(node.is_meant(wanted) for node in by_kind[kind])
    )
    return tuple((Device.of_nodes(by_kind[kind]), tuple(by_kind[kind])) for kind in wanted_kinds)


def _kind(node: Node) -> tuple[str, ...]:
    """Accelerators that pods of one template can get: the product, what they ask for, and the labels that find it."""
    return (node.accelerator, node.resource, *sorted(node.selector))


def options(request: PlanRequest) -> Iterator[Option]:
    """All layouts to try, on every kind of accelerator that the spec allows."""
    for device, nodes in _devices(request):
        for layout in list(_layouts(request, nodes)) or [request.least_layout]:  # too large, but to be told why
            yield Option(device, layout, nodes)


def _layouts(request: PlanRequest, nodes: tuple[Node, ...]) -> Iterator[Layout]:
    """Parallel sizes worth a look: tensor parallelism inside a node, pipeline stages that fill what is free of one.

    Tensor sizes are powers of two and whole nodes; what the request fixes is kept.
    """
    largest = max(node.gpus for node in nodes)
    powers = {2**exponent for exponent in range(_MOST_TENSOR.bit_length())}
    tensors = [request.tensor] if request.tensor else sorted({*powers, largest})
    valid = tensor_sizes(request.facts, largest)
    filling = {max((size for size in valid if size <= (node.free_gpus or node.gpus)), default=1) for node in nodes}
    for tensor in tensors:
        for pipeline in [request.pipeline] if request.pipeline else _PIPELINES:
            if request.pipeline is None and pipeline > 1 and tensor < largest and tensor not in filling:
                continue
            if tensor * pipeline * request.data > request.most_gpus:
                continue
            layout = Layout(
                tensor=tensor, pipeline=pipeline, data=request.data, expert_parallel=bool(request.expert_parallel)
            )
            if request.expert_parallel is None and _needs_expert_parallel(request, layout):
                layout = layout.model_copy(update={"expert_parallel": True})
            yield layout


def _needs_expert_parallel(request: PlanRequest, layout: Layout) -> bool:
    """Experts are sliced unless vLLM refuses to, or slicing cuts through blocks that share a scale."""
    moe = request.facts.moe
    if moe is None or layout.expert_ranks == 1:
        return False
    weights = request.weights
    whole = layout.model_copy(update={"expert_parallel": True})
    if refusals(request.facts, whole, weights):
        return False
    share = moe.intermediate // layout.expert_slices
    experts = {formats.get("experts") for _, formats in layer_formats(request.facts, weights)}
    cuts_blocks = any(matrices.block and share % matrices.block[0] for matrices in experts if matrices is not None)
    return cuts_blocks or bool(refusals(request.facts, layout, weights))


def try_option(request: PlanRequest, option: Option) -> Candidate | RejectedOption:
    """The option with its memory and its place, or why it does not fit."""
    name = option_name(option.layout, option.device.product)
    if option.layout.gpus > request.most_gpus:
        refused = refusals(request.facts, option.layout, request.weights)
        reason = too_many_gpus(option.layout, request.max_gpus, option.nodes)
        return RejectedOption(option=name, reason="; ".join([*refused[:1], reason]))
    outcome = evaluate(request.facts, request.settings, option.device, option.layout)
    if isinstance(outcome, Misfit):
        return RejectedOption(option=name, reason=outcome.reason)
    placement = place(option.layout, option.nodes)
    if placement is None:
        return RejectedOption(option=name, reason=too_few_gpus(option.layout, option.nodes))
    return Candidate(option, outcome, placement)

"""The plan's sentences: why this option, why not the others. Called by `plan.py` and `remedies.py`."""

from __future__ import annotations

from collections.abc import Sequence

from conclave.api.modeldeployment import METHODS_WITH_DRAFT
from conclave.api.plan import RejectedOption
from conclave.catalogue.modules import formats_in_use
from conclave.catalogue.shapes import GroupedAttention, LatentAttention, MatrixFormat, ModelFacts, WeightFormat
from conclave.planning.evaluate import Device, Fit
from conclave.planning.inventory import Inventory, Node, Sharing, node_names
from conclave.planning.layout import Layout
from conclave.planning.placement import Placement
from conclave.planning.settings import EngineSettings, Speculation

_GIB = 2**30


def option_name(layout: Layout, product: str) -> str:
    """For instance "TP=8 on NVIDIA-A100-SXM4-80GB"."""
    return f"{layout.describe()} on {product}"


def no_such_nodes(
    product: str, inventory: Inventory, left_out: Sequence[str] = (), *, are_said: bool = False
) -> RejectedOption:
    """An accelerator of the spec that no node has, or no node with any; and what leaves other nodes out. `are_said` is
    whether further entries name nodes that are there and may not be used."""
    present = ", ".join(sorted({node.accelerator for node in inventory.nodes if node.schedulable and node.gpus}))
    wanted = "this accelerator" if product else "an accelerator"
    reason = f"no schedulable node that this deployment may use has {wanted}"
    if present or not (are_said or left_out):
        reason += f"; accelerators there: {present or 'none'}"
    reason = "; ".join([reason, *left_out])
    return RejectedOption(option=product or "any accelerator", reason=reason[:1024])


def shared_gpus(nodes: Sequence[Node]) -> tuple[RejectedOption, ...]:
    """What nodes offer of fewer GPUs, one entry for each way of sharing: "node a" and "10 nvidia.com/gpu are 1 GPU"."""
    entries = []
    for sharing in Sharing:
        shared = [node for node in nodes if node.sharing is sharing]
        if sharing is Sharing.NONE or not shared:
            continue
        devices, gpus = sum(node.devices for node in shared), sum(node.gpus for node in shared)
        seen = f"{devices} {shared[0].resource_name} are {gpus} GPU{'' if gpus == 1 else 's'}, shared by {sharing}"
        names = node_names([node.name for node in shared])
        entries.append(RejectedOption(option=names, reason=f"{seen}: {_MEANS[sharing]}"))
    return tuple(entries)


_MEANS = {
    Sharing.TIME_SLICING: "other pods may take memory of the same GPU, which no plan can count",
    Sharing.MPS: "each pod gets its part of the memory, and other pods compute at the same time",
    Sharing.BY_SCHEDULER: "a pod gets as many different GPUs as it asks for, and one that another pod has a part of "
    "counts as taken",
}


def too_many_gpus(layout: Layout, limit: int | None, nodes: Sequence[Node]) -> str:
    """More than the owner allows, or than there are."""
    if limit is None:
        return too_few_gpus(layout, nodes)
    return f"takes {layout.gpus} GPUs, more than hardware.maxGpusPerReplica {limit}"


def too_few_gpus(layout: Layout, nodes: Sequence[Node]) -> str:
    """Too few GPUs are free, or too few on one node."""
    free, total = sum(node.free_gpus for node in nodes), sum(node.gpus for node in nodes)
    most = max(node.free_gpus for node in nodes)
    needed = f"needs {layout.gpus} {'GPUs' if layout.gpus > 1 else 'GPU'}"
    needed += f", in tensor-parallel groups of {layout.tensor}" if layout.tensor > 1 else ""
    return f"{needed}; {free} of {total} are free, at most {most} on one node"


def why_not(layout: Layout, fit: Fit, best: Layout, best_fit: Fit) -> str:
    """Why an option that fits was not chosen."""
    if fit.max_model_len < best_fit.max_model_len and layout.gpus <= best.gpus:
        return f"fits, but only with a context of {fit.max_model_len} tokens instead of {best_fit.max_model_len}"
    if layout.pipeline > best.pipeline:
        return "fits, but a request passes its pipeline stages one after the other; fewer stages answer sooner"
    if layout.gpus > best.gpus:
        return f"fits, but takes {layout.gpus} GPUs where {best.gpus} are enough"
    if layout == best:
        return "fits, but comes later in the order of preference"
    return "fits, but another layout is preferred: this one has a stage over several nodes, or another accelerator"


def because(
    facts: ModelFacts,
    settings: EngineSettings,
    weights: WeightFormat | None,
    device: Device,
    layout: Layout,
    fit: Fit,
    placement: Placement,
    *,
    fixed: Sequence[str],
    kept: bool,
) -> tuple[str, ...]:
    """The reasons for the chosen option. `fixed` are the sizes that the spec sets, in words."""
    reasons = ["the recorded plan is still valid and is kept"] if kept else []
    reasons.append(_size(formats_in_use(facts, weights), settings, device, fit))
    if not kept:
        reasons.append(f"the spec sets {' and '.join(fixed)}" if fixed else _choice(layout, device))
    reasons.extend(_parallelism(facts, layout, placement))
    reasons.extend(_drafts(settings.speculation, fit))
    reasons.extend(_context(facts, settings, fit))
    reasons.extend(_evidence(facts, fit))
    return tuple(reasons)


def _size(formats: Sequence[MatrixFormat], settings: EngineSettings, device: Device, fit: Fit) -> str:
    kinds = [f"{matrices.method}{' made at load' if matrices.online else ''}" for matrices in formats]
    kind = " and ".join(dict.fromkeys(kinds)) or "unquantized"
    if settings.adapters:
        kind += f", with room for {settings.adapters} adapters of rank {settings.adapter_rank}"
    unit = "rank" if device.is_cpu else "GPU"
    memory = fit.memory
    used = memory.total - memory.free
    return (
        f"on the fullest {unit}, weights ({kind}) take {_gib(memory.weights)} GiB and the KV cache "
        f"{_gib(memory.kv_cache)} GiB; {_gib(used)} of {_gib(memory.total)} GiB are used"
    )


def _choice(layout: Layout, device: Device) -> str:
    if layout.gpus == 1:
        return "one device is enough"
    where = "ranks" if device.is_cpu else "GPUs"
    if layout.pipeline == 1:
        return f"{layout.gpus} {where} are the fewest that hold the model with a useful KV cache"
    return f"the model is too large for one node; {layout.pipeline} pipeline stages are the fewest that fit"


def _parallelism(facts: ModelFacts, layout: Layout, placement: Placement) -> list[str]:
    reasons = []
    if placement.gpus_per_pod < layout.tensor:
        pods = layout.tensor // placement.gpus_per_pod
        reasons.append(
            f"a stage of {layout.tensor} GPUs is larger than a node, so {pods} pods hold {placement.gpus_per_pod} each"
        )
    elif layout.pipeline > 1:
        reasons.append(f"{layout.pipeline} pipeline stages, each in a pod of {layout.tensor} GPUs")
    attention = facts.attention
    if isinstance(attention, GroupedAttention) and layout.tensor > attention.kv_heads:
        reasons.append(
            f"{attention.kv_heads} key-value heads on {layout.tensor} ranks: each is held "
            f"{layout.tensor // attention.kv_heads} times"
        )
    if isinstance(attention, LatentAttention) and layout.tensor > 1:
        reasons.append("every rank holds the whole compressed key-value entry of latent attention")
    if layout.expert_parallel and facts.moe is not None:
        reasons.append(
            f"experts are not sliced: each rank holds {layout.local_experts(facts.moe.experts)} of {facts.moe.experts}"
        )
    return reasons


def _drafts(speculation: Speculation | None, fit: Fit) -> list[str]:
    if speculation is None:
        return []
    said = f"{speculation.method} drafts {speculation.tokens} {'tokens' if speculation.tokens > 1 else 'token'} a step"
    if speculation.method in METHODS_WITH_DRAFT:
        said += (
            f"; its head is counted as {_gib(fit.draft_bytes)} GiB of weights and a layer of KV cache, the most that "
            "is usual for this model, since the plan does not read the head's config.json"
        )
    elif fit.draft_bytes:
        said += f"; the model's layers for that take {_gib(fit.draft_bytes)} GiB of weights and their own KV cache"
    return [said]


def _context(facts: ModelFacts, settings: EngineSettings, fit: Fit) -> list[str]:
    if fit.tight:
        return [
            f"tight: one request of {fit.max_model_len} tokens leaves less KV cache than the estimate may be wrong by; "
            "a shorter context or a higher gpu_memory_utilization is safe"
        ]
    if settings.max_model_len is not None:
        return []
    if fit.max_model_len == facts.context_tokens:
        return [f"the model's whole context of {facts.context_tokens} tokens fits"]
    return [
        f"max_model_len is {fit.max_model_len}: of the model's {facts.context_tokens} tokens, "
        f"{fit.longest_context_tokens} fit into the KV cache"
    ]


def _evidence(facts: ModelFacts, fit: Fit) -> list[str]:
    """What is uncertain where no reader knows the architecture."""
    evidence = facts.evidence
    if evidence is None:
        return []
    source = {
        "headers": f", and the headers of {evidence.measured.tensors if evidence.measured else 0} tensors",
        "index": f", and the {_gib(evidence.total_bytes or 0)} GiB that the index file of the weights says",
        "config": " alone, so that the weights are an estimate (their headers, or their index file, give their size)",
    }[evidence.basis]
    left = (
        f"; the context leaves {_gib(fit.uncertain_bytes)} GiB of each GPU's KV cache, "
        f"{evidence.uncertain_share:.0%} of the weights, to what this may miss"
        if fit.uncertain_bytes
        else ""
    )
    reasons = [
        f"uncertain: no reader knows {facts.architecture}: planned from the general fields of config.json{source}{left}"
    ]
    if facts.encoders:
        where = ", ".join(encoder.name for encoder in facts.encoders)
        reasons.append(
            f"planned as a model of text: its encoders ({where} of config.json) count with all weights on every GPU, "
            "and with a full batch of inputs"
        )
    return reasons


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"

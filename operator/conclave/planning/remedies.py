"""What would fit if no layout fits: more GPUs, another accelerator, a quantization, a shorter context.

Every remedy is the outcome of an evaluation, never a guess. Called by `plan.py` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from conclave.api.modeldeployment import KvCacheDtype, Quantization, Toleration
from conclave.catalogue.accelerators import all_accelerators
from conclave.planning.evaluate import Device, Fit, evaluate
from conclave.planning.explain import option_name
from conclave.planning.inventory import Inventory, Node, node_names, tolerations_in_words
from conclave.planning.layout import Layout
from conclave.planning.parallelism import refusals, tensor_sizes
from conclave.planning.request import PlanRequest
from conclave.planning.search import Candidate, options, try_option
from conclave.planning.settings import DEFAULT_GPU_MEMORY_UTILIZATION, EngineSettings

_TENSOR_SIZES = (1, 2, 4, 8)
_DATA_SIZES = range(1, 17)
_MOST_PIPELINE = 16
_SUGGESTED = ("A100-80GB", "H100", "H200", "B200", "MI300X")
_SHORTEST_USEFUL = 1024
_SMALLER_STEPS: tuple[Mapping[str, int], ...] = (
    {"max_num_seqs": 64},
    {"max_num_seqs": 64, "max_num_batched_tokens": 2048},
)
"""The smaller change first. vLLM's defaults on large GPUs, 1024 sequences and 8192 tokens, take gigabytes."""
_MOST_KINDS = 3
"""Kinds of taints for which it is tried whether their nodes would do."""


def remedies(request: PlanRequest) -> tuple[str, ...]:
    """Sentences, the smallest change first; empty if no remedy helps."""
    sizes = _other_sizes(request)
    if sizes:
        return (sizes,)
    found = [
        _admitted(request),
        _shorter_context(request),
        _more_of_each_gpu(request),
        _smaller_steps(request),
        _quantization(request),
        *_more_gpus(request),
        _other_accelerator(request),
    ]
    return tuple(dict.fromkeys(sentence for sentence in found if sentence))


def _admitted(request: PlanRequest) -> str | None:
    """The tolerations of one kind of nodes, where nodes that lack nothing else would do; else those of all kinds."""
    present = request.inventory.nodes
    kinds: dict[tuple[Toleration, ...], set[str]] = {}
    for node in present:
        if node.barriers and all(barrier.tolerations for barrier in node.barriers):
            lacked = tuple(toleration for barrier in node.barriers for toleration in barrier.tolerations)
            kinds.setdefault(lacked, set()).add(node.name)
    tried = sorted(kinds.items(), key=lambda kind: -len(kind[1]))[:_MOST_KINDS]
    if len(tried) > 1:
        every = dict.fromkeys(toleration for tolerations, _ in tried for toleration in tolerations)
        tried.append((tuple(every), set().union(*(names for _, names in tried))))
    for tolerations, names in tried:
        nodes = (node.model_copy(update={"barriers": ()}) if node.name in names else node for node in present)
        wider = request.model_copy(update={"inventory": Inventory(nodes=tuple(nodes))})
        fitting = (option for option in options(wider) if isinstance(try_option(wider, option), Candidate))
        if option := next(fitting, None):
            gained = [node.name for node in option.nodes if node.name in names]
            return (
                f"hardware.tolerations {tolerations_in_words(tolerations)} would admit {node_names(gained)}: "
                f"{option_name(option.layout, option.device.product)} fits there"
            )
    return None


def _other_sizes(request: PlanRequest) -> str | None:
    """Where a fixed size is what vLLM refuses: the sizes that it takes."""
    facts, fixed = request.facts, request.least_layout
    weights = request.weights
    if not refusals(facts, fixed, weights):
        return None
    sizes = []
    if fixed.expert_parallel and facts.moe is None:
        sizes.append("parallelism.expertParallel left out: a dense model has no experts to spread")
    if refusals(facts, Layout(tensor=fixed.tensor), weights):
        sizes.append(f"tensor sizes that vLLM takes for this model: {_listed(tensor_sizes(facts))}")
    if fixed.pipeline > len(facts.layers):
        sizes.append(f"at most {len(facts.layers)} pipeline stages, one for each layer")
    if not sizes and fixed.data > 1:
        single = fixed.model_copy(update={"pipeline": 1})
        data = [size for size in _DATA_SIZES if not refusals(facts, single.model_copy(update={"data": size}), weights)]
        sizes.append(f"data sizes that vLLM takes for this model: {_listed(data)}")
    return "; ".join(sizes) or None


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "none"


def _smaller_steps(request: PlanRequest) -> str | None:
    """Fewer sequences and tokens in one step of the engine, where the owner set neither."""
    for change in _SMALLER_STEPS:
        if any(getattr(request.settings, name) is not None for name in change):
            continue
        settings = request.settings.model_copy(update=dict(change))
        words = " and ".join(f"{name.replace('_', '-')} {value}" for name, value in change.items())
        for device in _present(request):
            found = None if device.is_cpu else _smallest(request, settings, device, limit=_free(request, device))
            if found is not None and _is_what_helps(request, device, found[0]):
                return f"{words} would fit: {_words(found[0], device, found[1])}"
    return None


def _more_of_each_gpu(request: PlanRequest) -> str | None:
    """Where the owner gave the engine less than vLLM takes by itself."""
    if request.settings.gpu_memory_utilization >= DEFAULT_GPU_MEMORY_UTILIZATION:
        return None
    usual = DEFAULT_GPU_MEMORY_UTILIZATION
    settings = request.settings.model_copy(update={"gpu_memory_utilization": usual})
    for device in _present(request):
        found = _smallest(request, settings, device, limit=_free(request, device))
        if found is not None and _is_what_helps(request, device, found[0]):
            return f"gpu_memory_utilization {usual} would fit: {_words(found[0], device, found[1])}"
    return None


def _is_what_helps(request: PlanRequest, device: Device, layout: Layout) -> bool:
    """Whether that layout does not fit without the change."""
    return not isinstance(evaluate(request.facts, request.settings, device, layout), Fit)


def _present(request: PlanRequest) -> tuple[Device, ...]:
    """Accelerators of the inventory that the request allows."""
    by_product: dict[str, list[Node]] = {}
    for node in request.inventory.nodes:
        if any(map(node.is_meant, request.accelerators or ("",))):
            by_product.setdefault(node.accelerator, []).append(node)
    return tuple(Device.of_nodes(by_product[product]) for product in sorted(by_product))


def _free(request: PlanRequest, device: Device) -> int:
    nodes = (node for node in request.inventory.nodes if node.accelerator == device.product and node.schedulable)
    return min(sum(node.free_gpus for node in nodes), request.most_gpus)


def _smallest(
    request: PlanRequest, settings: EngineSettings, device: Device, limit: int | None = None
) -> tuple[Layout, Fit] | None:
    """The fewest GPUs of one kind that hold the model, whatever the inventory has of it."""
    tensors = (request.tensor,) if request.tensor else _TENSOR_SIZES
    pipelines = (request.pipeline,) if request.pipeline else range(1, _MOST_PIPELINE + 1)
    layouts = sorted(
        (
            Layout(tensor=tensor, pipeline=pipeline, data=request.data, expert_parallel=bool(request.expert_parallel))
            for tensor in tensors
            for pipeline in pipelines
            if pipeline <= len(request.facts.layers)
        ),
        key=lambda layout: (layout.pipeline, layout.gpus),
    )
    for layout in layouts:
        if limit is not None and layout.gpus > limit:
            continue
        fit = evaluate(request.facts, settings, device, layout)
        if isinstance(fit, Fit):
            return layout, fit
    return None


def _shorter_context(request: PlanRequest) -> str | None:
    settings = request.settings
    if settings.max_model_len is None:
        return None
    unbounded = settings.model_copy(update={"max_model_len": None})
    best: tuple[int, Device, Layout] | None = None
    for device in _present(request):
        found = _longest(request, unbounded, device)
        if found is not None and (best is None or found[0] > best[0]):
            best = (found[0], device, found[1])
    if best is None or best[0] < min(_SHORTEST_USEFUL, settings.max_model_len) or best[0] >= settings.max_model_len:
        return None
    return f"engine.maxModelLen {best[0]} would fit ({best[2].describe()} on {best[1].product})"


def _longest(request: PlanRequest, settings: EngineSettings, device: Device) -> tuple[int, Layout] | None:
    tensors = (request.tensor,) if request.tensor else _TENSOR_SIZES
    pipelines = (request.pipeline,) if request.pipeline else (1, 2, 4)
    fits = [
        (fit.max_model_len, layout)
        for tensor in tensors
        for pipeline in pipelines
        if tensor * pipeline * request.data <= _free(request, device)
        for layout in (Layout(tensor=tensor, pipeline=pipeline, data=request.data),)
        if isinstance(fit := evaluate(request.facts, settings, device, layout), Fit)
    ]
    return max(fits, key=lambda entry: (entry[0], -entry[1].pipeline, -entry[1].gpus), default=None)


def _quantization(request: PlanRequest) -> str | None:
    if request.facts.weight_format is not None or request.settings.quantization is not Quantization.NONE:
        return None
    for change, words in (
        ({"quantization": Quantization.FP8_PER_TENSOR}, "engine.quantization fp8_per_tensor"),
        (
            {"quantization": Quantization.FP8_PER_TENSOR, "kv_cache_dtype": KvCacheDtype.FP8},
            "engine.quantization fp8_per_tensor and engine.kvCacheDtype fp8",
        ),
        ({"quantization": Quantization.AWQ}, "a 4-bit AWQ copy of the weights"),
    ):
        settings = request.settings.model_copy(update=change)
        for device in _present(request):
            if device.is_cpu:
                continue
            found = _smallest(request, settings, device, limit=_free(request, device))
            if found is not None and _is_what_helps(request, device, found[0]):
                return f"{words} would fit: {_words(found[0], device, found[1])}"
    return None


def _more_gpus(request: PlanRequest) -> list[str]:
    sentences = []
    for device in _present(request):
        if device.is_cpu:
            continue
        found = _smallest(request, request.settings, device)
        if found is None:
            continue
        layout, fit = found
        if layout.gpus <= _free(request, device):
            sentences.append(f"{_words(layout, device, fit)} would fit with parallelism.pipeline {layout.pipeline}")
            continue
        limit = ""
        if request.max_gpus is not None and layout.gpus > request.max_gpus:
            limit = f" (hardware.maxGpusPerReplica is {request.max_gpus})"
        sentences.append(f"{_words(layout, device, fit)} would fit; {_free(request, device)} are free now{limit}")
    return sentences


def _other_accelerator(request: PlanRequest) -> str | None:
    present = {device.match.accelerator.name for device in _present(request) if device.match}
    for accelerator in all_accelerators():
        if accelerator.name not in _SUGGESTED or accelerator.name in present:
            continue
        device = Device.of(accelerator.products[0], accelerator.memory_bytes)
        found = _smallest(request, request.settings, device, limit=request.most_gpus)
        if found is not None:
            return f"{_words(found[0], device, found[1])} would fit"
    return None


def _words(layout: Layout, device: Device, fit: Fit) -> str:
    gpus = "1 GPU" if layout.gpus == 1 else f"{layout.gpus} GPUs"
    return f"{gpus} of {device.product} ({layout.describe()}, context {fit.max_model_len})"

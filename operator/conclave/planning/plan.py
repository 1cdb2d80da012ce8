"""Makes the plan of one replica: which accelerator, how many GPUs, in which parallel layout, and why.

Called by the operator, `conclave plan` and `conclave up`. Pure and deterministic: facts and inventory in, outcome out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.modeldeployment import Adapter, Engine, ModelDeployment
from conclave.api.plan import Plan, PlanMemory, RejectedOption
from conclave.catalogue.facts import ModelFacts, read_config
from conclave.catalogue.models import find_model, suggest_models
from conclave.errors import InvalidInput, UnknownModel
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.explain import because, no_such_nodes, option_name, too_few_gpus, too_many_gpus, why_not
from conclave.planning.inventory import Inventory, Node
from conclave.planning.layout import Layout
from conclave.planning.parallelism import refusals, tensor_sizes
from conclave.planning.placement import Placement, place
from conclave.planning.remedies import remedies
from conclave.planning.settings import EngineSettings, weight_format

USEFUL_CONTEXT_TOKENS = 32768
"""Where no length is asked for, GPUs are added until a request of this many tokens (or the whole context) fits."""
REGION_LABEL = "topology.kubernetes.io/region"

_MOST_REJECTED = 64
_MOST_EXPLAINED = 12
_LONGEST_EXPLANATION = 4000
_MOST_TENSOR = 64
_PIPELINES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 64)


class PlanRequest(BaseModel):
    """What to plan: a model, the engine's settings, what is fixed, and the hardware."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: ModelFacts
    inventory: Inventory
    left_out: tuple[str, ...] = ()
    """What the owner's selector and regions leave out of the inventory, in words."""
    accelerators: tuple[str, ...] = ()
    """Allowed accelerators in order of preference, matched by prefix; every one of the inventory where empty."""
    max_gpus: int | None = Field(default=None, ge=1)
    """Of one replica, as the owner allows; no more than the inventory has where left out."""
    tensor: int | None = Field(default=None, ge=1)
    pipeline: int | None = Field(default=None, ge=1)
    data: int = Field(default=1, ge=1)
    expert_parallel: bool | None = None
    settings: EngineSettings = EngineSettings()
    previous: Plan | None = None
    """The recorded plan: kept where it still holds."""

    @property
    def most_gpus(self) -> int:
        """GPUs that one replica may take."""
        return self.max_gpus or sum(node.gpus for node in self.inventory.nodes)

    @property
    def fixed_sizes(self) -> tuple[str, ...]:
        """The sizes that the owner chose, in words; how many stages there are follows from them or is planned."""
        sizes = {"tensor": self.tensor, "pipeline": self.pipeline}
        return tuple(f"{name} {size}" for name, size in sizes.items() if size is not None)

    @property
    def least_layout(self) -> Layout:
        """What the request fixes, and no more."""
        return Layout(
            tensor=self.tensor or 1,
            pipeline=self.pipeline or 1,
            data=self.data,
            expert_parallel=bool(self.expert_parallel),
        )


class PlanOutcome(BaseModel):
    """A plan, or why there is none and what would help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan | None
    stages: tuple[PlanMemory, ...] = ()
    """Of the plan: the fullest GPU of each pipeline stage."""
    rejected: tuple[RejectedOption, ...] = ()
    """Every option that was considered and not taken (the plan itself carries at most 64)."""
    remedies: tuple[str, ...] = ()
    """What would fit, in plain words; only where nothing does."""

    @property
    def explanation(self) -> str:
        """Reasons and remedies in one paragraph that a condition's message (4096 characters) can hold."""
        reasons = [f"{option.option}: {option.reason}" for option in self.rejected[:_MOST_EXPLAINED]]
        if len(self.rejected) > _MOST_EXPLAINED:
            reasons.append(f"and {len(self.rejected) - _MOST_EXPLAINED} more options")
        would = f"What would help: {'; '.join(self.remedies)}." if self.remedies else ""
        said = f"Nothing fits. {'; '.join(reasons)}."
        return f"{said[: _LONGEST_EXPLANATION - len(would) - 1]} {would}".strip()


class _Option(NamedTuple):
    device: Device
    layout: Layout
    nodes: tuple[Node, ...]


class _Candidate(NamedTuple):
    option: _Option
    fit: Fit
    placement: Placement


def plan_deployment(
    deployment: ModelDeployment, facts: ModelFacts, inventory: Inventory, previous: Plan | None = None
) -> PlanOutcome:
    """The plan of a ModelDeployment on the nodes that its selector and regions allow."""
    spec = deployment.spec
    allowed = tuple(node for node in inventory.nodes if _is_allowed(node, deployment))
    return make_plan(
        PlanRequest(
            facts=facts,
            inventory=Inventory(nodes=allowed),
            left_out=tuple(_left_out(inventory, deployment)),
            accelerators=spec.hardware.accelerators,
            max_gpus=spec.hardware.max_gpus_per_replica,
            tensor=spec.parallelism.tensor,
            pipeline=spec.parallelism.pipeline,
            data=spec.parallelism.data,
            expert_parallel=spec.parallelism.expert_parallel,
            settings=engine_settings(spec.engine, spec.model.adapters),
            previous=previous,
        )
    )


def make_plan(request: PlanRequest) -> PlanOutcome:
    """The best option that vLLM would start, or the reasons why there is none."""
    candidates: list[_Candidate] = []
    rejected = [
        no_such_nodes(product, request.inventory, request.left_out)
        for product in request.accelerators or ("",)
        if not any(_is_product(node, product) and node.schedulable and node.gpus for node in request.inventory.nodes)
    ]
    for option in _options(request):
        outcome = _try(request, option)
        if isinstance(outcome, _Candidate):
            candidates.append(outcome)
        else:
            rejected.append(outcome)
    if not candidates:
        return PlanOutcome(plan=None, rejected=tuple(rejected), remedies=remedies(request))
    kept = _previous(request, candidates)
    best = kept or min(candidates, key=lambda candidate: _rank(request, candidate))
    ranked = sorted(
        (other for other in candidates if other.option != best.option), key=lambda other: _rank(request, other)
    )
    rejected = [*_not_taken(best, ranked), *rejected]
    return PlanOutcome(
        plan=_plan(request, best, tuple(rejected[:_MOST_REJECTED]), kept=kept is not None),
        stages=best.fit.stages,
        rejected=tuple(rejected),
    )


def facts_for(model_id: str, config: Mapping[str, object] | None) -> ModelFacts:
    """Facts from the model's own config.json where there is one, else from the catalogue.

    Raises UnknownModel where neither describes the model.
    """
    if config is not None:
        return read_config(config)
    entry = find_model(model_id)
    if entry is None:
        near = ", ".join(suggest_models(model_id))
        raise UnknownModel(
            f"model.id is {model_id!r}, which the catalogue does not know{f' (did you mean {near}?)' if near else ''}; "
            "give its config.json with --config (in a cluster it is read from the weights, or from model.configRef)"
        )
    if not entry.has_weights:
        raise UnknownModel(f"model.id is {model_id!r}: {entry.served.reason}")
    return read_config(entry.config)


def engine_settings(engine: Engine, adapters: Sequence[Adapter] = ()) -> EngineSettings:
    """The settings that bear on memory; extra arguments are read by vLLM's names."""
    extra = {name.removeprefix("--").replace("-", "_"): value for name, value in engine.extra_args.items()}
    named = {name: _number(name, extra[name]) for name in _SIZED_ARGUMENTS if name in extra}
    return EngineSettings(
        dtype=engine.dtype,
        quantization=engine.quantization,
        kv_cache_dtype=engine.kv_cache_dtype,
        max_model_len=engine.max_model_len,
        enforce_eager=extra.get("enforce_eager", "false").lower() == "true",
        adapters=len(adapters),
        adapter_rank=max((adapter.max_rank for adapter in adapters), default=0),
        **named,
    )


_SIZED_ARGUMENTS = (
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "max_cudagraph_capture_size",
    "kv_cache_memory_bytes",
)


def _number(name: str, value: str) -> float:
    try:
        return float(value) if name == "gpu_memory_utilization" else int(value)
    except ValueError as error:
        raise InvalidInput(f"engine.extraArgs: {name} is {value!r}; expected a number") from error


def _is_allowed(node: Node, deployment: ModelDeployment) -> bool:
    return all(node.labels.get(key) in values for _, key, values in _wanted_labels(deployment))


def _wanted_labels(deployment: ModelDeployment) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The field, the label and the values that a node must have one of."""
    if regions := deployment.spec.access.regions:
        yield "access.regions", REGION_LABEL, regions
    for key, value in deployment.spec.hardware.node_selector.items():
        yield "hardware.nodeSelector", key, (value,)


def _left_out(inventory: Inventory, deployment: ModelDeployment) -> Iterator[str]:
    for field, key, values in _wanted_labels(deployment):
        labels = [node.labels.get(key) for node in inventory.nodes]
        if out := [label for label in labels if label not in values]:
            seen = ", ".join(sorted({label or "unset" for label in out}))
            yield (
                f"{field} wants the label {key} to be {' or '.join(values)}, which leaves out {len(out)} of "
                f"{len(labels)} nodes, where it is {seen}"
            )


def _is_product(node: Node, wanted: str) -> bool:
    return node.accelerator.lower().startswith(wanted.lower().replace(" ", "-"))


def _devices(request: PlanRequest) -> tuple[tuple[Device, tuple[Node, ...]], ...]:
    """Kinds of accelerators in order of preference, each with the nodes that one replica may use."""
    usable = [node for node in request.inventory.nodes if node.schedulable and node.gpus > 0]
    products = sorted({node.accelerator for node in usable})
    if request.accelerators:
        preferred = (
            product
            for wanted in request.accelerators
            for product in products
            if product.lower().startswith(wanted.lower().replace(" ", "-"))
        )
        products = list(dict.fromkeys(preferred))
    by_product = {product: tuple(node for node in usable if node.accelerator == product) for product in products}
    return tuple(
        (Device.of(product, min(node.memory_bytes for node in nodes)), nodes) for product, nodes in by_product.items()
    )


def _options(request: PlanRequest) -> Iterator[_Option]:
    for device, nodes in _devices(request):
        for layout in list(_layouts(request, nodes)) or [request.least_layout]:  # too large, but to be told why
            yield _Option(device, layout, nodes)


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
    weights = weight_format(request.facts, request.settings)
    whole = layout.model_copy(update={"expert_parallel": True})
    if refusals(request.facts, whole, weights):
        return False
    block = weights.block[0] if weights is not None and weights.block else 1
    cuts_blocks = moe.intermediate // layout.expert_slices % block != 0
    return cuts_blocks or bool(refusals(request.facts, layout, weights))


def _try(request: PlanRequest, option: _Option) -> _Candidate | RejectedOption:
    name = option_name(option.layout, option.device.product)
    if option.layout.gpus > request.most_gpus:
        refused = refusals(request.facts, option.layout, weight_format(request.facts, request.settings))
        reason = too_many_gpus(option.layout, request.max_gpus, option.nodes)
        return RejectedOption(option=name, reason="; ".join([*refused[:1], reason]))
    outcome = evaluate(request.facts, request.settings, option.device, option.layout)
    if isinstance(outcome, Misfit):
        return RejectedOption(option=name, reason=outcome.reason)
    placement = place(option.layout, option.nodes)
    if placement is None:
        return RejectedOption(option=name, reason=too_few_gpus(option.layout, option.nodes))
    return _Candidate(option, outcome, placement)


def _rank(request: PlanRequest, candidate: _Candidate) -> tuple[object, ...]:
    """The least is the best. What comes first outweighs all that follows:

    a useful context, or else the longest; the owner's order of accelerators; a stage inside one node, because tensor
    parallelism exchanges activations twice a layer; few pipeline stages, because a token passes them one after the
    other, so that TP=8 answers sooner than TP=4, PP=2 on as many GPUs; few GPUs; experts sliced rather than spread,
    which loads all ranks alike; the smaller device, which leaves the larger to models that need it.
    """
    useful = min(request.facts.context_tokens, USEFUL_CONTEXT_TOKENS)
    layout, placement = candidate.option.layout, candidate.placement
    is_useful = request.settings.max_model_len is not None or candidate.fit.max_model_len >= useful
    wanted = [
        index
        for index, product in enumerate(request.accelerators)
        if candidate.option.device.product.lower().startswith(product.lower().replace(" ", "-"))
    ]
    return (
        not is_useful,
        0 if is_useful else -candidate.fit.max_model_len,
        min(wanted, default=0),
        placement.gpus_per_pod < layout.tensor,
        layout.pipeline,
        layout.gpus,
        layout.expert_parallel,
        candidate.option.device.memory_bytes,
        candidate.option.device.product,
    )


def _previous(request: PlanRequest, candidates: list[_Candidate]) -> _Candidate | None:
    """The option that the recorded plan took, where it still fits."""
    old = request.previous
    if old is None:
        return None
    for candidate in candidates:
        layout = candidate.option.layout
        same = (layout.tensor, layout.pipeline, layout.data, layout.expert_parallel) == (
            old.tensor,
            old.pipeline,
            old.data,
            old.expert_parallel,
        )
        if same and candidate.option.device.product == old.accelerator:
            return _with_length(request, candidate, old.max_model_len)
    return None


def _with_length(request: PlanRequest, candidate: _Candidate, length: int) -> _Candidate:
    """The recorded length as well, where none is asked for: another one would restart the engine."""
    if request.settings.max_model_len is not None:
        return candidate
    settings = request.settings.model_copy(update={"max_model_len": length})
    fit = evaluate(request.facts, settings, candidate.option.device, candidate.option.layout)
    return candidate._replace(fit=fit) if isinstance(fit, Fit) else candidate


def _not_taken(best: _Candidate, others: list[_Candidate]) -> Iterator[RejectedOption]:
    for other in others:
        yield RejectedOption(
            option=option_name(other.option.layout, other.option.device.product),
            reason=why_not(other.option.layout, other.fit, best.option.layout, best.fit),
        )


def _plan(request: PlanRequest, best: _Candidate, rejected: tuple[RejectedOption, ...], *, kept: bool) -> Plan:
    layout, fit = best.option.layout, best.fit
    reasons = because(
        request.facts,
        request.settings,
        best.option.device,
        layout,
        fit,
        best.placement,
        fixed=request.fixed_sizes,
        kept=kept,
    )
    return Plan(
        accelerator=best.option.device.product,
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        data=layout.data,
        expert_parallel=layout.expert_parallel,
        gpus_per_replica=layout.gpus,
        nodes_per_replica=best.placement.pods,
        gpus_per_node=best.placement.gpus_per_pod,
        max_model_len=fit.max_model_len,
        longest_context_tokens=fit.longest_context_tokens,
        kv_cache_tokens=fit.kv_cache_tokens,
        max_concurrency=fit.max_concurrency,
        memory=fit.memory,
        because=reasons,
        rejected=rejected,
    )

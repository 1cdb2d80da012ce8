"""One option, worked out: does this model run on this accelerator in this layout, and with how much KV cache?

Called by `plan.py` for every option and by `remedies.py` for those that the inventory does not offer.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.plan import MOST_LABEL_VALUES, PlanMemory
from conclave.catalogue.accelerators import AcceleratorMatch, find_accelerator, is_shared, mig_profile
from conclave.catalogue.modules import formats_in_use
from conclave.catalogue.shapes import ModelFacts, WeightFormat
from conclave.planning.adapters import adapter_bytes, adapter_refusal
from conclave.planning.inventory import Node, Sharing
from conclave.planning.kernels import kernel_refusal
from conclave.planning.kv_cache import KvCache, kv_cache
from conclave.planning.layout import Layout
from conclave.planning.memory import (
    UNCERTAIN_SHARE,
    compile_bytes,
    cpu_logits_bytes,
    encoder_activation_bytes,
    forward_bytes,
    graph_bytes,
    logits_bytes,
    overhead_bytes,
    rotary_bytes,
    sampler_state_bytes,
)
from conclave.planning.parallelism import refusals
from conclave.planning.settings import (
    CPU,
    EngineSettings,
    batch_sizes,
    block_tokens,
    expert_tiles,
    half_precision_refusal,
    in_flight_tokens,
    kv_cache_refusal,
    kv_entry_bytes,
    largest_graph_tokens,
    quantization_conflict,
    weight_dtype,
    weight_format,
)
from conclave.planning.speculation import draft_bytes, draft_state_bytes, drafting_layers, speculation_refusals
from conclave.planning.weights import DTYPE_BYTES, weight_bytes

_GIB = 2**30
_BITS_WITH_WORKSPACES = 4
"""Kernels of such weights take memory that is not counted, so that a tight plan of them is refused; so is a tight plan
of an architecture that no reader knows."""
_HUNDRED = 100
_CPU_REQUESTS = 8
"""Requests of max_model_len that a CPU's KV cache is sized for, where there is room."""


class Device(BaseModel):
    """One kind of device: its product name and the memory that a process gets of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product: str
    memory_bytes: int
    match: AcceleratorMatch | None = None
    resource: str = ""
    """What pods ask for; empty where it is the vendor's own name."""
    selector: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Labels of the nodes that have it, with the values of all of them; empty where it is the product label."""
    mps_pods: int = 1
    """Pods among which NVIDIA's MPS divides the memory of one, of which CUDA reports all to each."""

    @classmethod
    def of(cls, product: str, memory_bytes: int) -> Device:
        """The driver keeps a part of what a node's label says; the catalogue knows what is left."""
        match = None if product == CPU else find_accelerator(product)
        if match is not None and (not memory_bytes or match.mig_profile is None):
            memory_bytes = min(memory_bytes, match.memory_bytes) if memory_bytes else match.memory_bytes
        return cls(product=product, memory_bytes=memory_bytes, match=match)

    @classmethod
    def of_nodes(cls, nodes: Sequence[Node]) -> Device:
        """What nodes of one kind have in common: the least memory, the labels of all of them."""
        keys = dict.fromkeys(key for node in nodes for key in node.selector)
        mps_pods = [node.devices // node.gpus for node in nodes if node.sharing is Sharing.MPS and node.gpus]
        found = cls.of(nodes[0].accelerator, min(node.memory_bytes for node in nodes))
        return found.model_copy(
            update={
                "resource": nodes[0].resource,
                "selector": {
                    key: tuple(
                        sorted({node.selector[key] for node in nodes if key in node.selector})[:MOST_LABEL_VALUES]
                    )
                    for key in keys
                },
                "mps_pods": max([1, *mps_pods]),
            }
        )

    @property
    def is_cpu(self) -> bool:
        return self.product == CPU

    @property
    def reported_bytes(self) -> int:
        """What the driver (NVML) may report of it, by which vLLM chooses its batch: of a MIG slice the whole card's."""
        if self.match is None or self.match.mig_profile is None:
            return self.memory_bytes
        return self.match.accelerator.memory_bytes


class Fit(BaseModel):
    """An option that vLLM would start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: PlanMemory
    """Of the fullest GPU."""
    stages: tuple[PlanMemory, ...]
    """Of the fullest GPU of each pipeline stage."""
    max_model_len: int
    longest_context_tokens: int
    kv_cache_tokens: int
    max_concurrency: int
    uncertain_bytes: int = 0
    """Of the KV cache: what weights that no reader knows may take instead, and the length leaves to them."""
    draft_bytes: int = 0
    """Of the weights of one GPU: what layers that draft take."""
    tight: bool = False
    """Whether one request of max_model_len leaves less than the plan may be wrong by."""


class Misfit(BaseModel):
    """An option that vLLM would refuse, or that ends out of memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    longest_context_tokens: int = 0
    """Longest context that would fit, where only the length is too much."""


def evaluate(facts: ModelFacts, settings: EngineSettings, device: Device, layout: Layout) -> Fit | Misfit:
    """Whether one replica fits, and how; a Misfit says why not."""
    weights = weight_format(facts, settings)
    reasons = refusals(facts, layout, weights)
    unfit = quantization_conflict(facts, settings) or half_precision_refusal(facts, settings)
    unfit = (
        unfit
        or kv_cache_refusal(facts, settings)
        or _context_refusal(facts, settings)
        or next(speculation_refusals(facts, layout, settings.speculation), None)
        or adapter_refusal(facts, settings.adapters)
        or (reasons[0] if reasons else None)
        or _device_refusal(facts, settings, device, layout, weights)
    )
    if unfit is not None:
        return Misfit(reason=unfit)
    return _Budget(facts, settings, device, layout, weights).outcome()


class _Budget:
    """The memory of every pipeline stage's fullest rank."""

    def __init__(
        self,
        facts: ModelFacts,
        settings: EngineSettings,
        device: Device,
        layout: Layout,
        weights: WeightFormat | None,
    ) -> None:
        accelerator = device.match.accelerator if device.match else None
        dtype = weight_dtype(facts, settings, accelerator)
        dtype_bytes = DTYPE_BYTES[dtype]
        tokens, sequences = batch_sizes(settings, accelerator, device.reported_bytes, layout.gpus, on_cpu=device.is_cpu)
        self._tokens, self._sequences = tokens, sequences
        self._limit, self._data = settings.max_model_len or facts.context_tokens, layout.data
        self._facts, self._settings, self._device = facts, settings, device
        self._requested = int(device.memory_bytes * settings.gpu_memory_utilization)
        tiles = expert_tiles(accelerator, on_cpu=device.is_cpu)
        tables = rotary_bytes(facts, dtype_bytes)
        loaded = weight_bytes(facts, layout, dtype, weights, tiles)
        slots = adapter_bytes(
            facts,
            layout,
            dtype_bytes,
            slots=settings.adapters + device.is_cpu,  # where one stays empty: conclave_serving.app
            rank=settings.adapter_rank,
        )
        self._weights = tuple(
            parameters + tables + adapters for parameters, adapters in zip(loaded, slots, strict=True)
        )
        drafting = drafting_layers(facts, settings.speculation)
        self._drafts = draft_bytes(facts, layout, dtype, weights, tiles, settings.speculation)
        self._weights = (*self._weights[:-1], self._weights[-1] + self._drafts)
        eager = settings.enforce_eager or device.is_cpu
        layers = [len(stage) for stage in layout.stages(len(facts.layers))]
        layers[-1] += len(drafting)
        largest = largest_graph_tokens(settings, accelerator, tokens, sequences)
        self._graphs = [0 if eager else graph_bytes(count, largest, settings.step_tokens) for count in layers]
        self._activations = [forward_bytes(facts, layout, dtype_bytes, tokens)] * layout.pipeline
        if not eager:
            self._activations[0] = max(self._activations[0], compile_bytes(facts, layout, dtype_bytes, tokens))
        self._activations[-1] = max(self._activations[-1], self._sampling(layout, dtype_bytes))
        if not device.is_cpu:
            self._activations[-1] += self._kept_for_sampling(dtype_bytes)
        encoding = encoder_activation_bytes(facts, dtype_bytes, tokens=tokens)
        self._activations = [peak + encoding for peak in self._activations]
        self._overhead = overhead_bytes(layout, accelerator, on_cpu=device.is_cpu)
        bits = [matrices.bits for matrices in formats_in_use(facts, weights)]
        self._needs_margin = facts.evidence is not None or min(bits, default=16) <= _BITS_WITH_WORKSPACES
        self._cache: KvCache = kv_cache(
            facts,
            layout,
            kv_entry_bytes(facts, settings, accelerator),
            block_tokens=block_tokens(facts, settings, on_cpu=device.is_cpu),
            in_flight_tokens=in_flight_tokens(
                tokens, layout.pipeline, overlaps=settings.overlaps_steps and not device.is_cpu
            ),
            drafting=drafting,
        )

    def _sampling(self, layout: Layout, dtype_bytes: int) -> int:
        """Peak behind the layers, on the last stage."""
        tokens, sequences = self._tokens, self._sequences
        if self._device.is_cpu:
            return cpu_logits_bytes(self._facts, tokens=tokens, sequences=sequences)
        return logits_bytes(self._facts, layout, dtype_bytes, tokens=tokens, sequences=sequences)

    def _kept_for_sampling(self, dtype_bytes: int) -> int:
        """What sampler and drafts keep on the last stage's GPUs."""
        settings, sequences = self._settings, self._sequences
        return sampler_state_bytes(self._facts, sequences, settings.step_tokens) + draft_state_bytes(
            self._facts,
            dtype_bytes,
            settings.speculation,
            tokens=self._tokens,
            sequences=sequences,
            length=self._limit,
        )

    def outcome(self) -> Fit | Misfit:
        """Weighs what is left for the KV cache against one request of the longest length."""
        if self._sequences > self._tokens:
            return Misfit(
                reason=f"max_num_seqs is {self._sequences}, expected at most {self._tokens}, since a step computes "
                "this many tokens and at least one of each sequence; raise max_num_batched_tokens"
            )
        checked = self._sequences * self._settings.step_tokens
        if self._settings.adapters and self._settings.speculation and checked > self._tokens:
            return Misfit(
                reason=f"{self._sequences} sequences of {self._settings.step_tokens} tokens each, which "
                f"engine.speculative asks for, are {checked} tokens, and beside adapters vLLM refuses more than the "
                f"{self._tokens} tokens of a step; lower max_num_seqs, or raise max_num_batched_tokens"
            )
        left = [
            self._requested - weights - activations - graphs - self._overhead
            for weights, activations, graphs in zip(self._weights, self._activations, self._graphs, strict=True)
        ]
        tightest = min(range(len(left)), key=lambda stage: left[stage])
        if left[tightest] <= 0:
            return Misfit(reason=self._too_large(tightest))
        asked = self._settings.kv_cache_memory_bytes
        if asked is not None and asked > left[tightest]:
            return Misfit(
                reason=f"kv_cache_memory_bytes asks for {_gib(asked)} GiB of KV cache on a GPU, "
                f"and {_gib(left[tightest])} GiB are left beside {_gib(self._weights[tightest])} GiB of weights"
            )
        pools = [self._pool(stage, room) for stage, room in enumerate(left)]
        blocks = self._cache.pool_blocks(pools)
        longest = self._cache.longest_request(blocks, self._facts.context_tokens)
        margin = self._margin_bytes()
        careful = self._cache.pool_blocks([max(0, pool - margin) for pool in pools])
        certain = self._cache.longest_request(careful, self._facts.context_tokens)
        length = self._settings.max_model_len or _rounded_down(certain, self._facts.context_tokens)
        tight = not length or not self._cache.holds(length, careful)
        if not length or not self._cache.holds(length, blocks) or (tight and self._needs_margin):
            room = [max(0, pool - margin) for pool in left] if tight and longest >= (length or 1) else left
            reason = self._too_long(length or self._limit, tightest, room)
            if room is not left:
                reason = f"tight: {reason}, and the estimate may be wrong by {_gib(margin)} GiB"
            return Misfit(reason=reason, longest_context_tokens=certain)
        concurrency = self._cache.concurrency(length, blocks) * self._data
        stages = tuple(self._memory(stage, blocks * size) for stage, size in enumerate(self._cache.stage_block_bytes))
        return Fit(
            memory=stages[tightest],
            stages=stages,
            max_model_len=length,
            longest_context_tokens=longest,
            kv_cache_tokens=int(concurrency * length),
            max_concurrency=int(concurrency),
            uncertain_bytes=self._uncertain_bytes(),
            draft_bytes=self._drafts,
            tight=tight,
        )

    def _margin_bytes(self) -> int:
        """Bytes that the KV cache may come out smaller; none where its size is given, or not taken of the rest."""
        if self._device.is_cpu or self._settings.kv_cache_memory_bytes is not None:
            return 0
        return int(UNCERTAIN_SHARE * self._device.memory_bytes) + self._uncertain_bytes()

    def _uncertain_bytes(self) -> int:
        evidence = self._facts.evidence
        if evidence is None or self._device.is_cpu or self._settings.kv_cache_memory_bytes is not None:
            return 0
        return int(evidence.uncertain_share * max(self._weights))

    def _pool(self, stage: int, room: int) -> int:
        if self._settings.kv_cache_memory_bytes is not None:
            return self._settings.kv_cache_memory_bytes
        if not self._device.is_cpu:
            return room
        block = self._cache.stage_block_bytes[stage]
        return min(room, _CPU_REQUESTS * self._cache.request_bytes(self._limit, stage) + block)

    def _memory(self, stage: int, kv_bytes: int) -> PlanMemory:
        parts = {
            "weights": self._weights[stage],
            "kv_cache": kv_bytes,
            "activations": self._activations[stage],
            "graphs": self._graphs[stage],
            "overhead": self._overhead,
        }
        total = self._device.memory_bytes
        return PlanMemory(total=total, free=total - sum(parts.values()), **parts)

    def _too_large(self, stage: int) -> str:
        other = self._activations[stage] + self._graphs[stage] + self._overhead
        return (
            f"each GPU needs {_gib(self._weights[stage])} GiB for weights and {_gib(other)} GiB for activations, "
            f"graphs and overhead, and {_gib(self._requested)} GiB may be used: nothing is left for the KV cache"
        )

    def _too_long(self, length: int, stage: int, left: list[int]) -> str:
        needed = self._cache.request_bytes(length, stage)
        return (
            f"one request of {length} tokens needs {_gib(needed)} GiB of KV cache on each GPU, and "
            f"{_gib(left[stage])} GiB are left beside {_gib(self._weights[stage])} GiB of weights"
        )


def _rounded_down(longest: int, context: int) -> int:
    """The whole context where it fits, else a round number of tokens."""
    if longest >= context:
        return context
    step = next((step for step in (1024, 256, 16) if longest >= 4 * step), 1)
    return longest // step * step


def _context_refusal(facts: ModelFacts, settings: EngineSettings) -> str | None:
    length = settings.max_model_len
    if length is None or length <= facts.context_tokens:
        return None
    return f"engine.maxModelLen is {length}, and the model's context is {facts.context_tokens} tokens"


def _device_refusal(
    facts: ModelFacts, settings: EngineSettings, device: Device, layout: Layout, weights: WeightFormat | None
) -> str | None:
    if layout.gpus > 1 and is_shared(device.product):
        return "time-sliced GPUs share their memory, so two ranks of a replica could get the same GPU"
    if layout.gpus > 1 and mig_profile(device.product) is not None:
        return (
            "MIG slices cannot join in tensor or pipeline parallelism: CUDA lets no slice reach another one's memory, "
            "and NCCL takes two slices of one card for the same GPU"
            f"{f'; a replica asks for one {device.resource}' if device.resource else ''}"
        )
    part = _HUNDRED // device.mps_pods / _HUNDRED
    if device.mps_pods > 1 and settings.gpu_memory_utilization > part:
        return (
            f"MPS lets each of {device.mps_pods} pods have a part of a card's memory, while CUDA reports all of it: "
            f"gpu_memory_utilization is {settings.gpu_memory_utilization:g}, expected at most {part:g}; set it in "
            "engine.extraArgs"
        )
    return kernel_refusal(facts, settings, weights, device.match.accelerator) if device.match else None


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"

"""The request of a plan: a model, the settings of its engine, the sizes that the spec sets, and the hardware."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.modeldeployment import Adapter, Engine, ModelDeployment, Speculative
from conclave.catalogue.facts import ModelFacts, read_config
from conclave.catalogue.measured import MeasuredWeights, StoredTotal
from conclave.catalogue.models import find_model, suggest_models
from conclave.catalogue.shapes import WeightFormat
from conclave.errors import InvalidInput, UnknownModel
from conclave.planning.inventory import Inventory, Node, OtherNode, node_names
from conclave.planning.layout import Layout
from conclave.planning.roles import Plan
from conclave.planning.settings import EngineSettings, Speculation, weight_format

REGION_LABEL = "topology.kubernetes.io/region"


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

    @cached_property
    def weights(self) -> WeightFormat | None:
        """The format of the weights in memory."""
        return weight_format(self.facts, self.settings)

    @property
    def most_gpus(self) -> int:
        """GPUs that one replica may take."""
        return self.max_gpus or sum(node.gpus for node in self.inventory.nodes)

    @property
    def fixed_sizes(self) -> tuple[str, ...]:
        """The sizes that the spec sets, in words."""
        sizes = {"tensor": self.tensor, "pipeline": self.pipeline}
        return tuple(f"{name} {size}" for name, size in sizes.items() if size is not None)

    @property
    def least_layout(self) -> Layout:
        """The smallest layout that the request allows."""
        return Layout(
            tensor=self.tensor or 1,
            pipeline=self.pipeline or 1,
            data=self.data,
            expert_parallel=bool(self.expert_parallel),
        )

    def nodes_of(self, wanted: str) -> tuple[Node, ...]:
        """The nodes that pods may use and whose accelerator the owner's name means; an empty name means any."""
        nodes = self.inventory.nodes
        return tuple(node for node in nodes if node.schedulable and node.gpus and node.is_meant(wanted))


def request_for(
    deployment: ModelDeployment, facts: ModelFacts, inventory: Inventory, previous: Plan | None = None
) -> PlanRequest:
    """The request of a ModelDeployment, with the nodes that its selector and regions allow."""
    spec = deployment.spec
    allowed = Inventory(
        nodes=tuple(node for node in inventory.nodes if _is_allowed(node.labels, deployment)),
        others=tuple(node for node in inventory.others if _is_allowed(node.labels, deployment)),
    )
    return PlanRequest(
        facts=facts,
        inventory=allowed,
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


def facts_for(
    model_id: str, config: Mapping[str, object] | None, weights: MeasuredWeights | StoredTotal | None = None
) -> ModelFacts:
    """Facts from the model's own config.json if it is given, with what is known of its weights; else the catalogue's.

    Raises UnknownModel if neither describes the model.
    """
    if config is not None:
        return read_config(config, weights)
    entry = find_model(model_id)
    if entry is None:
        near = ", ".join(suggest_models(model_id))
        raise UnknownModel(
            f"model.id is {model_id!r}, which the catalogue does not know"
            f"{f' (did you mean {near}?)' if near else ''}; give its config.json with --config (in a cluster, the "
            "operator reads it beside the weights, or from model.configRef)"
        )
    if not entry.has_weights:
        raise UnknownModel(f"model.id is {model_id!r}: {entry.served.reason}")
    return read_config(entry.config)


def engine_settings(engine: Engine, adapters: Sequence[Adapter] = ()) -> EngineSettings:
    """The settings that change the use of memory. Extra arguments have vLLM's names."""
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
        async_scheduling=extra.get("async_scheduling", "true").lower() == "true",
        speculation=_speculation(engine.speculative),
        **named,
    )


def _speculation(speculative: Speculative | None) -> Speculation | None:
    if speculative is None:
        return None
    return Speculation(method=speculative.method, tokens=speculative.num_speculative_tokens)


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


def _is_allowed(labels: Mapping[str, str], deployment: ModelDeployment) -> bool:
    return all(labels.get(key) in values for _, key, values in _wanted_labels(deployment))


def _wanted_labels(deployment: ModelDeployment) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The field, the label and the values that a node must have one of."""
    if regions := deployment.spec.access.regions:
        yield "access.regions", REGION_LABEL, regions
    for key, value in deployment.spec.hardware.node_selector.items():
        yield "hardware.nodeSelector", key, (value,)


def _left_out(inventory: Inventory, deployment: ModelDeployment) -> Iterator[str]:
    nodes: tuple[Node | OtherNode, ...] = (*inventory.nodes, *inventory.others)
    for field, key, values in _wanted_labels(deployment):
        labels = {node.name: node.labels.get(key) for node in nodes}
        if out := {name: label for name, label in labels.items() if label not in values}:
            seen = ", ".join(sorted({label or "unset" for label in out.values()}))
            yield (
                f"{field} needs nodes whose label {key} is {' or '.join(values)}; on {len(out)} of {len(labels)} nodes "
                f"this label is {seen} ({node_names(list(out))})"
            )

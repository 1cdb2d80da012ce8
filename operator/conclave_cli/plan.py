"""`conclave plan`: on which accelerators a model would run, in which layout and why. Needs no accelerator.

Reads files and flags and prints; the plan itself is `conclave.planning`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from conclave.api.modeldeployment import Dtype, Engine, KvCacheDtype, ModelDeployment, Quantization
from conclave.api.plan import Plan, PlanMemory
from conclave.catalogue.facts import ModelFacts
from conclave.catalogue.measured import MeasuredWeights, StoredTotal, measure
from conclave.catalogue.models import find_model
from conclave.catalogue.servable import check_servable, not_yet_served
from conclave.errors import InvalidInput, NothingFits
from conclave.planning.inventory import Inventory, Node
from conclave.planning.plan import PlanOutcome, make_plan, plan_deployment
from conclave.planning.request import PlanRequest, engine_settings, facts_for
from conclave.planning.settings import CPU, DEFAULT_GPU_MEMORY_UTILIZATION
from conclave.policy.admission import explain
from conclave.policy.arguments import engine_arguments
from conclave_cli.inventory_file import MOST_MEMORY_GIB, product_memory, read_inventory
from conclave_cli.manifest_files import in_config, load_deployment, only_file, read_model_config
from conclave_cli.terminal import say, say_data, say_styled, say_table, styled
from conclave_weights.inspection.headers import read_headers, read_total
from conclave_weights.verify.soundness import INDEX_NAME

CONFIG_NAME = "config.json"
_GIB = 2**30
_GPUS_PER_NODE = 8
_BAR_WIDTH = 48
_SHOWN_REJECTIONS = 8
_PARTS = (
    ("weights", "weights", "█", "blue"),
    ("kv_cache", "KV cache", "▓", "green"),
    ("activations", "activations", "▒", "yellow"),
    ("graphs", "CUDA graphs", "░", "magenta"),
    ("overhead", "overhead", "x", "red"),
    ("free", "free", "·", "dim"),
)


class Output(StrEnum):
    """Formats of the answer."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def plan(
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--filename",
            "--file",
            "-f",
            metavar="FILE",
            help="File with the ModelDeployment to plan; - is standard input.",
        ),
    ] = None,
    inventory: Annotated[
        str | None,
        typer.Option(
            help=(
                "File with the nodes: nodes: [{name, accelerator, gpus}], or the output of kubectl get nodes -o yaml."
            )
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Id of a catalogue model, instead of a file.")] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="config.json of a model that is not in the catalogue, or that spec.model.configRef names. "
            "model.safetensors.index.json beside it tells the size of the weights."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory of the model's weights: their headers, and config.json if --config is not given, are read.",
        ),
    ] = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            help="Accelerator, as the node label spells it (NVIDIA-H100-80GB-HBM3), or its short name (H100)."
        ),
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, max=64, help=f"GPUs of each node; {_GPUS_PER_NODE} by default.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, max=512, help="Nodes with that accelerator; 1 by default.")
    ] = None,
    gpu_memory_gib: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=MOST_MEMORY_GIB, help="Memory of one GPU, for an accelerator that is not in the catalogue."
        ),
    ] = None,
    tensor: Annotated[
        int | None, typer.Option(min=1, help="Tensor-parallel size; by default the plan chooses it.")
    ] = None,
    pipeline: Annotated[
        int | None, typer.Option(min=1, help="Pipeline-parallel size; by default the plan chooses it.")
    ] = None,
    data: Annotated[
        int, typer.Option(min=1, help="Data-parallel size; Conclave plans it and does not serve it yet.")
    ] = 1,
    expert_parallel: Annotated[
        bool | None,
        typer.Option(
            "--expert-parallel/--no-expert-parallel", help="Whole experts on each GPU, or slices of all experts."
        ),
    ] = None,
    quantization: Annotated[
        Quantization | None, typer.Option(help="Quantization; fp8_per_tensor quantizes while the weights load.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of weights without quantization.")] = None,
    kv_cache_dtype: Annotated[KvCacheDtype | None, typer.Option(help="Type of the KV cache.")] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Longest request in tokens; by default the longest that fits.")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help=f"Share of a GPU's memory that vLLM may take; {DEFAULT_GPU_MEMORY_UTILIZATION} by default.",
        ),
    ] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Most requests in one step of the engine.")] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens in one step of the engine.")
    ] = None,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="No CUDA graphs.")] = False,
    every_option: Annotated[
        bool, typer.Option("--all", help="Show every layout that was considered, and why it was not taken.")
    ] = False,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table; or json or yaml, as in status.plan.")
    ] = Output.TABLE,
) -> None:
    """Plan a model: accelerator, GPUs, parallel sizes, memory of each GPU, context and concurrency, and why.

    Give a ModelDeployment with -f, or a model with --model, --config or --weights; and the hardware with --inventory,
    or with --accelerator, --gpus-per-node and --nodes. If no layout fits, the command exits 2 and says why, and what
    would fit.
    """
    file = only_file(files, "plan") if files else None
    for first, second, is_double in (
        ("--model", "-f", model is not None and file is not None),
        ("--accelerator", "--inventory", accelerator is not None and inventory is not None),
    ):
        if is_double:
            raise InvalidInput(f"{first} and {second} are both given, expected one: leave one out")
    if not (file or model or config or weights):
        raise InvalidInput(
            "give the model with -f FILE, with --model ID, with --config FILE or with --weights DIR (-f and --config "
            "together for a configRef)"
        )
    if weights is not None and config is None:
        config = str(weights / CONFIG_NAME)
    if inventory is None and accelerator is None:
        raise InvalidInput(
            "give the hardware with --inventory FILE, or with --accelerator PRODUCT (and --gpus-per-node, --nodes)"
        )
    deployment = load_deployment(file) if file is not None else None
    tolerations = deployment.spec.hardware.tolerations if deployment else ()
    if inventory is not None:
        sizes_of_nodes = {"nodes": nodes, "gpus-per-node": gpus_per_node, "gpu-memory-gib": gpu_memory_gib}
        for option, value in sizes_of_nodes.items():
            if value is not None:
                raise InvalidInput(
                    f"--{option} {value:g} with --inventory: the inventory gives the nodes. Leave out --{option}, or "
                    f"change {inventory}."
                )
        hardware = read_inventory(inventory, tolerations)
    else:
        hardware = _hardware(accelerator, gpus_per_node or _GPUS_PER_NODE, nodes or 1, gpu_memory_gib)
    fields = {
        "quantization": quantization,
        "dtype": dtype,
        "kv_cache_dtype": kv_cache_dtype,
        "max_model_len": max_model_len,
    }
    arguments = {
        "gpu_memory_utilization": gpu_memory_utilization,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "enforce_eager": "true" if enforce_eager else None,
    }
    sizes = {"tensor": tensor, "pipeline": pipeline, "expert_parallel": expert_parallel}
    if deployment is not None:
        given = [name for name, value in (fields | arguments | sizes).items() if value is not None]
        if given or data != 1:
            raise InvalidInput(
                f"--{(given or ['data'])[0].replace('_', '-')} with -f: change the value in {file} instead"
            )
        facts = _facts_of(deployment, config, weights)
        name = deployment.spec.model.id
        outcome = plan_deployment(deployment, facts, hardware)
    else:
        name = model or str(config)
        facts = _facts(model, config, weights)
        outcome = make_plan(
            PlanRequest(
                facts=facts,
                inventory=hardware,
                data=data,
                settings=engine_settings(_engine(fields, arguments)),
                **sizes,
            )
        )
    _print(name, facts, outcome, every_option=every_option, output=output)
    if config is not None and (entry := find_model(name)) is not None and not _names_a_config(deployment):
        say(f"note: the model is planned from {config}, not from the catalogue's entry {entry.id}", err=True)
    if data > 1:
        say(f"note: data parallel {data}: Conclave plans this and does not serve it yet", err=True)


def _names_a_config(deployment: ModelDeployment | None) -> bool:
    return deployment is not None and deployment.spec.model.config_ref is not None


def _engine(fields: Mapping[str, object], arguments: Mapping[str, object]) -> Engine:
    """The flags as a manifest has them, and so under its rules; raises InvalidInput."""
    given = {name: value for name, value in fields.items() if value is not None}
    extra = {name: str(value) for name, value in arguments.items() if value is not None}
    engine_arguments(extra)
    try:
        return Engine(**given, extra_args=extra)
    except ValidationError as error:
        raise InvalidInput("\n".join(str(problem) for problem in explain(error, Engine))) from error


def _hardware(accelerator: str | None, gpus: int, nodes: int, memory_gib: float | None) -> Inventory:
    product = accelerator or ""
    memory_bytes = int((memory_gib or 0) * _GIB)
    if not memory_bytes:
        product, memory_bytes = product_memory(product, "--accelerator")
    return Inventory(
        nodes=tuple(
            Node(name=f"node-{index}", accelerator=product, memory_bytes=memory_bytes, gpus=gpus, free_gpus=gpus)
            for index in range(nodes)
        )
    )


def _facts(model: str | None, config: str | None, weights: Path | None) -> ModelFacts:
    if config is None and model is not None:
        entry = find_model(model)
        terms = entry.terms if entry else None
        _refuse(check_servable(model, terms.id if terms else None, has_config=False))
    return _read_facts(model or "", config, weights)


def _facts_of(deployment: ModelDeployment, config: str | None, weights: Path | None) -> ModelFacts:
    wanted = deployment.spec.model
    accepted = wanted.licence.accepted if wanted.licence else None
    _refuse(check_servable(wanted.id, accepted, has_config=config is not None))
    return _read_facts(wanted.id, config, weights)


def _read_facts(model_id: str, config: str | None, weights: Path | None) -> ModelFacts:
    content = read_model_config(config)
    try:
        facts = facts_for(model_id, content)
        if content is None or facts.evidence is None:
            return facts
        return facts_for(model_id, content, _known_weights(facts, str(config), weights))
    except InvalidInput as error:
        if config is None:
            raise
        raise type(error)(in_config(config, error)) from error


def _known_weights(facts: ModelFacts, config: str, weights: Path | None) -> MeasuredWeights | StoredTotal | None:
    """What lies at hand of the weights of an architecture that no reader knows."""
    if weights is not None:
        return measure(read_headers(weights), len(facts.layers))
    index = Path(config).with_name(INDEX_NAME)
    return read_total(index) if config != "-" and index.is_file() else None


def _refuse(problems: tuple[str, ...]) -> None:
    if problems:
        raise InvalidInput("\n".join(problems))


def _print(name: str, facts: ModelFacts, outcome: PlanOutcome, *, every_option: bool, output: Output) -> None:
    if outcome.plan is None:
        if output is not Output.TABLE:
            say_data(outcome.model_dump(mode="json", include={"rejected", "remedies"}), output)
        raise NothingFits(_nothing_fits(name, outcome))
    if output is Output.TABLE:
        _print_plan(name, outcome.plan.flat(), outcome.stages)
        _print_rejected(outcome, every_option=every_option)
    else:
        say_data(outcome.plan.flat().to_wire(), output)
    note = not_yet_served(name, facts.architecture)
    if note:
        say(f"note: {note}", err=True)


def _nothing_fits(name: str, outcome: PlanOutcome) -> str:
    lines = [f"no layout fits {name}"]
    lines += [f"  {option.option}: {option.reason}" for option in outcome.rejected]
    lines += [f"  would help: {remedy}" for remedy in outcome.remedies]
    return "\n".join(lines)


def _print_plan(name: str, plan: Plan, stages: Sequence[PlanMemory]) -> None:
    layout = f"tensor {plan.tensor}, pipeline {plan.pipeline}"
    layout += f", data {plan.data}" if plan.data > 1 else ""
    layout += ", experts spread" if plan.expert_parallel else ""
    unit = "rank" if plan.accelerator == CPU else "GPU"
    units = unit if plan.gpus_per_replica == 1 else f"{unit}s"
    pods = "pod" if plan.nodes_per_replica == 1 else "pods"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    labels = (f"{key}={' or '.join(values)}" for key, values in (plan.node_labels or {}).items())
    for heading, text in (
        ("model", name),
        ("accelerator", plan.accelerator),
        *((("resource", plan.resource),) if plan.resource else ()),
        *(("nodes", label) for label in labels),
        ("parallelism", layout),
        ("replica", f"{plan.gpus_per_replica} {units}: {plan.nodes_per_replica} {pods} of {plan.gpus_per_node}"),
        (
            "context",
            f"{plan.max_model_len} tokens; the KV cache holds requests of up to {plan.longest_context_tokens}",
        ),
        (
            "concurrency",
            (
                f"{plan.max_concurrency} requests of that length at once; the KV cache holds "
                f"{plan.kv_cache_tokens} tokens"
            ),
        ),
    ):
        table.add_row(heading, text)
    say_table(table)
    say()
    for number, memory in enumerate(stages, start=1):
        whose = "" if plan.pipeline == 1 else f" of stage {number:{len(str(plan.pipeline))}}"
        say_styled(styled((f"each {unit}{whose} ", "")) + _bar(memory))
    if plan.pipeline > 1:
        say(f"the fullest {unit}:")
    say_table(_memory_table(plan.memory))
    say()
    for reason in plan.because:
        say(f"because  {reason}")


def _bar(memory: PlanMemory) -> Text:
    parts, drawn, reached = [("[", "")], 0, 0
    for field, _, symbol, style in _PARTS:
        reached += getattr(memory, field)
        width = round(_BAR_WIDTH * min(reached, memory.total) / memory.total) - drawn
        parts.append((symbol * max(width, 0), style))
        drawn += max(width, 0)
    return styled(*parts, (f"] {memory.total / _GIB:.2f} GiB", ""))


def _memory_table(memory: PlanMemory) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for field, heading, symbol, style in _PARTS:
        size = getattr(memory, field)
        table.add_row(styled((symbol, style)), heading, f"{size / _GIB:.2f} GiB", f"{size / memory.total:.1%}")
    return table


def _print_rejected(outcome: PlanOutcome, *, every_option: bool) -> None:
    shown = outcome.rejected if every_option else outcome.rejected[:_SHOWN_REJECTIONS]
    if shown:
        say()
    for option in shown:
        say(f"not      {option.option}: {option.reason}")
    if len(shown) < len(outcome.rejected):
        say(f"         {len(outcome.rejected) - len(shown)} more with --all")

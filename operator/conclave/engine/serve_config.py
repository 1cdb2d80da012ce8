"""The one builder of Ray Serve configs: `conclave up` PUTs it to a local Ray, the operator puts it into a RayService.

Pure. Only paths and the listening address differ between the two (docs/adr/0001).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from conclave.api.modeldeployment import ModelDeployment, Quantization, Speculative
from conclave.api.modeldeployment.spec import READY_TIMEOUT
from conclave.catalogue.models import find_model
from conclave.engine.arguments import (
    AdapterArguments,
    AutoscalingArguments,
    EngineArguments,
    PlacementArguments,
    QueueArguments,
    ServingArguments,
    SpeculativeArguments,
)
from conclave.engine.load_bounds import load_bounds
from conclave.engine.tracing import traces_url
from conclave.planning.roles import Plan, Role
from conclave.policy.arguments import engine_arguments

IMPORT_PATH = "conclave_serving.app:build"
NO_ADAPTERS: Mapping[str, str] = MappingProxyType({})
DEFAULT_MAX_NUM_SEQS = 256
"""Sequences that vLLM batches at once where nobody says otherwise."""


def build_serve_config(
    deployment: ModelDeployment,
    plan: Plan,
    *,
    model_path: str,
    token_path: str,
    adapter_paths: Mapping[str, str] = NO_ADAPTERS,
    draft_path: str | None = None,
    http_host: str = "0.0.0.0",  # noqa: S104 - a pod answers on its own address; the NetworkPolicy says to whom
    http_port: int = 8000,
) -> dict[str, object]:
    """The config that Serve's REST API and `serveConfigV2` take; one application, named after the deployment.

    `adapter_paths` has the directory of each adapter by its name, `draft_path` is the draft's if it has files.
    """
    arguments = serving_arguments(
        deployment,
        plan.role,
        model_path=model_path,
        token_path=token_path,
        adapter_paths=adapter_paths,
        draft_path=draft_path,
    )
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": http_host, "port": http_port},
        "applications": [
            {
                "name": deployment.metadata.name,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": arguments.model_dump(mode="json", exclude={"autoscaling", "queue"}),
                "deployments": load_bounds(arguments.autoscaling, arguments.queue),
            }
        ],
    }


def serving_arguments(
    deployment: ModelDeployment,
    role: Role,
    *,
    model_path: str,
    token_path: str,
    adapter_paths: Mapping[str, str] = NO_ADAPTERS,
    draft_path: str | None = None,
) -> ServingArguments:
    """What `conclave_serving.app:build` is called with for the engines of a role."""
    engine = _engine(deployment, role, draft_path)
    tracing = deployment.spec.telemetry.tracing
    autoscaling, queue = _load_bounds(deployment, role, engine)
    return ServingArguments(
        deployment=deployment.metadata.name,
        served_name=deployment.served_name,
        model_path=model_path,
        token_path=token_path,
        engine=engine,
        placement=PlacementArguments(
            device=_device(role), bundles=role.tensor * role.pipeline, strategy=_placement_strategy(role)
        ),
        autoscaling=autoscaling,
        queue=queue,
        adapters=tuple(
            AdapterArguments(name=adapter.name, path=adapter_paths[adapter.name], max_rank=adapter.max_rank)
            for adapter in deployment.spec.model.adapters
        ),
        traces_url=traces_url(tracing) if tracing else None,
        env=_environment(deployment),
    )


def _environment(deployment: ModelDeployment) -> dict[str, str]:
    seconds = deployment.spec.runtime.startup_seconds
    return deployment.spec.engine.env | ({READY_TIMEOUT: str(seconds)} if seconds else {})


def _device(role: Role) -> Literal["gpu", "cpu"]:
    return "cpu" if role.accelerator == "cpu" else "gpu"


def _placement_strategy(role: Role) -> Literal["PACK", "STRICT_PACK", "STRICT_SPREAD"]:
    """A placement group has one strategy; PACK of one-GPU bundles can only fill whole pods of equal shares."""
    if role.nodes_per_replica == 1:
        return "STRICT_PACK"
    if role.gpus_per_node == 1:
        return "STRICT_SPREAD"
    return "PACK"


def _engine(deployment: ModelDeployment, role: Role, draft_path: str | None) -> EngineArguments:
    wanted = deployment.spec.engine
    extra = _cpu_defaults(role) | _parsers(deployment.spec.model.id) | engine_arguments(wanted.extra_args)
    if extra.get("tool_call_parser", "") is None:
        extra["enable_auto_tool_choice"] = None
    return EngineArguments(
        tensor_parallel_size=role.tensor,
        pipeline_parallel_size=role.pipeline,
        enable_expert_parallel=role.expert_parallel,
        max_model_len=role.max_model_len,
        dtype=wanted.dtype.value,
        quantization=None if wanted.quantization is Quantization.NONE else wanted.quantization.value,
        kv_cache_dtype=wanted.kv_cache_dtype.value,
        speculative_config=_speculative(wanted.speculative, draft_path),
        extra={name: value for name, value in extra.items() if value is not None},
    )


def _speculative(wanted: Speculative | None, draft_path: str | None) -> SpeculativeArguments | None:
    if wanted is None:
        return None
    return SpeculativeArguments(
        method=wanted.method.value,
        num_speculative_tokens=wanted.num_speculative_tokens,
        prompt_lookup_max=wanted.prompt_lookup_max,
        prompt_lookup_min=wanted.prompt_lookup_min,
        model=draft_path if wanted.draft else None,
    )


def _parsers(model_id: str) -> dict[str, object]:
    """What the catalogue knows of the model's tool calls and thoughts.

    Only for a model that is known by its id: a fine-tune of the same architecture may have another template, and vLLM
    does not start where a parser misses its tokens.
    """
    entry = find_model(model_id)
    return entry.chat.engine_arguments if entry else {}


def _cpu_defaults(role: Role) -> dict[str, object]:
    """Without a GPU: the planned KV cache, since vLLM would take a share of the whole machine for each rank; and no
    compiling, which costs minutes and a C++ compiler (pipeline stages need some mode, so a cheap one)."""
    if _device(role) == "gpu":
        return {}
    compilation: dict[str, object] = {"enforce_eager": True}
    if role.pipeline > 1:
        compilation = {"compilation_config": {"mode": 2, "backend": "eager"}}
    return {"kv_cache_memory_bytes": role.memory.kv_cache, **compilation}


def _load_bounds(
    deployment: ModelDeployment, role: Role, engine: EngineArguments
) -> tuple[AutoscalingArguments, QueueArguments]:
    """A replica accepts what its engine batches; `target` is what it should carry, by the KV cache where `auto`.

    The plan counts requests of max_model_len tokens, real ones are shorter: so it sets the target, not the limit.
    """
    scaling = deployment.spec.scaling
    batch = engine.extra.get("max_num_seqs", DEFAULT_MAX_NUM_SEQS)
    accepted = batch if isinstance(batch, int) else DEFAULT_MAX_NUM_SEQS
    if isinstance(scaling.target_concurrency, int):
        target = scaling.target_concurrency
        accepted = max(accepted, target)
    else:
        target = min(max(role.max_concurrency, 1), accepted)
    return (
        AutoscalingArguments(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            target_ongoing_requests=target,
            downscale_delay_s=float(scaling.idle_seconds),
        ),
        QueueArguments(max_ongoing_requests=accepted, max_queued_requests=accepted),
    )

"""`build(arguments)`: the Ray Serve application of one ModelDeployment, an ingress before an engine.

Named as `import_path` in every Serve config; the arguments are `ServingArguments`. Decides nothing: the plan did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.ingress import make_fastapi_ingress
from vllm.entrypoints.openai.models.protocol import LoRAModulePath

from conclave.engine import load_bounds
from conclave.engine.arguments import ServingArguments
from conclave_serving.edge import Edge
from conclave_serving.engine import Engine
from conclave_serving.environment import CLOSED_ENVIRONMENT
from conclave_serving.ingress import Ingress
from conclave_serving.request_limits import LIMITS

ENDPOINTS = {
    "list_models": lambda app: app.get("/v1/models"),
    "show_model": lambda app: app.get("/v1/models/{model:path}"),
    "answer_chat": lambda app: app.post("/v1/chat/completions"),
    "answer_completions": lambda app: app.post("/v1/completions"),
}

CLOSED_ARGUMENTS: Mapping[str, Any] = {
    "enable_log_requests": False,
    "load_format": "safetensors",
    "trust_remote_code": False,
    "language_model_only": True,
    "limit_mm_per_prompt": {"image": 0, "video": 0, "audio": 0, "vision_chunk": 0},
    "enable_mm_embeds": False,  # embeddings would pass under a limit of zero
    "enable_prompt_embeds": False,
}
HARMLESS_STRUCTURED_OUTPUTS = ("disable_any_whitespace", "enable_in_reasoning")
"""What an owner may say about structured output; which compiler it has is decided here."""


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """The application that Serve runs; raises pydantic's ValidationError where the arguments are not ours."""
    serving = ServingArguments.model_validate(arguments)
    name = {"name": load_bounds.ENGINE}
    engine = build_llm_deployment(engine_config(serving), override_serve_options=name, deployment_cls=Engine)
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.add_middleware(Edge, models=serving.models, token_path=serving.token_path)
    ingress = make_fastapi_ingress(Ingress, endpoint_map=ENDPOINTS, app=api)
    deployment = cast(serve.Deployment, serve.deployment(ingress, name=load_bounds.INGRESS, **ingress_options(serving)))
    return deployment.bind(
        llm_deployments={serving.served_name: engine},
        adapters=serving.models[1:],
        token_path=serving.token_path,
        max_model_len=serving.engine.max_model_len,
        retry_after_s=serving.queue.retry_after_s,
    )


def environment(serving: ServingArguments) -> dict[str, str]:
    """The deployment's own variables under those that keep it closed."""
    return {**serving.env, "VLLM_MAX_N_SEQUENCES": str(LIMITS.sequences), **CLOSED_ENVIRONMENT}


def engine_config(serving: ServingArguments) -> LLMConfig:
    """The engine deployment as Ray Serve LLM describes it."""
    placement = serving.placement
    return LLMConfig(
        model_loading_config={"model_id": serving.served_name, "model_source": serving.model_path},
        engine_kwargs=engine_arguments(serving),
        accelerator_config={"kind": placement.device},
        placement_group_config={
            "bundles": [{placement.device.upper(): 1}] * placement.bundles,
            "strategy": placement.strategy,
        },
        deployment_config={
            **load_bounds.engine_options(serving.autoscaling, serving.queue),
            "backpressure_config": {"retry_after_s": serving.queue.retry_after_s},
        },
        runtime_env={"env_vars": environment(serving)},
        # `Engine` gathers chunks itself: Ray's own batches hold the first token back by their interval.
        experimental_configs={"stream_batching_interval_ms": 0},
    )


def engine_arguments(serving: ServingArguments) -> dict[str, Any]:
    """vLLM's engine arguments; `extra` cannot replace what the plan decided, what keeps prompts out of logs, what keeps
    code out of weights (left to itself, vLLM reads pickled ones where a directory has no others), text the only input
    (of a model that reads images too, no encoder is loaded, and an address in a request would be refused), or which
    compiler grammars go to: `grammar_gate.py` tries them with xgrammar, and vLLM gives others what xgrammar declines.
    """
    engine = serving.engine
    decided = engine.model_dump(exclude={"extra"}, exclude_none=True) | adapter_arguments(serving)
    if serving.traces_url is not None:
        decided["otlp_traces_endpoint"] = serving.traces_url
    asked = engine.extra.get("structured_outputs_config")
    harmless = (
        {name: asked[name] for name in HARMLESS_STRUCTURED_OUTPUTS if name in asked} if isinstance(asked, dict) else {}
    )
    compiler = {"structured_outputs_config": {**harmless, "backend": "xgrammar"}}
    return {**engine.extra, **decided, **CLOSED_ARGUMENTS, **compiler}


def adapter_arguments(serving: ServingArguments) -> dict[str, Any]:
    """What makes vLLM load all adapters at start and keep them on the device, so that any batch may mix them.

    vLLM's CPU kernel (`lora/ops/torch_ops/lora_ops.py`) takes index -1, no adapter, for the last slot: it stays empty.
    """
    adapters = serving.adapters
    if not adapters:
        return {}
    return {
        "enable_lora": True,
        "max_loras": len(adapters) + (serving.placement.device == "cpu"),
        "max_lora_rank": max(adapter.max_rank for adapter in adapters),
        "lora_modules": [LoRAModulePath(name=adapter.name, path=adapter.path) for adapter in adapters],
    }


def ingress_options(serving: ServingArguments) -> dict[str, Any]:
    """Of the ingress deployment."""
    return {
        **load_bounds.ingress_options(serving.autoscaling, serving.queue),
        "backpressure_config": {"retry_after_s": serving.queue.retry_after_s},
        "ray_actor_options": {"runtime_env": {"env_vars": environment(serving)}},
    }

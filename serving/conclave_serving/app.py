"""`build(arguments)`: the Ray Serve application of one ModelDeployment, an ingress in front of an engine.

Every Serve config names `build` as its `import_path`. The arguments are `ServingArguments`. The plan decided everything
in them; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.ingress import make_fastapi_ingress
from vllm.entrypoints.openai.models.protocol import LoRAModulePath

from conclave.engine import load_bounds
from conclave.engine.arguments import ServingArguments
from conclave.engine.environment import MOST_SEQUENCES
from conclave_openai.authorization import BearerToken
from conclave_openai.edge import Edge
from conclave_openai.limits.request import load_limits
from conclave_openai.routes import ROUTES, Route
from conclave_openai.spans.generation import Generations
from conclave_serving.engine import Engine
from conclave_serving.environment import CLOSED_ENVIRONMENT
from conclave_serving.ingress import Ingress, logger
from conclave_serving.tracing import SCOPE

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
"""What an owner may set about structured output. The compiler of grammars is always xgrammar."""


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """The application that Serve runs. Raises pydantic's ValidationError where the arguments are not ours."""
    serving = ServingArguments.model_validate(arguments)
    name = {"name": load_bounds.ENGINE}
    engine = build_llm_deployment(engine_config(serving), override_serve_options=name, deployment_cls=Engine)
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.add_middleware(
        Edge,
        models=serving.models,
        authorization=BearerToken(Path(serving.token_path), logger=logger),
        limits=load_limits(),
        context_tokens=serving.engine.max_model_len,
        generations=Generations(SCOPE),
        logger=logger,
    )
    urls = {route.operation: _url(route) for route in ROUTES}
    ingress = make_fastapi_ingress(Ingress, endpoint_map=urls, app=api)
    deployment = cast(serve.Deployment, serve.deployment(ingress, name=load_bounds.INGRESS, **ingress_options(serving)))
    return deployment.bind(
        llm_deployments={serving.served_name: engine},
        adapters=serving.models[1:],
        token_path=serving.token_path,
        max_model_len=serving.engine.max_model_len,
        retry_after_s=serving.queue.retry_after_s,
    )


def _url(route: Route) -> Callable[[FastAPI], Any]:
    """FastAPI's decorator of the ingress's method that answers the route."""
    return lambda api: api.api_route(route.path, methods=[route.method])


def environment(serving: ServingArguments) -> dict[str, str]:
    """The deployment's own variables. They cannot replace the variables that keep the deployment closed."""
    return {**serving.env, "VLLM_MAX_N_SEQUENCES": str(MOST_SEQUENCES), **CLOSED_ENVIRONMENT}


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
        # `Engine` gathers chunks itself, because Ray's own batches hold the first token back by their interval.
        experimental_configs={"stream_batching_interval_ms": 0},
    )


def engine_arguments(serving: ServingArguments) -> dict[str, Any]:
    """vLLM's engine arguments. The owner's `extra` cannot replace these:

    - what the plan decided;
    - no prompts in logs;
    - safetensors only: by itself, vLLM reads pickled weights, which may hold code, where a directory has no others;
    - text as the only input: a model that also reads images loads no encoder, and fetches no address of a request;
    - xgrammar as the only compiler of grammars: `grammar_gate.py` tries grammars with xgrammar, and by itself vLLM
      gives a grammar that xgrammar declines to another compiler.
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
    """vLLM loads all adapters at its start and keeps them on the device, so that any batch may mix them.

    vLLM's CPU kernel (`lora/ops/torch_ops/lora_ops.py`) reads index -1 (no adapter) as the last slot, so the last slot
    stays empty.
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
    """Serve's options of the ingress deployment."""
    return {
        **load_bounds.ingress_options(serving.autoscaling, serving.queue),
        "backpressure_config": {"retry_after_s": serving.queue.retry_after_s},
        "ray_actor_options": {"runtime_env": {"env_vars": environment(serving)}},
    }

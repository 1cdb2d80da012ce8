"""The one Serve config: placement, load bounds, typed engine arguments, and nothing that is a secret."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.plan import Plan, PlanMemory
from conclave.engine.arguments import ServingArguments
from conclave.engine.serve_config import DEFAULT_MAX_NUM_SEQS, build_serve_config, serving_arguments
from conclave.errors import InvalidInput
from conclave.planning import roles

MANIFEST = """
apiVersion: conclave.dev/v1alpha1
kind: ModelDeployment
metadata: {name: mixtral}
spec:
  model:
    id: mistralai/Mixtral-8x7B-Instruct-v0.1
    source: {persistentVolumeClaim: {claimName: weights}}
  access: {dataClass: internal}
"""


def deployment(**spec: Any) -> ModelDeployment:
    manifest = yaml.safe_load(MANIFEST)
    manifest["spec"].update(spec)
    return ModelDeployment.model_validate(manifest)


def plan(**changed: Any) -> roles.Plan:
    memory = PlanMemory(total=100, weights=40, kv_cache=30, activations=10, graphs=5, overhead=5, free=10)
    sizes: dict[str, Any] = {"tensor": 2, "pipeline": 1, "nodes_per_replica": 1, "gpus_per_node": 2}
    sizes |= {"accelerator": "NVIDIA-H100-80GB-HBM3", "max_model_len": 32768, "max_concurrency": 13} | changed
    flat = Plan(
        gpus_per_replica=sizes["tensor"] * sizes["pipeline"],
        longest_context_tokens=32768,
        kv_cache_tokens=443_664,
        memory=memory,
        **sizes,
    )
    return roles.Plan.of_flat(flat)


def built(spec: dict[str, Any] | None = None, **changed: Any) -> ServingArguments:
    return serving_arguments(
        deployment(**(spec or {})), plan(**changed).role, model_path="/models/weights", token_path="/run/token/token"
    )


def test_the_whole_config_of_a_gpu_deployment() -> None:
    config = build_serve_config(deployment(), plan(), model_path="/models/weights", token_path="/run/token/token")
    assert (
        yaml.safe_load(
            """
        proxy_location: EveryNode
        http_options: {host: 0.0.0.0, port: 8000}
        applications:
        - name: mixtral
          route_prefix: /
          import_path: conclave_serving.app:build
          args:
            deployment: mixtral
            served_name: mixtral
            model_path: /models/weights
            token_path: /run/token/token
            engine:
              tensor_parallel_size: 2
              pipeline_parallel_size: 1
              enable_expert_parallel: false
              max_model_len: 32768
              dtype: auto
              quantization: null
              kv_cache_dtype: auto
              extra: {}
            placement: {device: gpu, bundles: 2, strategy: STRICT_PACK}
            env: {}
          deployments:
          - name: engine
            autoscaling_config:
              min_replicas: 1
              max_replicas: 1
              target_ongoing_requests: 13
              upscale_delay_s: 30.0
              downscale_delay_s: 900.0
            graceful_shutdown_timeout_s: 600
            max_ongoing_requests: 256
            max_queued_requests: 256
          - name: ingress
            autoscaling_config:
              min_replicas: 1
              max_replicas: 3
              target_ongoing_requests: 100
              upscale_delay_s: 30.0
              downscale_delay_s: 900.0
            graceful_shutdown_timeout_s: 600
            max_ongoing_requests: 768
            max_queued_requests: 256
        """
        )
        == config
    )


def test_serve_itself_accepts_the_config() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    config = build_serve_config(deployment(), plan(), model_path="/models", token_path="/token", http_port=18000)
    accepted = schema.ServeDeploySchema.model_validate(config)
    assert (accepted.http_options.port, accepted.applications[0].import_path) == (18000, "conclave_serving.app:build")


@pytest.mark.parametrize(
    ("layout", "strategy"),
    [
        pytest.param({"tensor": 8, "gpus_per_node": 8}, "STRICT_PACK", id="one pod holds the replica"),
        pytest.param({"tensor": 1, "gpus_per_node": 1}, "STRICT_PACK", id="one GPU"),
        pytest.param(
            {"tensor": 8, "pipeline": 2, "nodes_per_replica": 2, "gpus_per_node": 8}, "PACK", id="a stage on each node"
        ),
        pytest.param(
            {"tensor": 2, "nodes_per_replica": 2, "gpus_per_node": 1}, "STRICT_SPREAD", id="one GPU on each node"
        ),
    ],
)
def test_one_bundle_a_rank_and_the_strategy_that_fills_whole_pods(layout: dict[str, Any], strategy: str) -> None:
    arguments = built(**layout)
    assert arguments.placement.strategy == strategy
    assert arguments.placement.bundles == layout["tensor"] * layout.get("pipeline", 1)


@pytest.mark.parametrize(
    ("scaling", "extra_args", "max_concurrency", "target", "accepted"),
    [
        pytest.param({}, {}, 13, 13, 256, id="auto takes the plan's figure"),
        pytest.param({}, {}, 0, 1, 256, id="a cache below one full request still scales"),
        pytest.param({}, {}, 5000, 256, 256, id="never more than the engine batches"),
        pytest.param({}, {"max_num_seqs": "64"}, 5000, 64, 64, id="the engine's batch bounds it"),
        pytest.param({"targetConcurrency": 40}, {}, 13, 40, 256, id="the owner's figure wins"),
        pytest.param({"targetConcurrency": 400}, {}, 13, 400, 400, id="what is aimed at is accepted"),
    ],
)
def test_load_bounds(
    scaling: dict[str, Any], extra_args: dict[str, str], max_concurrency: int, target: int, accepted: int
) -> None:
    arguments = built({"scaling": scaling, "engine": {"extraArgs": extra_args}}, max_concurrency=max_concurrency)
    assert arguments.autoscaling.target_ongoing_requests == target
    assert arguments.queue.max_ongoing_requests == accepted


@given(
    target=st.one_of(st.just("auto"), st.integers(1, 100_000)),
    max_concurrency=st.integers(0, 10**6),
    batch=st.one_of(st.none(), st.integers(1, 4096)),
)
def test_a_replica_accepts_what_it_should_carry_and_its_queue_is_bounded(
    target: int | str, max_concurrency: int, batch: int | None
) -> None:
    engine = {"extraArgs": {} if batch is None else {"max_num_seqs": str(batch)}}
    arguments = built({"scaling": {"targetConcurrency": target}, "engine": engine}, max_concurrency=max_concurrency)
    assert 1 <= arguments.autoscaling.target_ongoing_requests <= arguments.queue.max_ongoing_requests
    assert arguments.queue.max_ongoing_requests >= (batch or DEFAULT_MAX_NUM_SEQS) or batch is not None
    assert arguments.queue.max_queued_requests == arguments.queue.max_ongoing_requests


def test_extra_arguments_are_typed_and_settings_carried() -> None:
    arguments = built(
        {
            "engine": {
                "dtype": "float16",
                "quantization": "fp8",
                "kvCacheDtype": "fp8",
                "extraArgs": {"max_num_seqs": "64", "enforce_eager": "true", "gpu_memory_utilization": "0.85"},
            },
            "scaling": {"minReplicas": 0, "maxReplicas": 3, "idleSeconds": 120},
        }
    )
    assert arguments.engine.extra == {"max_num_seqs": 64, "enforce_eager": True, "gpu_memory_utilization": 0.85}
    assert (arguments.engine.dtype, arguments.engine.quantization, arguments.engine.kv_cache_dtype) == (
        "float16",
        "fp8",
        "fp8",
    )
    scaling = arguments.autoscaling
    assert (scaling.min_replicas, scaling.max_replicas, scaling.downscale_delay_s) == (0, 3, 120.0)


DRAFTS = [
    pytest.param(
        {"method": "ngram", "numSpeculativeTokens": 4, "promptLookupMax": 3},
        {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3},
        id="of the own text",
    ),
    pytest.param(
        {"method": "mtp", "numSpeculativeTokens": 1},
        {"method": "mtp", "num_speculative_tokens": 1},
        id="of the model's own layers",
    ),
    pytest.param(
        {
            "method": "eagle",
            "numSpeculativeTokens": 2,
            "draft": {"source": {"persistentVolumeClaim": {"claimName": "h"}}},
        },
        {"method": "eagle", "num_speculative_tokens": 2, "model": "/models/draft"},
        id="of a head, from where it is mounted",
    ),
]


@pytest.mark.parametrize(("wanted", "given"), DRAFTS)
def test_drafts_are_asked_for_in_vllms_words(wanted: dict[str, Any], given: dict[str, Any]) -> None:
    config: Any = build_serve_config(
        deployment(engine={"speculative": wanted}), plan(), model_path="/m", token_path="/t", draft_path="/models/draft"
    )
    assert config["applications"][0]["args"]["engine"]["speculative_config"] == given


TOOLS = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
THOUGHTS = {"reasoning_parser": "qwen3"}


@pytest.mark.parametrize(
    ("model", "extra_args", "expected"),
    [
        pytest.param("Qwen/Qwen3-30B-A3B", {}, TOOLS | THOUGHTS, id="tools and thoughts"),
        pytest.param("Qwen/Qwen3-30B-A3B-Instruct-2507", {}, TOOLS, id="tools only"),
        pytest.param("deepseek-r1", {}, {"reasoning_parser": "deepseek_r1"}, id="thoughts only, by an alias"),
        pytest.param("meta-llama/Meta-Llama-3-8B", {}, {}, id="a model that knows neither"),
        pytest.param("acme/own-qwen3", {}, {}, id="a model that nobody knows"),
        pytest.param(
            "Qwen/Qwen3-30B-A3B",
            {"tool_call_parser": "qwen3_xml", "max_num_seqs": "8"},
            TOOLS | THOUGHTS | {"tool_call_parser": "qwen3_xml", "max_num_seqs": 8},
            id="the owner's parser wins",
        ),
        pytest.param(
            "Qwen/Qwen3-30B-A3B",
            {"enable_auto_tool_choice": "false"},
            TOOLS | THOUGHTS | {"enable_auto_tool_choice": False},
            id="the owner forbids calls",
        ),
        pytest.param("Qwen/Qwen3-30B-A3B", {"tool_call_parser": "none"}, THOUGHTS, id="no tools"),
        pytest.param("Qwen/Qwen3-30B-A3B", {"reasoning_parser": "none"}, TOOLS, id="thoughts in the answer"),
        pytest.param("acme/own-qwen3", {"reasoning_parser": "none"}, {}, id="nothing to turn off"),
        pytest.param("acme/own-qwen3", {"reasoning_parser": "qwen3"}, THOUGHTS, id="a fine-tune with its owner's word"),
    ],
)
def test_the_catalogue_names_the_parsers_of_a_known_model(
    model: str, extra_args: dict[str, str], expected: dict[str, Any]
) -> None:
    source = {"persistentVolumeClaim": {"claimName": "weights"}}
    arguments = built({"model": {"id": model, "source": source}, "engine": {"extraArgs": extra_args}})
    assert arguments.engine.extra == expected


def test_refused_extra_arguments_never_reach_a_config() -> None:
    with pytest.raises(InvalidInput, match="trust_remote_code"):
        built({"engine": {"extraArgs": {"trust_remote_code": "true"}}})


@pytest.mark.parametrize(
    ("layout", "extra"),
    [
        pytest.param({}, {"kv_cache_memory_bytes": 30, "enforce_eager": True}, id="one stage does not compile"),
        pytest.param(
            {"tensor": 1, "pipeline": 2},
            {"kv_cache_memory_bytes": 30, "compilation_config": {"mode": 2, "backend": "eager"}},
            id="stages take the cheap mode",
        ),
    ],
)
def test_without_a_gpu_the_engine_gets_the_planned_cache(layout: dict[str, Any], extra: dict[str, Any]) -> None:
    arguments = built(accelerator="cpu", **layout)
    assert arguments.placement.device == "cpu"
    assert arguments.engine.extra == extra


def test_the_owner_decides_over_the_defaults_without_a_gpu() -> None:
    arguments = built({"engine": {"extraArgs": {"enforce_eager": "false"}}}, accelerator="cpu")
    assert arguments.engine.extra["enforce_eager"] is False

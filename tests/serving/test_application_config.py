"""What `build` asks Ray Serve LLM for, from the arguments alone; Ray is imported, not started."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from conclave.engine.arguments import ServingArguments
from conclave_serving.environment import CLOSED_ENVIRONMENT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray, vLLM and torch warn of themselves when they are imported
    from vllm.config.multimodal import MultiModalConfig
    from vllm.renderers.chat_utils import ModalityStr

    from conclave_serving.app import (
        CLOSED_ARGUMENTS,
        build,
        engine_arguments,
        engine_config,
        environment,
        ingress_options,
    )

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ARGUMENTS: dict[str, Any] = {
    "deployment": "mixtral",
    "served_name": "mixtral",
    "model_path": "/weights",
    "token_path": "/token",
    "engine": {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "max_model_len": 4096},
    "placement": {"device": "gpu", "bundles": 8, "strategy": "PACK"},
    "autoscaling": {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 20},
    "queue": {"max_ongoing_requests": 32, "max_queued_requests": 64},
}


def serving(**changes: Any) -> ServingArguments:
    changed = {key: {**ARGUMENTS[key], **value} if key in ARGUMENTS else value for key, value in changes.items()}
    return ServingArguments.model_validate({**ARGUMENTS, **changed})


@pytest.mark.parametrize(
    ("device", "bundle", "executor"), [("gpu", {"GPU": 1}, "ray"), ("cpu", {"CPU": 1}, "mp")], ids=["GPUs", "CPUs"]
)
def test_a_rank_gets_a_bundle_of_one_device(device: str, bundle: dict[str, int], executor: str) -> None:
    config = engine_config(serving(placement={"device": device}))
    assert config.placement_group_config == {"bundles": [bundle] * 8, "strategy": "PACK"}
    assert config.accelerator_type is None
    engine: Any = config.get_engine_config()
    assert engine.get_initialization_kwargs()["distributed_executor_backend"] == executor


@given(st.integers(0, 5), st.integers(1, 50), st.integers(1, 500), st.integers(1, 1000), st.integers(1, 1000))
def test_both_deployments_scale_and_both_queues_are_bounded(
    floor: int, ceiling: int, target: int, accepted: int, queued: int
) -> None:
    arguments = serving(
        autoscaling={"min_replicas": floor, "max_replicas": max(floor, ceiling), "target_ongoing_requests": target},
        queue={"max_ongoing_requests": accepted, "max_queued_requests": queued},
    )
    engine, ingress = engine_config(arguments).deployment_config, ingress_options(arguments)
    assert engine["autoscaling_config"]["min_replicas"] == floor
    assert ingress["autoscaling_config"]["min_replicas"] == 1
    for options in (engine, ingress):
        assert options["autoscaling_config"]["target_ongoing_requests"] < 10_000
        assert options["autoscaling_config"]["max_replicas"] >= options["autoscaling_config"]["min_replicas"]
        assert options["max_queued_requests"] > 0
        assert options["backpressure_config"]["retry_after_s"] > 0
    # The engine's queue fills first: its refusal has OpenAI's shape, the proxy's has not.
    assert ingress["max_ongoing_requests"] >= accepted * max(floor, ceiling) + queued


def test_extra_arguments_do_not_replace_what_was_decided() -> None:
    opened = {
        "trust_remote_code": True,
        "enable_log_requests": True,
        "load_format": "auto",
        "language_model_only": False,
        "limit_mm_per_prompt": {"image": 1, "audio": 999},
        "enable_mm_embeds": True,
        "enable_prompt_embeds": True,
    }
    assert opened.keys() == CLOSED_ARGUMENTS.keys()
    extra = {"tensor_parallel_size": 1, "max_num_seqs": 7, **opened}
    arguments = engine_arguments(serving(engine={"extra": extra}))
    assert arguments["tensor_parallel_size"] == 4
    assert arguments["max_num_seqs"] == 7
    assert {name: arguments[name] for name in opened} == dict(CLOSED_ARGUMENTS)
    assert not {True, "auto", 999} & {
        arguments[name] for name in opened if name.startswith(("trust", "enable", "load"))
    }


@pytest.mark.parametrize("modality", sorted(set(get_args(ModalityStr)) - {"prompt_embeds"}))
@pytest.mark.parametrize("argument", ["language_model_only", "limit_mm_per_prompt"])
def test_either_argument_closes_every_modality_that_vllm_knows(modality: str, argument: str) -> None:
    """Two, for each is vLLM's to change; `prompt_embeds` has an argument of its own."""
    name = {"limit_mm_per_prompt": "limit_per_prompt"}.get(argument, argument)
    config = MultiModalConfig(**{name: CLOSED_ARGUMENTS[argument]})
    assert config.get_limit_per_prompt(modality.removesuffix("_embeds")) == 0
    assert config.enable_mm_embeds is CLOSED_ARGUMENTS["enable_mm_embeds"] is False


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        pytest.param(None, {}, id="nothing"),
        pytest.param({"backend": "outlines"}, {}, id="another compiler"),
        pytest.param({"backend": "auto", "reasoning_parser_plugin": "/x.py"}, {}, id="any compiler, and a plugin"),
        pytest.param({"disable_any_whitespace": True}, {"disable_any_whitespace": True}, id="compact JSON"),
        pytest.param("outlines", {}, id="no object"),
    ],
)
def test_grammars_go_to_one_compiler_whatever_is_asked_for(asked: object, given: dict[str, object]) -> None:
    extra = {} if asked is None else {"structured_outputs_config": asked}
    arguments = engine_arguments(serving(engine={"extra": extra}))
    assert arguments["structured_outputs_config"] == {**given, "backend": "xgrammar"}


def test_drafts_reach_vllm_as_its_own_setting() -> None:
    drafts = {"method": "eagle3", "num_speculative_tokens": 2, "model": "/models/draft"}
    assert engine_arguments(serving(engine={"speculative_config": drafts}))["speculative_config"] == drafts
    assert "speculative_config" not in engine_arguments(serving())


def test_adapters_are_loaded_by_vllm_itself_each_under_its_own_name() -> None:
    adapters = [{"name": "tone", "path": "/tone", "max_rank": 16}, {"name": "acme/en", "path": "/en", "max_rank": 64}]
    engine: Any = engine_config(serving(adapters=adapters)).get_engine_config()
    decided = engine.get_initialization_kwargs()
    assert (decided["enable_lora"], decided["max_loras"], decided["max_lora_rank"]) == (True, 2, 64)
    loaded = [(module.name, module.path) for module in engine.frontend_kwargs["lora_modules"]]
    assert loaded == [("tone", "/tone"), ("acme/en", "/en")]
    assert engine_arguments(serving(adapters=adapters, placement={"device": "cpu"}))["max_loras"] == 3
    assert "enable_lora" not in engine_arguments(serving())


def test_the_closed_environment_cannot_be_opened() -> None:
    opened = environment(serving(env={**dict.fromkeys(CLOSED_ENVIRONMENT, "open"), "VLLM_CPU_KVCACHE_SPACE": "1"}))
    assert {name: opened[name] for name in CLOSED_ENVIRONMENT} == dict(CLOSED_ENVIRONMENT)
    assert opened["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert engine_config(serving()).runtime_env == {"env_vars": environment(serving())}


@pytest.mark.parametrize(
    ("field", "value"),
    [("engine", {"tensor_parallel_size": 0}), ("queue", {"max_queued_requests": 0}), ("autoscaling", {"max": 1})],
    ids=["no ranks", "an unbounded queue", "an unknown field"],
)
def test_arguments_that_are_not_ours_are_refused(field: str, value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build({**ARGUMENTS, field: {**ARGUMENTS[field], **value}})

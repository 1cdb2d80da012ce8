"""Every engine argument that a manifest may set is one that the plan counts, or one without weight on memory."""

from __future__ import annotations

import pytest

from conclave.api.modeldeployment import Engine
from conclave.catalogue.facts import read_config
from conclave.catalogue.models import find_model
from conclave.catalogue.shapes import ModelFacts
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.layout import Layout
from conclave.planning.request import engine_settings
from conclave.policy.arguments import engine_argument_list

GIB = 2**30
COUNTED = {
    "max_num_seqs": "64",
    "max_num_batched_tokens": "16384",
    "block_size": "128",
    "gpu_memory_utilization": "0.8",
    "kv_cache_memory_bytes": str(2 * GIB),
    "enforce_eager": "true",
    "max_cudagraph_capture_size": "1024",
}
NO_MORE_MEMORY = {
    *("long_prefill_token_threshold", "async_scheduling", "stream_interval"),
    *("enable_chunked_prefill", "enable_prefix_caching", "prefix_caching_hash_algo"),
    *("optimization_level", "attention_backend", "moe_backend", "disable_custom_all_reduce"),
    *("safetensors_load_strategy", "language_model_only", "seed", "max_logprobs", "logprobs_mode", "generation_config"),
    *("tokenizer_mode", "chat_template_content_format", "enable_auto_tool_choice", "tool_call_parser"),
    *("exclude_tools_when_tool_choice_none", "tool_strict_level", "reasoning_parser", "enable_prompt_tokens_details"),
    *("enable_force_include_usage", "return_tokens_as_token_ids"),
}
"""None takes more of a GPU than the plan counts without it, kernels' workspaces aside."""


def llama() -> ModelFacts:
    entry = find_model("meta-llama/Meta-Llama-3-8B")
    assert entry is not None
    return read_config(entry.config)


def outcome(arguments: dict[str, str], product: str = "NVIDIA-A100-SXM4-80GB") -> Fit | Misfit:
    settings = engine_settings(Engine(extra_args=arguments))
    return evaluate(llama(), settings, Device.of(product, 0), Layout())


def test_every_allowed_argument_is_counted_or_takes_no_memory() -> None:
    assert COUNTED.keys() | NO_MORE_MEMORY == engine_argument_list().allowed.keys()
    assert not COUNTED.keys() & NO_MORE_MEMORY


@pytest.mark.parametrize(("name", "value"), COUNTED.items(), ids=COUNTED)
def test_a_counted_argument_changes_the_plan(name: str, value: str) -> None:
    assert outcome({name: value}) != outcome({})


CAPTURED = {
    "twice the sequences": ({"max_num_seqs": "16"}, 7),
    "vLLM's default": ({}, 51),
    "as many as asked for": ({"max_cudagraph_capture_size": "64"}, 11),
    "no more than tokens": ({"max_cudagraph_capture_size": "2048", "max_num_batched_tokens": "256"}, 35),
}


@pytest.mark.parametrize(("arguments", "graphs"), CAPTURED.values(), ids=CAPTURED)
def test_graphs_are_counted_up_to_the_largest(arguments: dict[str, str], graphs: int) -> None:
    found = outcome(arguments)
    assert isinstance(found, Fit)
    assert found.memory.graphs == graphs * 32 * int(0.3 * 2**20)


def test_a_blackwell_captures_twice_as_large_batches() -> None:
    found = outcome({}, "NVIDIA-B200")
    assert isinstance(found, Fit)
    assert found.memory.graphs == (51 + 32) * 32 * int(0.3 * 2**20)


def test_a_pool_larger_than_the_room_does_not_fit() -> None:
    """vLLM takes the size as it is, and ends out of memory."""
    found = outcome({"kv_cache_memory_bytes": str(64 * GIB)})
    assert isinstance(found, Misfit)
    assert "kv_cache_memory_bytes asks for 64.0 GiB of KV cache on a GPU, and 5" in found.reason

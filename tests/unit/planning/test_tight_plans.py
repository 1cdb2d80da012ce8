"""Where the KV cache is within what a plan may be wrong by, nothing is said to fit without a word."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tools.published_starts import PUBLISHED

from conclave.catalogue.facts import read_config
from conclave.planning.evaluate import Device, Fit, Misfit, evaluate
from conclave.planning.inventory import Inventory, Node
from conclave.planning.layout import Layout
from conclave.planning.memory import UNCERTAIN_SHARE
from conclave.planning.plan import make_plan
from conclave.planning.request import PlanRequest
from conclave.planning.settings import EngineSettings

GIB = 2**30
QWEN_32B = read_config(json.loads((PUBLISHED / "configs" / "Qwen--Qwen2.5-32B-Instruct.json").read_text("utf-8")))
CARD = Device.of("a card of 25 GiB", 25 * GIB)
TWO = Layout(tensor=2)


def outcome(layout: Layout, device: Device = CARD, **settings: Any) -> Fit | Misfit:
    return evaluate(QWEN_32B, EngineSettings(gpu_memory_utilization=0.9, **settings), device, layout)


def test_four_bit_weights_are_refused_a_length_within_the_margin() -> None:
    """Qwen2.5 32B in AWQ on a small card: 1.0 GiB needed, 1.5 planned, which may come out as 0.9."""
    found = outcome(Layout(), quantization="awq", max_model_len=4096)
    assert isinstance(found, Misfit)
    assert found.reason.startswith("tight: one request of 4096 tokens needs 1.0 GiB of KV cache")
    assert found.reason.endswith("and the estimate may be wrong by 0.6 GiB")
    assert isinstance(outcome(Layout(), quantization="awq", max_model_len=found.longest_context_tokens), Fit)


def test_a_free_length_leaves_the_margin() -> None:
    found = outcome(Layout(), quantization="awq")
    assert isinstance(found, Fit)
    request = found.memory.kv_cache * found.max_model_len / found.kv_cache_tokens
    assert found.memory.kv_cache - request >= UNCERTAIN_SHARE * CARD.memory_bytes
    assert not found.tight


@pytest.mark.parametrize(
    ("share", "tight"), [(0.2, False), (0.99, True)], ids=["a fifth of the room", "nearly all of it"]
)
def test_a_fixed_length_of_sixteen_bits_is_said_to_be_tight(share: float, tight: bool) -> None:
    large = Device.of("a card of 42 GiB", 42 * GIB)
    free = outcome(TWO, large)
    assert isinstance(free, Fit)
    found = outcome(TWO, large, max_model_len=int(share * free.longest_context_tokens))
    assert isinstance(found, Fit)
    assert found.tight is tight


def test_a_tight_plan_says_so() -> None:
    free = outcome(TWO, Device.of("a card of 42 GiB", 42 * GIB))
    assert isinstance(free, Fit)
    node = Node(name="a", accelerator="a card of 42 GiB", memory_bytes=42 * GIB, gpus=2, free_gpus=2)
    settings = EngineSettings(gpu_memory_utilization=0.9, max_model_len=free.longest_context_tokens)
    plan = make_plan(PlanRequest(facts=QWEN_32B, inventory=Inventory(nodes=(node,)), settings=settings)).plan
    assert plan is not None
    assert plan.because[-1].startswith(f"tight: one request of {free.longest_context_tokens} tokens leaves less")


def test_a_pool_of_a_given_size_needs_no_margin() -> None:
    found = outcome(Layout(), quantization="awq", max_model_len=4096, kv_cache_memory_bytes=int(1.01 * GIB))
    assert isinstance(found, Fit)
    assert not found.tight

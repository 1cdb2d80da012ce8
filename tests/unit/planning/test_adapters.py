"""Slots of LoRA adapters: as many bytes as vLLM 0.32 sets aside, and a plan that counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conclave.catalogue.facts import read_config
from conclave.catalogue.models import find_model
from conclave.planning.adapters import adapter_bytes
from conclave.planning.evaluate import Device, Fit, evaluate
from conclave.planning.layout import Layout
from conclave.planning.settings import EngineSettings
from conclave.planning.weights import DTYPE_BYTES

TINY: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "serving" / "tiny_configs.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "measured"),
    [("llama", 1_122_816), ("llama-tied-biased", 2_445_312), ("llama-fp8", 1_027_584)],
)
def test_slots_are_what_vllms_lora_manager_allocates(name: str, measured: int) -> None:
    """Measured with three slots of rank 16 by building vLLM's LoRAModelManager on these configs."""
    facts = read_config(TINY[name])
    assert adapter_bytes(facts, Layout(), DTYPE_BYTES[facts.dtype], slots=3, rank=16) == (measured,)


@pytest.mark.parametrize(("name", "measured"), [("phi3", 1_113_984), ("qwen2", 645_120), ("gemma2", 1_081_344)])
def test_a_class_with_fewer_slots_takes_no_more_than_is_counted(name: str, measured: int) -> None:
    """Fused projections (Phi-3), and embeddings without a slot (Qwen2, Gemma)."""
    (counted,) = adapter_bytes(read_config(TINY[name]), Layout(), 2, slots=3, rank=16)
    assert measured < counted


def fit(adapters: int, rank: int) -> Fit:
    entry = find_model("mistralai/Mixtral-8x7B-Instruct-v0.1")
    assert entry is not None
    settings = EngineSettings(max_model_len=8192, adapters=adapters, adapter_rank=rank)
    found = evaluate(read_config(entry.config), settings, Device.of("NVIDIA-H100-80GB-HBM3", 0), Layout(tensor=2))
    assert isinstance(found, Fit), found
    return found


def test_adapters_of_every_expert_take_the_room_of_the_kv_cache() -> None:
    without, with_three = fit(0, 0), fit(3, 64)
    taken = with_three.memory.weights - without.memory.weights
    of_experts = 3 * 64 * 2 * 32 * 8 * 3 * (4096 + 14336 // 2)
    """Adapters, rank, bytes; layers, experts, matrices; their inputs and outputs on one of two ranks."""
    assert of_experts < taken < 1.15 * of_experts
    assert without.memory.kv_cache - with_three.memory.kv_cache == pytest.approx(taken, rel=0.01)
    assert with_three.max_concurrency < without.max_concurrency


@pytest.mark.parametrize("layout", [Layout(tensor=4), Layout(pipeline=4), Layout(tensor=2, expert_parallel=True)])
def test_more_ranks_hold_less_each(layout: Layout) -> None:
    facts = read_config(TINY["mixtral"])
    (alone,) = adapter_bytes(facts, Layout(), 2, slots=1, rank=8)
    assert max(adapter_bytes(facts, layout, 2, slots=1, rank=8)) < alone

"""The plan's sampler, compilation and KV cache beside starts of the shipped vLLM (tests/data/emulated_starts.yaml).

docs/plan-accuracy.md judges the plan by starts of older versions on real cards; none of those had the model runner of
0.32 and 80 GB or more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.published_starts import PUBLISHED

from conclave.catalogue.facts import read_config
from conclave.catalogue.models import find_model
from conclave.catalogue.shapes import ModelFacts
from conclave.planning.evaluate import Device, Fit, evaluate
from conclave.planning.layout import Layout
from conclave.planning.settings import EngineSettings

GIB = 2**30
DATA = Path(__file__).parents[2] / "data"
ROWS = yaml.safe_load((DATA / "emulated_starts.yaml").read_text(encoding="utf-8"))
SETTINGS = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "enforce_eager", "gpu_memory_utilization")
LESS = 0.015
"""Share of the KV cache that the plan may miss: it counts what an emulated card does not have."""
MORE = 0.003
BESIDE_GIB = 0.3
CAREFUL_GIB = 0.5


def facts(row: dict[str, Any]) -> ModelFacts:
    if "config" in row:
        config = json.loads((DATA / "architectures" / f"{row['config']}.json").read_text("utf-8"))
        of_text = {**config["text_config"], "architectures": [row["text_of"]]} if "text_of" in row else config
        return read_config(of_text)
    model = row["model"]
    stored = PUBLISHED / "configs" / f"{model.replace('/', '--')}.json"
    if stored.exists():
        return read_config(json.loads(stored.read_text("utf-8")))
    entry = find_model(model)
    assert entry is not None
    return read_config(entry.config)


def planned(row: dict[str, Any]) -> Fit:
    settings = EngineSettings(**{name: row[name] for name in SETTINGS if name in row})
    device = Device(product=row["accelerator"], memory_bytes=int(row["gpu_memory_gib"] * GIB)).model_copy(
        update={"match": Device.of(row["accelerator"], 0).match}
    )
    found = evaluate(facts(row), settings, device, Layout(tensor=row.get("tensor", 1)))
    assert isinstance(found, Fit), found
    return found


def rows(*fields: str) -> list[Any]:
    return [pytest.param(row, id=row["id"]) for row in ROWS if all(field in row for field in fields)]


@pytest.mark.parametrize("row", rows("model"))
def test_the_kv_cache_is_what_the_engine_leaves_or_a_little_less(row: dict[str, Any]) -> None:
    """Weights aside, whose kernels the emulated card may choose otherwise; and graphs, whose memory it has not got."""
    plan = planned(row).memory
    found, seen = (plan.kv_cache + plan.weights) / GIB, row["kv_cache"] + row["weights"]
    if "graphs" in row:
        found, seen = found + plan.graphs / GIB, seen + row["graphs"]
    assert min((1 - LESS) * seen, seen - BESIDE_GIB) <= found <= (1 + MORE) * seen


@pytest.mark.parametrize("row", rows("config"))
def test_what_the_context_leaves_covers_what_the_plan_of_an_unknown_architecture_misses(row: dict[str, Any]) -> None:
    fit = planned(row)
    plan, left = fit.memory, fit.uncertain_bytes / GIB
    assert left > 0
    found = (plan.kv_cache + plan.weights) / GIB
    seen = row["kv_cache"] + row["weights"]
    assert found - left <= seen
    assert found == pytest.approx(seen, rel=LESS), "the general reader is better than its margin"


@pytest.mark.parametrize("row", rows("model", "peak"))
def test_what_sampling_and_compiling_take(row: dict[str, Any]) -> None:
    """The peak of the profile, and what stays behind it beside weights."""
    plan = planned(row).memory
    counted_more = (plan.activations + plan.overhead) / GIB - (row["peak"] + row["kept"])
    assert -BESIDE_GIB <= counted_more <= CAREFUL_GIB

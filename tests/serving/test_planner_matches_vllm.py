"""The plan's bytes are vLLM's bytes: weights of each rank, and KV cache of each token, architecture by architecture.

vLLM's own classes, and ours for it, are built from tiny configs in its own worker groups (`allocations.py`); nothing is
loaded or run.
Not compared, because vLLM's CPU build does not build them here: REFUSED, which is more on a CPU without AMX.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conclave.catalogue.facts import read_config
from conclave.catalogue.shapes import GroupedAttention, LatentAttention
from conclave.planning.kv_cache import kv_bytes_per_token
from conclave.planning.layout import Layout
from conclave.planning.settings import EngineSettings, block_tokens, expert_tiles
from conclave.planning.weights import DTYPE_BYTES, weight_bytes
from conclave_cli.local.ports import free_port

HERE = Path(__file__).parent
TINY: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "tiny_configs.yaml").read_text())
LAYOUTS = [Layout(), Layout(tensor=2), Layout(pipeline=2)]
RANKS = 2
TOLERANCE = 0.005
WITH_EXPERT_PARALLEL = ("mixtral", "dbrx", "grok-1", "qwen3-moe", "deepseek-v3")
HAS_AMX = "amx_tile" in Path("/proc/cpuinfo").read_text()
NEEDS_AMX = {
    "llama-fp8-blocks": "requires AMX",
    "gpt-oss-mxfp4": "No MXFP4 MoE backend",
    "mixtral-awq": "No WNA16 MoE backend",
}
REFUSED = {"llama4-vision": "torchvision"} | ({} if HAS_AMX else NEEDS_AMX)
"""Configs that vLLM's CPU build refuses, and a word of its message: if it says otherwise, they are to be compared."""
LATENT_BLOCK_WITHOUT_AMX = 16


def layout_id(layout: Layout) -> str:
    return layout.describe()


@pytest.fixture(scope="module")
def allocated(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two workers allocated: by layout and config."""
    directory = tmp_path_factory.mktemp("allocations")
    for name in [*TINY, *(f"{name}+ep" for name in WITH_EXPERT_PARALLEL)]:
        (directory / "configs" / name).mkdir(parents=True)
        (directory / "configs" / name / "config.json").write_text(json.dumps(TINY[name.removesuffix("+ep")]))
    quiet = {"VLLM_LOGGING_LEVEL": "CRITICAL", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    ports = ",".join(str(free_port()) for _ in LAYOUTS)
    answers = [directory / f"rank-{rank}.json" for rank in range(RANKS)]
    logs = [directory / f"rank-{rank}.log" for rank in range(RANKS)]
    workers = []
    for rank, (answer, log) in enumerate(zip(answers, logs, strict=True)):
        with log.open("w") as output:
            workers.append(
                subprocess.Popen(
                    [sys.executable, HERE / "allocations.py", str(rank), ports, directory / "configs", answer],
                    env=os.environ | quiet,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        codes = [worker.wait(timeout=1200) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert codes == [0] * RANKS, logs[0].read_text()[-4000:]
    return [json.loads(answer.read_text()) for answer in answers]


@pytest.fixture(scope="module", params=LAYOUTS, ids=layout_id)
def group(request: pytest.FixtureRequest, allocated: list[Any]) -> tuple[Layout, list[Any]]:
    """A layout, and what each of its ranks allocated for every config."""
    layout: Layout = request.param
    return layout, [ranks[f"{layout.tensor}x{layout.pipeline}"] for ranks in allocated[: layout.gpus]]


def cases(group: tuple[Layout, list[Any]]) -> dict[str, list[Any]]:
    """The workers' answers by config, without those that the CPU build refuses."""
    _, ranks = group
    names = [name for name in ranks[0] if name not in REFUSED]
    refused = {name: ranks[0][name]["error"] for name in names if "error" in ranks[0][name]}
    assert not refused
    return {name: [rank[name] for rank in ranks] for name in names}


def test_weights_of_each_rank_are_what_vllm_allocates(group: tuple[Layout, list[Any]]) -> None:
    layout, _ = group
    differences = {}
    for name, ranks in cases(group).items():
        facts = read_config(TINY[name.removesuffix("+ep")])
        cut = layout.model_copy(update={"expert_parallel": name.endswith("+ep")})
        planned = weight_bytes(facts, cut, facts.dtype, facts.weight_format, expert_tiles(None, on_cpu=True))
        for stage, expected in enumerate(planned):
            fullest = max(rank["weights"] for rank in ranks[stage * layout.tensor : (stage + 1) * layout.tensor])
            if abs(expected / fullest - 1) > TOLERANCE:
                differences[f"{name}, stage {stage}"] = f"planned {expected}, allocated {fullest}"
    assert not differences


def test_kv_bytes_of_a_token_are_exact(group: tuple[Layout, list[Any]]) -> None:
    layout, _ = group
    planned, allocated = {}, {}
    for name, ranks in cases(group).items():
        facts = read_config(TINY[name.removesuffix("+ep")])
        planned[name] = kv_bytes_per_token(facts, layout.tensor, DTYPE_BYTES[facts.dtype])
        allocated[name] = sum(rank["kv_bytes_per_token"] for rank in ranks[:: layout.tensor])
    assert planned == allocated


def test_windows_and_blocks_are_vllms(group: tuple[Layout, list[Any]]) -> None:
    layout, _ = group
    planned, allocated = {}, {}
    for name, ranks in cases(group).items():
        facts = read_config(TINY[name.removesuffix("+ep")])
        windows = [
            (layer.attention.window_tokens or 0) if isinstance(layer.attention, GroupedAttention) else 0
            for layer in facts.layers
        ]
        block = block_tokens(facts, EngineSettings(), on_cpu=True)
        if isinstance(facts.attention, LatentAttention) and not HAS_AMX:
            assert block % LATENT_BLOCK_WITHOUT_AMX == 0, "what fits in the larger blocks fits in the smaller"
            block = LATENT_BLOCK_WITHOUT_AMX
        planned[name] = (sorted(windows), [block])
        stages = ranks[:: layout.tensor]
        allocated[name] = (sorted(window for rank in stages for window in rank["windows"]), stages[0]["block_tokens"])
    assert planned == allocated


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_compared_is_what_the_cpu_build_refuses(group: tuple[Layout, list[Any]], name: str) -> None:
    _, ranks = group
    assert REFUSED[name] in ranks[0][name]["error"]

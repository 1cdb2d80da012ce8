"""Runs `generation.py`: real vLLM on several checkpoints in one layout, each engine in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.serving.models.references.grok1 import Token

from conclave_cli.local.ports import free_port

PROGRAM = Path(__file__).with_name("generation.py")
TIMEOUT_S = 1200
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Layout:
    """How many ranks share a layer, and how many stages share the layers."""

    tensor: int = 1
    pipeline: int = 1

    def __str__(self) -> str:
        return f"TP={self.tensor} PP={self.pipeline}"


@dataclass(frozen=True)
class Job:
    """One checkpoint to generate from, greedily."""

    name: str
    checkpoint: str
    prompts: tuple[tuple[int, ...], ...]
    dtype: str = "float32"
    tokens: int = 32
    follows: str | None = None
    """An earlier job: its tokens are given, and judged instead of chosen."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's engine."""
    adapter: str | None = None


Sequences = list[list[Token]]


@dataclass(frozen=True)
class Answer:
    """For each prompt the tokens chosen, or what vLLM said when it failed."""

    sequences: Sequences
    error: str | None = None
    accepted: int = 0
    """Drafted tokens that the model took."""


def run(layout: Layout, jobs: Sequence[Job], directory: Path) -> dict[str, Answer]:
    """Each job's answer by its name."""
    ranks = range(layout.tensor * layout.pipeline)
    (directory / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    environment = os.environ | ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    workers = []
    for rank in ranks:
        command = [sys.executable, PROGRAM, str(layout.tensor), str(layout.pipeline), "jobs.json", f"{rank}.json"]
        here = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(ranks))}
        with (directory / f"{rank}.log").open("w") as log:
            workers.append(
                subprocess.Popen(command, cwd=directory, env=environment | here, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        codes = [worker.wait(timeout=TIMEOUT_S) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert not any(codes), (directory / "0.log").read_text()[-4000:]
    said: dict[str, Any] = json.loads((directory / "0.json").read_text())
    return {
        name: Answer(
            [[Token(*token) for token in sequence] for sequence in answer["sequences"]],
            answer["error"],
            answer.get("accepted", 0),
        )
        for name, answer in said.items()
    }

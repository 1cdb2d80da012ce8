"""What vLLM runs on GPUs only: expert parallel, fp8 experts and LoRA on a mixture, held to the same model without."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from tests.serving.models.adapters import make_adapter
from tests.serving.models.engines import Job, Layout, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: vLLM's CPU build has no such kernels"),
]


@pytest.mark.parametrize("model", ["dbrx", "grok-1", "phi-3.5-moe"])
def test_the_ways_that_need_gpus(
    model: str, checkpoints: dict[str, Path], prompts: tuple[tuple[int, ...], ...], tmp_path: Path
) -> None:
    checkpoint = str(checkpoints[model])

    def job(name: str, options: dict[str, Any], adapter: Path | None = None) -> Job:
        given = str(adapter) if adapter else None
        return Job(name, checkpoint, prompts, "bfloat16", follows="plain", options=options, adapter=given)

    jobs = [
        Job("plain", checkpoint, prompts, "bfloat16"),
        job("expert parallel", {"enable_expert_parallel": True}),
        job("fp8", {"quantization": "fp8"}),
        job("lora", {"enable_lora": True, "max_lora_rank": 8}, make_adapter(model, tmp_path / "adapter")),
    ]
    answers = run(Layout(tensor=2), jobs, tmp_path)
    plain = answers.pop("plain")
    assert plain.error is None
    distance = {}
    for name, answer in answers.items():
        assert answer.error is None, name
        distance[name] = median(
            abs(token.logprob - without.logprob)
            for tokens, withouts in zip(answer.sequences, plain.sequences, strict=True)
            for token, without in zip(tokens, withouts, strict=True)
        )
    assert distance["expert parallel"] < 0.05
    assert 0 < distance["fp8"] < 0.5
    assert distance["lora"] > 0.05

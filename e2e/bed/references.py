"""What bare vLLM says, without Ray or a pod: greedy tokens that the endpoints of the cluster are held against."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.serving.models.engines import Job, Layout, run

PROMPTS = ((1, 5, 9, 200, 31), tuple(range(3, 60)), (7,) * 12, (250, 249, 248, 100, 101, 102))
"""Token ids, so that no tokenizer has a say."""
TOKENS = 24

Continuations = list[list[int]]
"""Of each prompt."""


def greedy_tokens(checkpoints: Sequence[Path], adapters: Mapping[Path, Path]) -> dict[Path, Continuations]:
    """Of each checkpoint, and of each adapter on its base, in float32 on one rank of this machine.

    One process for all, since vLLM's imports take longer than these models; raises with what vLLM said.
    """
    jobs = [Job(str(path), str(path), PROMPTS, tokens=TOKENS) for path in checkpoints]
    lora = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2}
    jobs += [
        Job(str(path), str(base), PROMPTS, tokens=TOKENS, options=lora, adapter=str(path))
        for path, base in adapters.items()
    ]
    with tempfile.TemporaryDirectory() as directory:
        answers = run(Layout(), jobs, Path(directory))
    errors = {name: answer.error for name, answer in answers.items() if answer.error}
    assert not errors, errors
    return {
        Path(name): [[token.id for token in sequence] for sequence in answer.sequences]
        for name, answer in answers.items()
    }


def completion(model: str, prompt: Sequence[int]) -> dict[str, object]:
    """The body of a request for the same."""
    said = {"return_token_ids": True, "ignore_eos": True}
    return {"model": model, "prompt": list(prompt), "max_tokens": TOKENS, "temperature": 0, **said}

"""What bare vLLM says, without Ray or a pod: greedy tokens that the endpoints of the cluster are held against."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.serving.models.engines import Job, Layout, run

PROMPTS = ((1, 5, 9, 200, 31), tuple(range(3, 60)), (7,) * 12, (250, 249, 248, 100, 101, 102))
"""Token ids, so that no tokenizer has a say."""
TOKENS = 24


def greedy_tokens(checkpoint: Path, *, adapter: Path | None = None) -> list[list[int]]:
    """The continuation of each prompt in float32, on one rank in this machine; raises what vLLM raised."""
    job = Job("it", str(checkpoint), PROMPTS, tokens=TOKENS, adapter=str(adapter) if adapter else None)
    with tempfile.TemporaryDirectory() as directory:
        answer = run(Layout(), [job], Path(directory))["it"]
    assert answer.error is None, answer.error
    return [[token.id for token in sequence] for sequence in answer.sequences]


def completion(model: str, prompt: Sequence[int]) -> dict[str, object]:
    """The body of a request for the same."""
    said = {"return_token_ids": True, "ignore_eos": True}
    return {"model": model, "prompt": list(prompt), "max_tokens": TOKENS, "temperature": 0, **said}

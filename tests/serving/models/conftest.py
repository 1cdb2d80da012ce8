"""One run of real vLLM for each layout, for all tests of the session; and the checkpoints that it ran on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.serving.models.engines import Answer, Job, Layout, run
from tokenizers import Tokenizer
from tools.tiny_checkpoint import make_checkpoint

from conclave.engine.arguments import SpeculativeArguments

MODELS = ("dbrx", "grok-1", "mixtral", "phi-3.5-moe")
TEXTS = (
    "Good morning!",
    "one, two, three, four, five,",
    "The router looks at each token and chooses two experts out of eight;",
    "Größe, naïve, 東京, 🙂",
    "A",
    "Please write a short answer about rivers, forests, cities, bridges, trains, letters, music, winter and summer.",
    "When a node fails, the remaining nodes keep serving. " * 8,
    "Memory is spent on weights first, then on the cache of keys and values",
)
IN_BFLOAT16 = " in bfloat16"
WITH_DRAFTS = " with drafts"

# The references multiply tiny matrices: where the machine is busy, more threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("checkpoints")
    return {model: make_checkpoint(model, directory / model) for model in MODELS}


@pytest.fixture(scope="session")
def prompts(checkpoints: dict[str, Path]) -> tuple[tuple[int, ...], ...]:
    """Eight, in tokens, which are the same for every tiny checkpoint."""
    tokenizer = Tokenizer.from_file(str(checkpoints["mixtral"] / "tokenizer.json"))
    return tuple(tuple(tokenizer.encode(text).ids) for text in TEXTS)


@pytest.fixture(scope="session")
def answers(
    checkpoints: dict[str, Path], prompts: tuple[tuple[int, ...], ...], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Layout], dict[str, Answer]]:
    """What vLLM says in a layout, by model; at TP=1 also in bfloat16 along the tokens of float32, and with drafts."""

    @cache
    def in_layout(layout: Layout) -> dict[str, Answer]:
        jobs = [Job(model, str(path), prompts) for model, path in checkpoints.items()]
        if layout == Layout():
            jobs += [
                Job(model + IN_BFLOAT16, str(path), prompts, "bfloat16", follows=model)
                for model, path in checkpoints.items()
            ]
            drafts = SpeculativeArguments(
                method="ngram", num_speculative_tokens=3, prompt_lookup_min=1, prompt_lookup_max=3
            )
            options = {"speculative_config": drafts.model_dump()}
            jobs.append(Job("mixtral" + WITH_DRAFTS, str(checkpoints["mixtral"]), prompts, options=options))
        return run(layout, jobs, tmp_path_factory.mktemp("engines"))

    return in_layout

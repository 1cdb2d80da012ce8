"""Grok-1 on real vLLM says token for token what a plain reference says, in every layout.

And the comparison sees each feature: the reference with one of them changed fails it, but for the one that is neutral.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from shutil import copytree
from statistics import median

import pytest
from safetensors.torch import load_file, save_file
from tests.serving.models.comparison import first_difference
from tests.serving.models.conftest import IN_BFLOAT16
from tests.serving.models.engines import Answer, Job, Layout, run
from tests.serving.models.references.grok1 import Definition, Grok1, Token

Answers = Callable[[Layout], dict[str, Answer]]
Prompts = tuple[tuple[int, ...], ...]

MODEL = "grok-1"
LAYOUTS = [Layout(), Layout(tensor=2), Layout(pipeline=2)]
TOKENS = 32
BFLOAT16_MEDIAN = 0.25
"""Of differences in log-probability: the sharp random attention amplifies what rounding makes of the routers."""


def continuations(checkpoint: Path, prompts: Prompts, definition: Definition) -> Iterator[list[Token]]:
    reference = Grok1(checkpoint, definition)
    for prompt in prompts:
        yield reference.generate(prompt, TOKENS)


@pytest.fixture(scope="module")
def expected(checkpoints: dict[str, Path], prompts: Prompts) -> list[list[Token]]:
    return list(continuations(checkpoints[MODEL], prompts, Definition()))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_float32_equals_the_reference(layout: Layout, answers: Answers, expected: list[list[Token]]) -> None:
    answer = answers(layout)[MODEL]
    assert answer.error is None
    assert len(answer.sequences) == 8
    assert first_difference(answer.sequences, expected) is None


def test_bfloat16_stays_close_along_the_tokens_of_float32(answers: Answers, expected: list[list[Token]]) -> None:
    answer = answers(Layout())[MODEL + IN_BFLOAT16]
    assert answer.error is None
    pairs = list(zip(chain(*answer.sequences), chain(*expected), strict=True))
    assert [said.id for said, _ in pairs] == [wanted.id for _, wanted in pairs]
    assert 0 < median(abs(said.logprob - wanted.logprob) for said, wanted in pairs) < BFLOAT16_MEDIAN


MUTATIONS = {
    "no softcap": Definition(has_softcap=False),
    "no embedding multiplier": Definition(has_embedding_multiplier=False),
    "no output multiplier": Definition(has_output_multiplier=False),
    "norm before attention skipped": Definition(skipped_norm="pre_attn_norm"),
    "norm after attention skipped": Definition(skipped_norm="post_attn_norm"),
    "norm before the experts skipped": Definition(skipped_norm="pre_moe_norm"),
    "norm after the experts skipped": Definition(skipped_norm="post_moe_norm"),
    "linear and linear_v swapped": Definition(has_experts_swapped=True),
    "one expert for two": Definition(top_k=1),
    "gelu in its erf form": Definition(gelu="none"),
    "another theta": Definition(rope_theta=500000.0),
    "interleaved rotation": Definition(rotary="interleaved"),
    "a head that is not tied": Definition(has_random_head=True),
    "attention scaled by the head's own width": Definition(attention_scale=32**-0.5),
}


@pytest.mark.parametrize("definition", MUTATIONS.values(), ids=MUTATIONS)
def test_a_changed_reference_fails_the_comparison(
    definition: Definition, answers: Answers, checkpoints: dict[str, Path], prompts: Prompts
) -> None:
    mutated = continuations(checkpoints[MODEL], prompts, definition)
    assert first_difference(answers(Layout())[MODEL].sequences, mutated) is not None


def test_renormalised_experts_are_the_same_model(
    answers: Answers, checkpoints: dict[str, Path], prompts: Prompts
) -> None:
    """A norm follows the experts at once, so that whoever renormalises is not told apart from who does not."""
    renormalised = continuations(checkpoints[MODEL], prompts, Definition(has_renormalised_router=True))
    assert first_difference(answers(Layout())[MODEL].sequences, renormalised) is None


def with_head(checkpoint: Path, path: Path, *, tied: bool) -> Path:
    """The checkpoint with an `lm_head.weight`: a copy of the embeddings where they are tied, else another matrix."""
    copytree(checkpoint, path)
    config = json.loads((path / "config.json").read_text()) | {"tie_word_embeddings": tied}
    (path / "config.json").write_text(json.dumps(config))
    index = json.loads((path / "model.safetensors.index.json").read_text())
    name = "model.embed_tokens.weight"
    embeddings = load_file(path / index["weight_map"][name])[name]
    save_file({"lm_head.weight": embeddings if tied else embeddings.flip(0).contiguous()}, path / "head.safetensors")
    index["weight_map"]["lm_head.weight"] = "head.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def test_a_head_in_the_checkpoint_is_used_and_a_spare_copy_of_the_embeddings_does_no_harm(
    checkpoints: dict[str, Path], prompts: Prompts, expected: list[list[Token]], tmp_path: Path
) -> None:
    tied = with_head(checkpoints[MODEL], tmp_path / "tied", tied=True)
    untied = with_head(checkpoints[MODEL], tmp_path / "untied", tied=False)
    jobs = [Job("tied", str(tied), prompts), Job("untied", str(untied), prompts)]
    answers = run(Layout(pipeline=2), jobs, tmp_path)
    assert [answer.error for answer in answers.values()] == [None, None]
    assert first_difference(answers["tied"].sequences, expected) is None
    assert first_difference(answers["untied"].sequences, continuations(untied, prompts, Definition())) is None
    assert first_difference(answers["untied"].sequences, expected) is not None

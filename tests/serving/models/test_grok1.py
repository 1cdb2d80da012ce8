"""Grok-1 on real vLLM says token for token what a plain reference says, in every layout.

And the comparison sees each feature: the reference with one of them changed fails it, but for the one that is neutral.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from statistics import fmean

import pytest
from tests.serving.models.comparison import first_difference
from tests.serving.models.conftest import IN_BFLOAT16
from tests.serving.models.engines import Answer, Layout
from tests.serving.models.references.grok1 import Definition, Grok1, Token

Answers = Callable[[Layout], dict[str, Answer]]
Prompts = tuple[tuple[int, ...], ...]

MODEL = "grok-1"
LAYOUTS = [Layout(), Layout(tensor=2), Layout(pipeline=2)]
TOKENS = 32
BFLOAT16_MEAN = 0.5
"""Mean difference of log-probabilities: three layers of capped logits amplify what rounding makes of the routers."""


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
    assert 0 < fmean(abs(said.logprob - wanted.logprob) for said, wanted in pairs) < BFLOAT16_MEAN


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

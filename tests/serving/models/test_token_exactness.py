"""DBRX, Phi-3.5-MoE and Mixtral on real vLLM say token for token what Transformers says, in every layout.

And the comparison sees each feature: Transformers with one of them changed fails it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from tests.serving.models.comparison import first_difference
from tests.serving.models.conftest import IN_BFLOAT16, WITH_DRAFTS
from tests.serving.models.engines import Answer, Layout
from tests.serving.models.references.grok1 import Token
from tests.serving.models.references.hugging_face import HuggingFace, Mutation
from torch import nn

Answers = Callable[[Layout], dict[str, Answer]]
Prompts = tuple[tuple[int, ...], ...]

LAYOUTS = [Layout(), Layout(tensor=2), Layout(pipeline=2)]
MODELS = ("dbrx", "mixtral", "phi-3.5-moe")
TOKENS = 32
BFLOAT16_MEDIAN = 0.05
"""Of differences in log-probability. Single ones are larger, in Transformers' own bfloat16 as well: rounding makes a
router change its mind."""


def continuations(checkpoint: Path, prompts: Prompts, mutate: Mutation = lambda model: None) -> Iterator[list[Token]]:
    reference = HuggingFace(checkpoint, mutate)
    for prompt in prompts:
        yield reference.generate(prompt, TOKENS)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_float32_equals_transformers(
    model: str, layout: Layout, answers: Answers, checkpoints: dict[str, Path], prompts: Prompts
) -> None:
    answer = answers(layout)[model]
    assert answer.error is None
    assert len(answer.sequences) == 8
    assert first_difference(answer.sequences, continuations(checkpoints[model], prompts)) is None


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_stays_close_along_the_tokens_of_float32(
    model: str, answers: Answers, checkpoints: dict[str, Path], prompts: Prompts
) -> None:
    answer = answers(Layout())[model + IN_BFLOAT16]
    assert answer.error is None
    expected = list(continuations(checkpoints[model], prompts))
    assert [[token.id for token in tokens] for tokens in answer.sequences] == [
        [token.id for token in tokens] for tokens in expected
    ]
    differences = [
        abs(token.logprob - wanted.logprob)
        for tokens, wanteds in zip(answer.sequences, expected, strict=True)
        for token, wanted in zip(tokens, wanteds, strict=True)
    ]
    assert 0 < median(differences) < BFLOAT16_MEDIAN


def test_drafts_change_no_token(answers: Answers) -> None:
    """Of the model's own text, looked up by n-grams; and some drafts are taken, so that there is something to see."""
    answer = answers(Layout())["mixtral" + WITH_DRAFTS]
    assert answer.error is None
    assert [[token.id for token in tokens] for tokens in answer.sequences] == [
        [token.id for token in tokens] for tokens in answers(Layout())["mixtral"].sequences
    ]
    assert answer.accepted > 0


def without_clip(model: Any) -> None:
    for block in model.transformer.blocks:
        block.norm_attn_norm.attn.clip_qkv = torch.inf


def rotated_by(theta: float) -> Mutation:
    def mutate(model: Any) -> None:
        (rotary,) = {module for name, module in model.named_modules() if name.endswith("rotary_emb")}
        exponents = torch.arange(0, 1, 2 / (2 * len(rotary.inv_freq)))
        rotary.inv_freq = theta**-exponents

    return mutate


def rope_changed(**parameters: Any) -> Mutation:
    return lambda model: model.config.rope_parameters.update(parameters)


def skipped(name: str) -> Mutation:
    def mutate(model: Any) -> None:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())

    return mutate


def zeroed(ending: str) -> Mutation:
    def mutate(model: Any) -> None:
        (*parameters,) = (parameter for name, parameter in model.named_parameters() if name.endswith(ending))
        assert parameters
        for parameter in parameters:
            parameter.data.zero_()

    return mutate


def with_gate_and_up_swapped(model: Any) -> None:
    for name, module in model.named_modules():
        if name.endswith("experts.mlp"):
            module.w1, module.v1 = module.v1, module.w1
        elif name.endswith("mlp.experts"):
            gate, up = module.gate_up_proj.data.chunk(2, dim=1)
            module.gate_up_proj.data = torch.cat([up, gate], dim=1)


def with_w2_as_it_is_stored(model: Any) -> None:
    """Read as [experts, hidden, ffn], the order of other models' down projections."""
    for block in model.transformer.blocks:
        mlp = block.ffn.experts.mlp
        stored = mlp.w2.data.reshape(mlp.moe_num_experts, mlp.hidden_size, mlp.ffn_hidden_size)
        mlp.w2.data = stored.transpose(1, 2).reshape(mlp.w2.shape)


def dbrx_routed(top_k: int = 4, p: float | None = 1.0) -> Mutation:
    def mutate(model: Any) -> None:
        for block in model.transformer.blocks:
            block.ffn.top_k, block.ffn.moe_normalize_expert_weights = top_k, p

    return mutate


def routed_by(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Mutation:
    """The experts' weights [tokens, 2] become `change` of the router's logits and of themselves."""

    def hook(_module: Any, _arguments: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        logits, weights, chosen = output
        return logits, change(logits.gather(-1, chosen), weights), chosen

    def mutate(model: Any) -> None:
        for layer in model.model.layers:
            router = layer.mlp.router if hasattr(layer.mlp, "router") else layer.mlp.gate
            router.register_forward_hook(hook)

    return mutate


def first_only(_logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weights * torch.tensor([1.0, 0.0])


MUTATIONS: dict[str, dict[str, Mutation]] = {
    "dbrx": {
        "no clipping": without_clip,
        "Transformers' own theta": rotated_by(10000.0),
        "w1 and v1 swapped": with_gate_and_up_swapped,
        "w2 not transposed": with_w2_as_it_is_stored,
        "one expert for four": dbrx_routed(top_k=1),
        "no renormalisation": dbrx_routed(p=None),
        "another norm of the experts' weights": dbrx_routed(p=2.0),
        "first norm skipped": skipped("transformer.blocks.1.norm_attn_norm.norm_1"),
        "second norm skipped": skipped("transformer.blocks.1.norm_attn_norm.norm_2"),
        "last norm skipped": skipped("transformer.norm_f"),
    },
    "mixtral": {
        "another theta": rotated_by(10000.0),
        "w1 and w3 swapped": with_gate_and_up_swapped,
        "one expert for two": routed_by(first_only),
        "no renormalisation": routed_by(lambda logits, weights: 0.9 * weights),
        "a norm skipped": skipped("model.layers.1.post_attention_layernorm"),
    },
    "phi-3.5-moe": {
        "no bias of the head": zeroed("lm_head.bias"),
        "no bias of queries": zeroed("q_proj.bias"),
        "no bias of attention's output": zeroed("o_proj.bias"),
        "no bias of norms": zeroed("layernorm.bias"),
        "no bias of the last norm": zeroed("model.norm.bias"),
        "frequencies not scaled": rope_changed(short_factor=[1.0] * 16),
        "rotation not scaled": rope_changed(short_mscale=1.0),
        "another theta": rope_changed(rope_theta=1000000.0),
        "one expert for two": routed_by(first_only),
        "weights of a plain softmax": routed_by(lambda logits, _weights: logits.softmax(-1)),
        "w1 and w3 swapped": with_gate_and_up_swapped,
        "a norm skipped": skipped("model.layers.1.input_layernorm"),
    },
}


@pytest.mark.parametrize(
    ("model", "change"), [(model, change) for model, changes in MUTATIONS.items() for change in changes]
)
def test_a_changed_reference_fails_the_comparison(
    model: str, change: str, answers: Answers, checkpoints: dict[str, Path], prompts: Prompts
) -> None:
    mutated = continuations(checkpoints[model], prompts, MUTATIONS[model][change])
    assert first_difference(answers(Layout())[model].sequences, mutated) is not None

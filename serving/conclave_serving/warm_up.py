"""The requests that a replica answers before it takes others: one for each path that compiles or loads something.

Pure data. Prompts are token ids, so that they depend on no tokenizer and no chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LONG_PROMPT_TOKENS = 256
ANSWER_TOKENS = 4


@dataclass(frozen=True)
class Rehearsal:
    """One completion. An engine that refuses a completion that is not required still serves."""

    name: str
    prompt_tokens: int
    required: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> dict[str, Any]:
        """The fields of a completion request."""
        return {"prompt": [1] * self.prompt_tokens, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, **self.options}


def rehearsals(max_model_len: int) -> tuple[Rehearsal, ...]:
    """The rehearsals that fit the context."""
    short = max(1, min(8, max_model_len - ANSWER_TOKENS))
    long = max(1, min(LONG_PROMPT_TOKENS, max_model_len - ANSWER_TOKENS))
    return (
        Rehearsal("greedy, streamed", short, required=True, options={"temperature": 0, "stream": True}),
        Rehearsal("long prompt, sampled", long, options={"temperature": 1.0, "top_p": 0.9, "top_k": 20, "seed": 0}),
        Rehearsal("log probabilities", short, options={"temperature": 0, "logprobs": 1}),
        Rehearsal("JSON", short, options={"response_format": {"type": "json_object"}, "ignore_eos": False}),
    )

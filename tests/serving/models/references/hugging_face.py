"""A checkpoint in Transformers, float32, with one feature changed where a test asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.serving.models.references.grok1 import Token
from transformers import AutoConfig, AutoModelForCausalLM

Mutation = Callable[[Any], None]
"""Changes a loaded model in place."""


class HuggingFace:
    """The model that Transformers makes of `checkpoint`."""

    def __init__(self, checkpoint: Path, mutate: Mutation = lambda model: None) -> None:
        config: Any = AutoConfig.from_pretrained(checkpoint)
        if config.model_type == "dbrx":
            # Transformers 5 ignores attn_config.rope_theta and rotates by 10000, which is not DBRX.
            config.rope_parameters = {"rope_type": "default", "rope_theta": float(config.attn_config.rope_theta)}
        self._model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, config=config, dtype=torch.float32).eval()
        mutate(self._model)

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], tokens: int) -> list[Token]:
        """The `tokens` likeliest continuations of `prompt`, one after the other."""
        generated = self._model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
        chosen = generated.sequences[0, len(prompt) :].tolist()
        logprobs = torch.stack(generated.logits)[:, 0].log_softmax(-1)
        return [Token(token, logprobs[position, token].item()) for position, token in enumerate(chosen)]

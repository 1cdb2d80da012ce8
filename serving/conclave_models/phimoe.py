"""Phi-3.5-MoE with the bias of its output head, which vLLM 0.32's class loads and then leaves out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.phimoe import PhiMoEForCausalLM as VllmPhiMoE

from conclave_models.held_to_config import held_to_config


class PhiMoEForCausalLM(VllmPhiMoE):
    """vLLM's own class, which builds every bias. Biases that the config rules out are zero."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.vllm_config = vllm_config

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.logits_processor(self.lm_head, hidden_states, self.lm_head.bias)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Raises WeightsUnfit where the weights contradict config.json."""
        loaded = super().load_weights(held_to_config(weights, self.vllm_config))
        ruled_out = {"lm_head.": self.config.lm_head_bias, ".self_attn.": self.config.attention_bias}
        for name, parameter in self.named_parameters():
            if name.endswith(".bias") and any(part in name and not has for part, has in ruled_out.items()):
                parameter.data.zero_()
                loaded.add(name)
        return loaded

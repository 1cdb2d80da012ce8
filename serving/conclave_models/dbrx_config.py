"""DBRX's configuration with the number of experts where vLLM reads it. Without it vLLM takes DBRX for a dense model."""

from __future__ import annotations

from typing import Any

from transformers import DbrxConfig


class DbrxMixtureConfig(DbrxConfig):
    """Transformers' own class, which has the number of experts in a field of a field."""

    @property
    def num_experts(self) -> int:
        ffn: Any = self.ffn_config
        return int(ffn.moe_num_experts)

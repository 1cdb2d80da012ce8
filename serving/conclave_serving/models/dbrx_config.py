"""DBRX's configuration, with the number of experts where vLLM looks for it: without, it takes DBRX for dense."""

from __future__ import annotations

from typing import Any

from transformers import DbrxConfig


class DbrxMixtureConfig(DbrxConfig):
    """Transformers' own, whose number of experts is a field of a field."""

    @property
    def num_experts(self) -> int:
        ffn: Any = self.ffn_config
        return int(ffn.moe_num_experts)

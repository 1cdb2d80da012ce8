"""How a model is divided: the parallel sizes of one replica, and what vLLM derives from them.

Used by all modules of the plan. The layer split is `vllm/distributed/utils.py:get_pp_indices`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Layout(BaseModel):
    """Parallel sizes of one replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)
    data: int = Field(default=1, ge=1)
    expert_parallel: bool = False

    @property
    def gpus(self) -> int:
        """Devices of one replica."""
        return self.tensor * self.pipeline * self.data

    @property
    def expert_ranks(self) -> int:
        """Ranks that share one layer's experts, whether whole (EP) or sliced (TP)."""
        return self.tensor * self.data

    @property
    def expert_slices(self) -> int:
        """Parts that each expert is cut into."""
        return 1 if self.expert_parallel else self.expert_ranks

    def local_experts(self, experts: int) -> int:
        """Experts of the fullest rank: with EP the remainder goes to the first ranks."""
        return -(-experts // self.expert_ranks) if self.expert_parallel else experts

    def stages(self, layers: int) -> tuple[range, ...]:
        """Layer indices of each pipeline stage; a remainder goes to the stages before the last."""
        sizes = [layers // self.pipeline] * self.pipeline
        for index in range(2, layers % self.pipeline + 2):
            sizes[-index] += 1
        starts = [sum(sizes[:stage]) for stage in range(self.pipeline)]
        return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))

    def describe(self) -> str:
        """For instance "TP=8, PP=2, EP"."""
        parts = [f"TP={self.tensor}"]
        if self.pipeline > 1:
            parts.append(f"PP={self.pipeline}")
        if self.data > 1:
            parts.append(f"DP={self.data}")
        if self.expert_parallel:
            parts.append("EP")
        return ", ".join(parts)

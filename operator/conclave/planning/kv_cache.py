"""The KV cache: bytes of a block, blocks of a request, tokens that a pool holds.

Follows `vllm/v1/core/kv_cache_utils.py` and `vllm/v1/kv_cache_interface.py`: layers with equal windows form groups
of equal size, all groups draw blocks from one pool, and one block is held back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.shapes import GroupedAttention, LatentAttention, Layer, ModelFacts
from conclave.planning.layout import Layout

_CLOSE_ENOUGH = 1.5
"""vLLM pads the smaller group of layers where the larger is not this many times its size."""


class Window(BaseModel):
    """How much of a request one group of layers keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = None
    chunked: bool = False


class KvCache(BaseModel):
    """The cache of one model under one layout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_tokens: int = Field(ge=1)
    stage_block_bytes: tuple[int, ...]
    """Bytes of one block of the pool on each pipeline stage."""
    groups: tuple[Window, ...]
    in_flight_tokens: int = Field(ge=1)
    """Tokens scheduled and not settled, which a sliding window keeps as well."""

    def request_blocks(self, tokens: int) -> int:
        """Blocks that a request of that length holds at most."""
        return sum(self._group_blocks(window, tokens) for window in self.groups)

    def request_bytes(self, tokens: int, stage: int) -> int:
        """Bytes of a request of that length on one stage."""
        return self.request_blocks(tokens) * self.stage_block_bytes[stage]

    def pool_blocks(self, stage_bytes: Sequence[int]) -> int:
        """Blocks that all stages can allocate, including the block held back."""
        return max(0, min(pool // block for pool, block in zip(stage_bytes, self.stage_block_bytes, strict=True)))

    def holds(self, tokens: int, blocks: int) -> bool:
        """Whether vLLM would start: one request of that length fits beside the block held back."""
        return self.request_blocks(tokens) <= blocks - 1

    def concurrency(self, tokens: int, blocks: int) -> float:
        """Requests of that length at once, as vLLM logs it."""
        return blocks / self.request_blocks(tokens)

    def longest_request(self, blocks: int, limit: int) -> int:
        """Longest request that fits, at most `limit` tokens; 0 if no request fits."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.holds(middle, blocks) else (low, middle - 1)
        return low

    def _group_blocks(self, window: Window, tokens: int) -> int:
        if window.tokens is None:
            return ceil(tokens / self.block_tokens)
        kept = window.tokens + self.in_flight_tokens
        if window.chunked:
            return ceil(min(kept, tokens) / self.block_tokens)
        return ceil(min(kept - 1, tokens) / self.block_tokens) + 1


def layer_bytes_per_token(attention: GroupedAttention | LatentAttention, tensor: int, entry_bytes: int) -> int:
    """Bytes of one token in one layer on one rank."""
    if isinstance(attention, LatentAttention):  # one compressed entry, whole on every rank
        return (attention.kv_rank + attention.rope_head_dim) * entry_bytes
    return 2 * max(1, attention.kv_heads // tensor) * attention.head_dim * entry_bytes


def kv_bytes_per_token(facts: ModelFacts, tensor: int = 1, entry_bytes: int = 2) -> int:
    """Bytes of one token in all layers, windows left aside; of the whole model where `tensor` is 1."""
    return sum(layer_bytes_per_token(layer.attention, tensor, entry_bytes) for layer in facts.layers)


def kv_cache(
    facts: ModelFacts,
    layout: Layout,
    entry_bytes: int,
    *,
    block_tokens: int,
    in_flight_tokens: int,
    drafting: Sequence[Layer] = (),
) -> KvCache:
    """The cache of a model whose layers all have pages of one size. Layers that draft are on the last stage.

    Beside such layers vLLM keeps chunked windows whole (`vllm/config/vllm.py`, hybrid KV cache manager).
    """
    by_window: dict[Window, list[int]] = {}
    for index, layer in enumerate((*facts.layers, *drafting)):
        attention = layer.attention
        window = (
            Window(tokens=attention.window_tokens, chunked=attention.chunked)
            if isinstance(attention, GroupedAttention) and not (attention.chunked and drafting)
            else Window()
        )
        by_window.setdefault(window, []).append(index)
    page_bytes = block_tokens * layer_bytes_per_token(facts.attention, layout.tensor, entry_bytes)
    sizes = [len(layers) for layers in by_window.values()]
    group_size = max(sizes) if max(sizes) < min(sizes) * _CLOSE_ENOUGH else min(sizes)
    groups: list[tuple[Window, list[int]]] = []
    for window, layers in by_window.items():
        count = ceil(len(layers) / group_size)
        groups.extend((window, layers[first::count]) for first in range(count))
    stage_of = {index: stage for stage, indices in enumerate(layout.stages(len(facts.layers))) for index in indices}
    stage_of |= {len(facts.layers) + index: layout.pipeline - 1 for index in range(len(drafting))}
    members = [Counter(stage_of[index] for index in layers) for _, layers in groups]
    widest = [max(1, max(member[stage] for member in members)) for stage in range(layout.pipeline)]
    return KvCache(
        block_tokens=block_tokens,
        stage_block_bytes=tuple(layers * page_bytes for layers in widest),
        groups=tuple(window for window, _ in groups),
        in_flight_tokens=in_flight_tokens,
    )

"""The KV cache: bytes of a block, blocks of a request, tokens that a pool holds.

Follows `vllm/v1/core/kv_cache_utils.py` and `vllm/v1/kv_cache_interface.py`: layers with equal windows form groups
of equal size, all groups draw blocks from one pool, and one block is held back. Where layers keep states, a block is
made as large as a state (`vllm/platforms/interface.py:_align_hybrid_block_size`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.shapes import GroupedAttention, LatentAttention, Layer, ModelFacts, Recurrence
from conclave.planning.layout import Layout

_STATE_BLOCKS = 3
"""Of a request in a group of states: two with prefix caching, and one for the checkpoint of a prompt."""
_STATE_BYTES = 4
_INDEX_SCALE_BYTES = 4
_CLOSE_ENOUGH = 1.5
"""vLLM pads the smaller group of layers where the larger is not this many times its size."""


class Window(BaseModel):
    """How much of a request one group of layers keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = None
    chunked: bool = False
    is_state: bool = False
    """Whether the layers keep states instead, of which a request has few, whatever its length."""
    block_tokens: int | None = Field(default=None, ge=1)
    """Where layers whose tokens take fewer bytes have longer blocks than others."""


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
        block_tokens = window.block_tokens or self.block_tokens
        if window.is_state:
            return _STATE_BLOCKS
        if window.tokens is None:
            return ceil(tokens / block_tokens)
        kept = window.tokens + self.in_flight_tokens
        if window.chunked:
            return ceil(min(kept, tokens) / block_tokens)
        return ceil(min(kept - 1, tokens) / block_tokens) + 1


def layer_bytes_per_token(attention: GroupedAttention | LatentAttention, tensor: int, entry_bytes: int) -> int:
    """Bytes of one token in one layer on one rank."""
    if isinstance(attention, GroupedAttention):
        widest = max(attention.head_dim, attention.value_head_dim or 0)
        return 2 * max(1, attention.kv_heads // tensor) * widest * entry_bytes
    if attention.caches_heads:
        return 2 * attention.heads // tensor * (attention.nope_head_dim + attention.rope_head_dim) * entry_bytes
    # One compressed entry, whole on every rank, and the indexer's key in 8 bits with its scale.
    index = attention.index_head_dim + _INDEX_SCALE_BYTES if attention.index_heads else 0
    return (attention.kv_rank + attention.rope_head_dim) * entry_bytes + index


def kv_bytes_per_token(facts: ModelFacts, tensor: int = 1, entry_bytes: int = 2) -> int:
    """Bytes of one token in all layers, windows left aside; of the whole model where `tensor` is 1."""
    return sum(layer_bytes_per_token(layer.attention, tensor, entry_bytes) for layer in facts.layers if layer.attention)


def state_bytes(recurrence: Recurrence, tensor: int, entry_bytes: int) -> int:
    """Bytes of one request's state in one layer on one rank, in the widest types that vLLM keeps it in."""
    state = recurrence.state_elements * _STATE_BYTES + recurrence.convolution_elements * max(2, entry_bytes)
    return ceil(state / tensor)


class _Cached(NamedTuple):
    """What one layer keeps: how much of a request, and the bytes of one of its pages."""

    layer: int
    window: Window
    page_bytes: int


def kv_cache(
    facts: ModelFacts,
    layout: Layout,
    entry_bytes: int,
    *,
    block_tokens: int,
    in_flight_tokens: int,
    drafting: Sequence[Layer] = (),
) -> KvCache:
    """The cache of a model. All pages have the size of the largest, unless every layer keeps whole requests.

    Layers that draft are on the last stage. Beside them vLLM keeps chunked windows whole (`vllm/config/vllm.py`, hybrid
    KV cache manager).
    """
    layers = (*facts.layers, *drafting)
    states = [
        _Cached(index, Window(is_state=True), state_bytes(layer.recurrence, layout.tensor, entry_bytes))
        for index, layer in enumerate(layers)
        if layer.recurrence is not None
    ]
    token_bytes = [
        (
            index,
            _window(layer.attention, keeps_chunks=not drafting),
            layer_bytes_per_token(layer.attention, layout.tensor, entry_bytes),
        )
        for index, layer in enumerate(layers)
        if layer.attention is not None
    ]
    if states and token_bytes:
        needed = max(state.page_bytes for state in states) / min(size for _, _, size in token_bytes)
        block_tokens *= max(1, ceil(needed / block_tokens))
    cached = [_Cached(index, window, block_tokens * size) for index, window, size in token_bytes] + states
    stage_of = {index: stage for stage, indices in enumerate(layout.stages(len(facts.layers))) for index in indices}
    stage_of |= dict.fromkeys(range(len(facts.layers), len(layers)), layout.pipeline - 1)
    if len({one.window for one in cached}) == 1:
        stages = range(layout.pipeline)
        sums = [sum(one.page_bytes for one in cached if stage_of[one.layer] == stage) for stage in stages]
        groups, stage_block_bytes = [cached[0].window], [size or cached[0].page_bytes for size in sums]
    else:
        groups, stage_block_bytes = _groups(_with_one_page(cached, block_tokens), stage_of, layout.pipeline)
    return KvCache(
        block_tokens=block_tokens,
        stage_block_bytes=tuple(stage_block_bytes),
        groups=tuple(groups),
        in_flight_tokens=in_flight_tokens,
    )


def _window(attention: GroupedAttention | LatentAttention, *, keeps_chunks: bool) -> Window:
    if isinstance(attention, GroupedAttention) and (keeps_chunks or not attention.chunked):
        return Window(tokens=attention.window_tokens, chunked=attention.chunked)
    return Window()


def _with_one_page(cached: Sequence[_Cached], block_tokens: int) -> list[_Cached]:
    """Smaller pages become blocks of more tokens where that comes out even, and are padded where it does not."""
    largest = max(one.page_bytes for one in cached)
    return [
        one._replace(
            page_bytes=largest,
            window=one.window.model_copy(update={"block_tokens": block_tokens * (largest // one.page_bytes)})
            if one.page_bytes < largest and largest % one.page_bytes == 0 and not one.window.is_state
            else one.window,
        )
        for one in cached
    ]


def _groups(cached: Sequence[_Cached], stage_of: Mapping[int, int], pipeline: int) -> tuple[list[Window], list[int]]:
    """The groups, and the bytes of a block on each stage."""
    by_window: dict[Window, list[int]] = {}
    for one in cached:
        by_window.setdefault(one.window, []).append(one.layer)
    sizes = [len(layers) for layers in by_window.values()]
    group_size = max(sizes) if max(sizes) < min(sizes) * _CLOSE_ENOUGH else min(sizes)
    groups: list[tuple[Window, list[int]]] = []
    for window, layers in by_window.items():
        count = ceil(len(layers) / group_size)
        groups.extend((window, layers[first::count]) for first in range(count))
    members = [Counter(stage_of[index] for index in layers) for _, layers in groups]
    widest = [max(1, max(member[stage] for member in members)) for stage in range(pipeline)]
    page_bytes = cached[0].page_bytes
    return [window for window, _ in groups], [layers * page_bytes for layers in widest]

"""Bytes of a checkpoint by what vLLM does with them: cut over the ranks, or held whole by each.

Made from the tensors' headers (names, types, shapes), for architectures that no reader knows. Each class of vLLM names
its tensors as it likes. What a name does not tell therefore counts as whole on every rank: a bound, not a guess.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

MOST_LAYERS = 256
"""Twice what published models have. Where nothing fits, some 500 layouts are weighed, each layer by layer."""
_FLOATS = frozenset({"BF16", "F16", "F32", "F64"})
_SMALL_ELEMENTS = 2**20
"""Matrices below this many elements are often routers, gates and the like, which many classes hold whole."""

_INDEXED = re.compile(r"(.*?)\.([0-9]{1,6})\.")
_NOT_LOADED = re.compile(r"(?:^|\.)(?:mtp\w*|nextn\w*|talker|token2wav|code2wav|code_predictor|rotary_emb)(?:\.|$)")
_SENSES = re.compile(r"vis(?:ion|ual)|vit|vpm|image|video|audio|speech")
_ENCODER = re.compile(rf"{_SENSES.pattern}|encoder|resampler|projector|connector|merger|mlp1")
_POSITIONS = re.compile(r"(?:^|\.)(?:wpe|\w*position\w*)(?:\.|$)")
_EMBEDDING = re.compile(r"(?:^|\.)(?:\w*embed\w*|wte)(?:\.|$)")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output_layer|output|head)\.")
_WHOLE = re.compile(
    r"(?:^|\.)(?:gate|router|shared_expert_gate|q_a_proj|kv_a_proj_with_mqa|kv_a_proj|fused_qkv_a_proj|wq_a|wkv|wkv_a|"
    r"indexer|compressor)(?:\.|$)"
)
_EXPERTS = re.compile(r"(?:^|\.)experts(?:\.|$)")
_KEYS_VALUES = re.compile(r"(?:^|\.)(?:k_proj|v_proj|wk|wv|key|value)(?:\.|$)")
_FUSED = re.compile(r"(?:^|\.)(?:qkv_proj|query_key_value|[wW]qkv|qkv|c_attn)(?:\.|$)")


class StoredTensor(Protocol):
    """What a safetensors header says of a tensor."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def size_bytes(self) -> int: ...


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Amount(_Part):
    """Numbers of a floating-point type, which vLLM keeps in the type that it serves in, and bytes of all else."""

    floats: int = Field(default=0, ge=0, le=2**60)
    other_bytes: int = Field(default=0, ge=0, le=2**60)

    def served_bytes(self, float_bytes: float) -> float:
        """Bytes in memory, where a number takes `float_bytes`."""
        return self.floats * float_bytes + self.other_bytes


class MeasuredLayer(_Part):
    """One decoder layer."""

    matrices: Amount = Amount()
    """Cut over the ranks of a tensor-parallel group."""
    fused: Amount = Amount()
    """Queries, keys and values in one matrix: the last two are repeated where there are fewer heads than ranks."""
    keys_values: Amount = Amount()
    experts: Amount = Amount()
    whole: Amount = Amount()
    """On every rank."""


class MeasuredWeights(_Part):
    """A checkpoint. Tensors that are not loaded without speculative decoding are left out."""

    layers: tuple[MeasuredLayer, ...] = Field(min_length=1, max_length=MOST_LAYERS)
    embedding: Amount = Amount()
    head: Amount = Amount()
    whole: Amount = Amount()
    """What belongs to no layer and has no name that says more: on every rank and stage."""
    encoders: Amount = Amount()
    tensors: int = Field(ge=1, le=2**32)


class StoredTotal(_Part):
    """What an index file says of a checkpoint: its size, and neither shapes nor types."""

    size_bytes: int = Field(ge=1, le=2**60)


def measure(tensors: Mapping[str, StoredTensor], layers: int) -> MeasuredWeights:
    """Sorts the tensors of a checkpoint whose decoder has that many layers.

    Tensors of further layers are those of multi-token prediction. A head that is stored counts, tied or not.
    """
    loaded = {name: tensor for name, tensor in tensors.items() if not _NOT_LOADED.search(name)}
    stack = _decoder_stack(loaded, layers)
    has_wide_floats = _stores_wide_floats(loaded.values())
    parts: dict[str, Counter[str]] = defaultdict(Counter)
    in_layers: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in range(layers)]
    for name, tensor in loaded.items():
        place = _INDEXED.match(name)
        if place is not None and place[1] == stack:
            index = int(place[2])
            if index >= layers:
                continue
            part = in_layers[index][_part_of_layer(name[place.end() :], tensor)]
        else:
            part = parts[_part_outside(name, tensor, is_indexed=place is not None)]
        is_float = tensor.dtype in _FLOATS and (has_wide_floats or tensor.dtype not in ("F32", "F64"))
        part.update({"floats": math.prod(tensor.shape)} if is_float else {"other_bytes": tensor.size_bytes})
    return MeasuredWeights(
        layers=tuple(MeasuredLayer(**_amounts(layer)) for layer in in_layers), tensors=len(tensors), **_amounts(parts)
    )


def _amounts(parts: Mapping[str, Counter[str]]) -> dict[str, Amount]:
    return {name: Amount(**sums) for name, sums in parts.items()}


def _stores_wide_floats(tensors: Iterable[StoredTensor]) -> bool:
    """Whether most bytes are float32, which vLLM serves in 16 bits; few are kept so: scales, biases."""
    by_type: Counter[str] = Counter()
    for tensor in tensors:
        by_type[tensor.dtype] += tensor.size_bytes
    return bool(by_type) and by_type.most_common(1)[0][0] in ("F32", "F64")


def _decoder_stack(tensors: Mapping[str, StoredTensor], layers: int) -> str | None:
    """The name before the number of a decoder layer.

    Of the stacks that are deep enough: none of images or sound, then the one with the fewest layers more, then the
    one of the most bytes.
    """
    indices: dict[str, set[int]] = defaultdict(set)
    sizes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        if place := _INDEXED.match(name):
            indices[place[1]].add(int(place[2]))
            sizes[place[1]] += tensor.size_bytes
    deep_enough = [name for name, numbers in indices.items() if set(range(layers)) <= numbers]
    return max(
        deep_enough or indices,
        key=lambda name: (not _SENSES.search(name), -len(indices[name]) if deep_enough else 0, sizes[name], name),
        default=None,
    )


def _part_of_layer(name: str, tensor: StoredTensor) -> str:
    is_small = math.prod(tensor.shape) < _SMALL_ELEMENTS
    if _EXPERTS.search(name) or (len(tensor.shape) > 2 and not is_small):
        return "experts"
    if _WHOLE.search(name) or len(tensor.shape) < 2 or is_small:
        return "whole"
    if _FUSED.search(name):
        return "fused"
    return "keys_values" if _KEYS_VALUES.search(name) else "matrices"


def _part_outside(name: str, tensor: StoredTensor, *, is_indexed: bool) -> str:
    if _ENCODER.search(name):
        return "encoders"
    if is_indexed or len(tensor.shape) < 2 or _POSITIONS.search(name):
        return "whole"
    if _HEAD.search(name):
        return "head"
    return "embedding" if _EMBEDDING.search(name) else "whole"

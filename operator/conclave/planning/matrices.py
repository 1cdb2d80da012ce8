"""Bytes of one matrix in each format, as vLLM's quantization methods register its parameters.

Sizes are those of one rank: sliced outputs and inputs. Sources: `vllm/model_executor/layers/quantization/`
{fp8,auto_awq,auto_gptq,mxfp4}.py, `compressed_tensors/schemes/` and `online/`. Called by `weights.py` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.shapes import MatrixFormat

_SCALE_BYTES = 4
_WORD_BITS = 32


class ExpertTiles(BaseModel):
    """What an mxfp4 kernel rounds the sizes of an expert up to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(default=1, ge=1)
    intermediate: int = Field(default=1, ge=1)
    inputs: int = Field(default=1, ge=1)
    """Tile of both matrices' inputs, for their values but not for their scales (Triton on Hopper)."""


NO_TILES = ExpertTiles()


def linear_bytes(outputs: Sequence[int], inputs: int, dtype_bytes: int, weights: MatrixFormat | None) -> int:
    """One linear layer; `outputs` are the sizes of the matrices fused into it (q, k, v or gate, up)."""
    width = sum(outputs)
    if weights is None:
        return width * inputs * dtype_bytes
    groups = inputs // weights.group if weights.group else 1
    if weights.method in ("fp8", "int8"):
        scales = (
            ceil(width / weights.block[0]) * ceil(inputs / weights.block[1])
            if weights.block
            else width
            if weights.per_channel
            else 1
            if weights.online
            else len(outputs)
        )
        static = len(outputs) if weights.static_activations else 0
        return width * inputs + (scales + static) * _SCALE_BYTES
    if weights.method == "nvfp4":
        return width * inputs // 2 + width * groups + 2 * len(outputs) * _SCALE_BYTES
    if weights.method in ("mxfp8", "mxfp4"):  # a scale of 8 bits a group
        return width * inputs * weights.bits // 8 + width * groups
    return _packed_bytes(width, inputs, groups, dtype_bytes, weights)


def expert_bytes(
    experts: int,
    hidden: int,
    intermediate: int,
    dtype_bytes: int,
    weights: MatrixFormat | None,
    *,
    bias: bool,
    tiles: ExpertTiles = NO_TILES,
) -> int:
    """The fused gate-up and down matrices of a rank's experts; `intermediate` is the rank's share of one expert."""
    if weights is not None and weights.method == "mxfp4":
        return experts * _mxfp4_expert_bytes(hidden, intermediate, dtype_bytes, weights, bias=bias, tiles=tiles)
    elements = 3 * hidden * intermediate
    biases = (2 * intermediate + hidden) * dtype_bytes if bias else 0
    if weights is None:
        return experts * (elements * dtype_bytes + biases)
    if weights.method in ("fp8", "int8"):
        if weights.block:
            rows, columns = weights.block
            scales = 2 * ceil(intermediate / rows) * ceil(hidden / columns)
            scales += ceil(hidden / rows) * ceil(intermediate / columns)
        else:
            scales = 2 * intermediate + hidden if weights.per_channel else 2 if weights.online else 3
        static = 2 if weights.static_activations else 0
        return experts * (elements + (scales + static) * _SCALE_BYTES + biases)
    if weights.method == "mxfp8":
        return experts * (elements + elements // (weights.group or 32) + biases)
    if weights.method == "nvfp4":
        return experts * (elements // 2 + elements // (weights.group or 16) + 6 * _SCALE_BYTES + biases)
    if weights.method == "gptq":  # the method registers biases whether or not the model has them
        biases = (2 * intermediate + hidden) * dtype_bytes
    up_groups = hidden // weights.group if weights.group else 1
    down_groups = intermediate // weights.group if weights.group else 1
    up = _packed_bytes(2 * intermediate, hidden, up_groups, dtype_bytes, weights)
    down = _packed_bytes(hidden, intermediate, down_groups, dtype_bytes, weights)
    return experts * (up + down + biases)


def _mxfp4_expert_bytes(
    hidden: int, intermediate: int, dtype_bytes: int, weights: MatrixFormat, *, bias: bool, tiles: ExpertTiles
) -> int:
    """4-bit values and an 8-bit scale for each group of inputs, all rounded up to the kernel's tiles."""
    hidden, intermediate = _round_up(hidden, tiles.hidden), _round_up(intermediate, tiles.intermediate)
    up = 2 * intermediate * _round_up(hidden, tiles.inputs)
    down = hidden * _round_up(intermediate, tiles.inputs)
    scales = 3 * hidden * intermediate // (weights.group or 32)
    return (up + down) // 2 + scales + ((2 * intermediate + hidden) * dtype_bytes if bias else 0)


def _round_up(value: int, multiple: int) -> int:
    return ceil(value / multiple) * multiple


def _packed_bytes(width: int, inputs: int, groups: int, dtype_bytes: int, weights: MatrixFormat) -> int:
    """Integers packed into 32-bit words, a scale for each group and output, and zero points where there are."""
    per_word = _WORD_BITS // weights.bits
    words = width * inputs // per_word
    zero_points = groups * (width // per_word) if weights.zero_points else 0
    return (words + zero_points) * 4 + groups * width * dtype_bytes

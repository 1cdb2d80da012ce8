"""compressed-tensors (llm-compressor): groups of modules, each with a scheme of its own.

After `vllm/model_executor/layers/quantization/compressed_tensors/compressed_tensors.py` and the enums of
`compressed_tensors/quantization/quant_args.py`, whose values may be written in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.quantization.floats import MXFP4, MXFP8
from conclave.catalogue.architectures.quantization.integers import group_size
from conclave.catalogue.architectures.quantization.names import rule, unconverted
from conclave.catalogue.shapes import FormatRule, MatrixFormat, WeightFormat

TYPES = ("int", "float")
STRATEGIES = ("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head")
ORDERS = ("group", "weight", "dynamic", "static")
DYNAMIC = "local"
"""The value of `dynamic` beside true and false: only the scales of groups are made while the engine runs (NVFP4)."""
_EVERY_LINEAR = "linear"
_KV_STRATEGIES = ("tensor", "attn_head")
_PLANNED_INTEGERS = (4, 8)
_INTEGERS = range(2, 9)
_SIZE = re.compile("[0-9]{1,9}")


def compressed_tensors(quantization: Fields) -> WeightFormat:
    """The format of every group, and which modules are in it."""
    if quantization.has("sparsity_config") and quantization.required("sparsity_config").texts("targets"):
        raise quantization.engine_refuses(
            "Sparsity support has been removed from compressed-tensors. Please use a model without sparsity "
            "configuration."
        )
    return WeightFormat(
        rules=(*unconverted(quantization, "ignore"), *_targets(quantization)), kv_cache=_kv_cache(quantization)
    )


def _targets(quantization: Fields) -> Iterator[FormatRule]:
    """Rules by name before the rule for all linear layers, as vLLM looks for a module's name before its class."""
    whole: MatrixFormat | None = None
    for _, group in quantization.entries("config_groups"):
        targets = group.texts("targets")
        if len(targets) == 1 and targets[0].endswith("Attention"):
            continue  # the attention's own activations, which belong to the KV cache
        matrices = _matrices(group)
        names = tuple(target for target in targets if target.lower() != _EVERY_LINEAR)
        if names:
            yield rule(group, "targets", names, matrices)
        if len(names) < len(targets):
            whole = matrices
    if whole is not None:
        yield FormatRule(format=whole)


@dataclass(frozen=True)
class _Scheme:
    """How weights or inputs are stored."""

    bits: int
    kind: str
    strategy: str
    symmetric: bool
    group: int | None
    block: tuple[int, int] | None
    is_dynamic: bool

    @property
    def is_nvfp4(self) -> bool:
        shape = (self.kind, self.bits, self.strategy, self.group)
        return shape == ("float", 4, "tensor_group", 16) and self.symmetric

    def is_groups_of_32(self, bits: int) -> bool:
        shape = (self.kind, self.bits, self.strategy, self.group)
        return shape == ("float", bits, "group", 32) and self.symmetric

    def __str__(self) -> str:
        symmetric = "symmetric" if self.symmetric else "asymmetric"
        group = f" of {self.group}" if self.group else ""
        return f"{self.bits}-bit {self.kind}, {symmetric}, strategy {self.strategy}{group}"


def _scheme(fields: Fields) -> _Scheme:
    group = group_size(fields, "group_size", 0) if fields.has("group_size") else None
    usual = "group" if group else "channel" if fields.has("group_size") else "tensor"
    strategy = fields.choice("strategy", STRATEGIES, usual)
    if strategy in ("group", "tensor_group") and group is None:
        raise fields.refuse("group_size", f"a size above 0 for the strategy {strategy}")
    return _Scheme(
        bits=fields.size("num_bits", 8),
        kind=fields.choice("type", TYPES, "int"),
        strategy=strategy,
        symmetric=fields.flag("symmetric", True),
        group=group,
        block=_block(fields) if strategy == "block" else None,
        is_dynamic=_is_dynamic(fields),
    )


def _is_dynamic(fields: Fields) -> bool:
    if not fields.is_text("dynamic"):
        return fields.flag("dynamic")
    if fields.text("dynamic").lower() != DYNAMIC:
        raise fields.refuse("dynamic", f"true, false or {DYNAMIC!r}")
    return True


def _block(fields: Fields) -> tuple[int, int]:
    """Two sizes, which older files write as "128x128"."""
    sizes: tuple[int, ...]
    if fields.is_text("block_structure"):
        sizes = tuple(int(size) for size in fields.text("block_structure").split("x") if _SIZE.fullmatch(size))
    else:
        sizes = fields.sizes("block_structure")
    if len(sizes) != 2 or 0 in sizes:
        raise fields.refuse("block_structure", "two sizes, for instance [128, 128]")
    return sizes[0], sizes[1]


def _matrices(group: Fields) -> MatrixFormat:
    """The first of vLLM's schemes that takes these weights and inputs, in its order."""
    fields = group.required("weights")
    _check_order(fields)
    weights, given = _scheme(fields), group.nested("input_activations")
    inputs = _scheme(given) if given and given.field_names() else None
    if weights.is_nvfp4:
        if inputs is not None and not inputs.is_nvfp4:
            raise group.engine_refuses(
                "For NVFP4 weights, input quantization must also be NVFP4 format, None for NVFP4A16"
            )
        return MatrixFormat(method="nvfp4", bits=4, group=16, static_activations=inputs is not None)
    if weights.is_groups_of_32(4):
        return MXFP4
    if weights.is_groups_of_32(8) and fields.text("scale_dtype").removeprefix("torch.") == "uint8":
        return MXFP8
    if weights.kind == "int" and inputs is None:
        return _weights_only(fields, weights)
    if weights.kind == "int" and (weights.bits != 8 or inputs is None or group.has("output_activations")):
        raise group.not_planned(f"compressed-tensors' {weights} with inputs of {inputs}")
    if weights.kind == "int" or weights.bits == 8:
        return _eight_bits(group, weights, inputs)
    raise group.engine_refuses(_no_scheme(weights, inputs))


def _check_order(weights: Fields) -> None:
    is_flag = weights.has("actorder") and not weights.is_text("actorder")
    order = "group" if is_flag and weights.flag("actorder") else ""
    if weights.is_text("actorder"):
        order = weights.choice("actorder", ORDERS, "")
    if order in ("group", "dynamic"):
        raise weights.engine_refuses(
            f"Compressed-tensors group/dynamic activation ordering (actorder={order!r}) is no longer supported. Use a "
            "checkpoint with static/weight activation ordering or without activation ordering."
        )


def _weights_only(fields: Fields, weights: _Scheme) -> MatrixFormat:
    """Packed integers beside 16-bit inputs."""
    if weights.strategy not in ("group", "channel") or weights.bits not in _INTEGERS:
        raise fields.engine_refuses(_no_scheme(weights, None))
    if weights.bits not in _PLANNED_INTEGERS:
        raise fields.not_planned(f"compressed-tensors' {weights}")
    return MatrixFormat(method="packed", bits=weights.bits, group=weights.group, zero_points=not weights.symmetric)


def _eight_bits(group: Fields, weights: _Scheme, inputs: _Scheme | None) -> MatrixFormat:
    """fp8 and int8: a scale a tensor, output channel or, for fp8, block."""
    strategies = ("tensor", "channel", "block") if weights.kind == "float" else ("tensor", "channel")
    if weights.strategy not in strategies or not weights.symmetric:
        raise group.engine_refuses(_no_scheme(weights, inputs))
    return MatrixFormat(
        method="fp8" if weights.kind == "float" else "int8",
        block=weights.block,
        per_channel=weights.strategy == "channel",
        static_activations=inputs is not None and not inputs.is_dynamic,
    )


def _no_scheme(weights: _Scheme, inputs: _Scheme | None) -> str:
    return f"No compressed-tensors compatible scheme was found for weights of {weights} and inputs of {inputs}"


def _kv_cache(quantization: Fields) -> Literal["auto", "fp8"]:
    scheme = quantization.nested("kv_cache_scheme")
    if scheme is None:
        return "auto"
    kind, bits = scheme.text("type"), scheme.size("num_bits", 0, least=0)
    if (kind, bits) != ("float", 8):
        raise scheme.engine_refuses(
            f"Currently supported kv cache quantization is num_bits=8, type=float, however received num_bits={bits}, "
            f"type={kind:.20}"
        )
    strategy = scheme.choice("strategy", STRATEGIES, "tensor")
    if strategy not in _KV_STRATEGIES:
        raise scheme.engine_refuses(
            f"Invalid strategy for compressed-tensors KV cache. Expected strategies: {', '.join(_KV_STRATEGIES)}, "
            f"found strategy: {strategy}"
        )
    if not scheme.flag("symmetric", True):
        raise scheme.engine_refuses("Only support symmetric scaling factor for compressed-tensors KV cache.")
    return "fp8"

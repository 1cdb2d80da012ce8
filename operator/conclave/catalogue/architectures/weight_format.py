"""Reads `quantization_config`: how a checkpoint stores its converted weights.

Covers fp8 (per tensor, channel and block; DeepSeek's, fbgemm's, compressed-tensors', ModelOpt's), AWQ, GPTQ,
mxfp4 and compressed-tensors' packed integers and nvfp4. Used by the readers only.
"""

from __future__ import annotations

from typing import Any

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.excluded import excluded_modules
from conclave.catalogue.shapes import WeightFormat
from conclave.errors import InvalidInput

_KNOWN = "fp8, fbgemm_fp8, awq, gptq, mxfp4, compressed-tensors or modelopt"


def read_weight_format(fields: Fields) -> WeightFormat | None:
    """The checkpoint's format, or None for plain weights.

    Raises InvalidInput for a method that the planner cannot size.
    """
    for name in ("quantization_config", "compression_config"):
        nested = fields.nested(name)
        if nested is not None:
            return _read(nested).model_copy(update={"declared": nested.text("quant_method").lower()})
    return None


def _read(quantization: Fields) -> WeightFormat:
    method = quantization.text("quant_method").lower()
    excluded = _excluded(quantization)
    if method == "fp8":
        return _fp8(quantization, excluded)
    if method == "fbgemm_fp8":
        return WeightFormat(method="fp8", per_channel=True, excluded=excluded)
    if method in ("awq", "awq_marlin"):
        bits = _bits(quantization, "bits" if quantization.has("bits") else "w_bit", (4,))
        group = quantization.size("group_size" if quantization.has("group_size") else "q_group_size", 128)
        return WeightFormat(method="awq", bits=bits, group=group, zero_points=True, excluded=excluded)
    if method in ("gptq", "gptq_marlin"):
        bits, group = _bits(quantization, "bits", (4, 8)), quantization.size("group_size", 128, least=-1)
        return WeightFormat(
            method="gptq",
            bits=bits,
            group=group if group > 0 else None,
            activation_order=quantization.flag("desc_act"),
            zero_points=True,
            excluded=excluded,
        )
    if method == "mxfp4":
        return WeightFormat(method="mxfp4", bits=4, group=32, excluded=excluded)
    if method == "compressed-tensors":
        return _compressed(quantization, excluded)
    if method == "modelopt":
        return _modelopt(quantization, excluded)
    raise quantization.refuse("quant_method", _KNOWN)


def _bits(quantization: Fields, name: str, kernels: tuple[int, ...]) -> int:
    """Width of a weight, one of those that vLLM has a kernel for."""
    bits = quantization.size(name, 4)
    if bits not in kernels:
        raise quantization.refuse(name, " or ".join(map(str, kernels)))
    return bits


def _excluded(quantization: Fields) -> tuple[str, ...]:
    for name in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"):
        if quantization.has(name):
            named = quantization.texts(name)
            try:
                excluded_modules(named)
            except InvalidInput as error:
                expected = f"names, globs or regular expressions without look-around and back-references: {error}"
                raise quantization.refuse(name, expected) from error
            return named
    return ()


def _fp8(quantization: Fields, excluded: tuple[str, ...]) -> WeightFormat:
    block = quantization.sizes("weight_block_size")
    if block and (len(block) != 2 or 0 in block):
        raise quantization.refuse("weight_block_size", "two sizes, for instance [128, 128]")
    return WeightFormat(
        method="fp8",
        block=(block[0], block[1]) if block else None,
        static_activations=quantization.text("activation_scheme", "dynamic") == "static",
        excluded=excluded,
    )


def _compressed(quantization: Fields, excluded: tuple[str, ...]) -> WeightFormat:
    groups = quantization.objects("config_groups")
    if not groups:
        raise quantization.refuse("config_groups", "an object with at least one group")
    weights = groups[0].required("weights")
    bits, kind, strategy = weights.size("num_bits"), weights.text("type"), weights.text("strategy", "tensor")
    inputs = groups[0].nested("input_activations")
    traits: dict[str, Any] = {
        "excluded": excluded,
        "static_activations": inputs is not None and not inputs.flag("dynamic"),
        "fp8_kv_cache": quantization.has("kv_cache_scheme")
        and quantization.required("kv_cache_scheme").size("num_bits") == 8,
    }
    if kind == "float" and bits == 8:
        block = weights.sizes("block_structure")
        if len(block) == 2:
            return WeightFormat(method="fp8", block=(block[0], block[1]), **traits)
        return WeightFormat(method="fp8", per_channel=strategy == "channel", **traits)
    if kind == "float" and bits == 4:
        return WeightFormat(method="nvfp4", bits=4, group=weights.size("group_size", 16), **traits)
    if kind == "int" and inputs is not None and bits == 8:
        return WeightFormat(method="int8", per_channel=strategy == "channel", **traits)
    if kind == "int" and bits in (4, 8):
        group = weights.size("group_size", least=-1) if weights.has("group_size") else -1
        return WeightFormat(
            method="packed",
            bits=bits,
            group=group if group > 0 else None,
            zero_points=not weights.flag("symmetric", True),
            excluded=excluded,
            fp8_kv_cache=traits["fp8_kv_cache"],
        )
    raise weights.refuse("num_bits", f"8-bit or 4-bit weights of type int or float, not {bits}-bit {kind!r}")


def _modelopt(quantization: Fields, excluded: tuple[str, ...]) -> WeightFormat:
    algorithm = quantization.text("quant_algo").upper()
    traits: dict[str, Any] = {
        "excluded": excluded,
        "static_activations": True,
        "fp8_kv_cache": quantization.text("kv_cache_quant_algo").upper() == "FP8",
    }
    if algorithm == "FP8":
        return WeightFormat(method="fp8", **traits)
    if algorithm in ("NVFP4", "W4A16_NVFP4"):
        return WeightFormat(method="nvfp4", bits=4, group=quantization.size("group_size", 16), **traits)
    raise quantization.refuse("quant_algo", "FP8 or NVFP4")

"""AMD's Quark: a scheme for all modules, and others for modules or for kinds of modules.

After `vllm/model_executor/layers/quantization/quark/quark.py`. Its KV cache stays in the model's own type: vLLM reads
the scales and does not change the type.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.quantization.names import rule, unconverted
from conclave.catalogue.shapes import FormatRule, MatrixFormat, WeightFormat

_QUERIES = "*q_proj"
"""Its outputs are let go where the keys' and values' are those of the KV cache."""
_CHANNEL_SCHEMES = ("per_tensor", "per_channel")
_MX = ("fp4", "fp6_e3m2", "fp6_e2m3", "mxfp4")


def quark(quantization: Fields) -> WeightFormat:
    """Rules for single modules before the scheme of all."""
    if not quantization.has("export"):
        raise quantization.engine_refuses(
            "The export key should be included in the configurations of Quark quantized model"
        )
    if quantization.entries("layer_type_quant_config"):
        raise quantization.not_planned("Quark's layer_type_quant_config")
    rules = (*unconverted(quantization, "exclude"), *_layer_rules(quantization))
    scheme = quantization.nested("global_quant_config")
    if scheme is None or not scheme.has("weight"):
        return WeightFormat(rules=rules)
    return WeightFormat(rules=(*rules, FormatRule(format=_matrices(scheme))))


def _layer_rules(quantization: Fields) -> Iterator[FormatRule]:
    """In the order of the file, where the first name that matches decides."""
    caches = quantization.required("export").texts("kv_cache_group")
    entries = quantization.entries("layer_quant_config")
    of_cache = {name for name, _ in entries if any(fnmatchcase(name, pattern) for pattern in caches)}
    if caches and entries:
        _check_cache(quantization, [scheme for name, scheme in entries if name in of_cache])
        of_cache.add(_QUERIES)
    for name, scheme in entries:
        matrices = _matrices(scheme, has_cache=name in of_cache) if scheme.has("weight") else None
        yield rule(quantization, "layer_quant_config", (name,), matrices)


def _check_cache(quantization: Fields, schemes: list[Fields]) -> None:
    """The outputs of the key and value projections are what the KV cache holds."""
    if not schemes:
        raise quantization.engine_refuses(
            "The Quark quantized model has the kv_cache_group parameter setting, but no kv_cache quantization settings "
            "were found in the quantization configuration."
        )
    outputs = schemes[0].nested("output_tensors")
    if outputs is None:
        raise schemes[0].engine_refuses("The kv_cache quantization configuration is empty.")
    dtype, kind = outputs.text("dtype"), outputs.text("qscheme")
    if dtype != "fp8_e4m3":
        raise outputs.engine_refuses(
            f"Currently supported kv cache quantization is dtype=fp8_e4m3, however received {dtype:.20}"
        )
    if kind != "per_tensor":
        raise outputs.engine_refuses(
            f"Only support per-tensor scaling factor for quark KV cache. Expected qscheme: per_tensor, found qscheme: "
            f"{kind:.20}"
        )


def _matrices(scheme: Fields, *, has_cache: bool = False) -> MatrixFormat:
    if scheme.has("bias") or (scheme.has("output_tensors") and not has_cache):
        raise scheme.engine_refuses("Currently, Quark models with output_tensors and bias quantized are not supported")
    if scheme.is_list("weight") or scheme.is_list("input_tensors"):
        raise scheme.not_planned("Quark's schemes of several stages")
    weights, inputs = scheme.required("weight"), scheme.nested("input_tensors")
    dtype, kind = weights.text("dtype"), weights.text("qscheme")
    if dtype.startswith(_MX):
        raise scheme.not_planned(f"Quark's {dtype:.20} weights")
    if dtype in ("int4", "uint4") and inputs is None:
        for name in ("group_size", "symmetric"):
            if not weights.has(name):
                raise weights.engine_refuses(f"Quark W4A16 INT4/UINT4 configs must specify weight.{name}")
        return MatrixFormat(method="packed", bits=4, group=weights.size("group_size"), zero_points=True)
    static = inputs is not None and not inputs.flag("is_dynamic")
    if dtype == "fp8_e4m3" and kind == "per_block" and weights.sizes("block_size") == (128, 128):
        return MatrixFormat(method="fp8", block=(128, 128))
    if dtype in ("fp8_e4m3", "int8") and kind in _CHANNEL_SCHEMES and inputs is not None:
        return MatrixFormat(
            method="fp8" if dtype == "fp8_e4m3" else "int8",
            per_channel=kind == "per_channel",
            static_activations=static,
        )
    raise scheme.engine_refuses(f"No quark compatible scheme was found: weights of {dtype:.20} {kind:.20}")

"""NVIDIA's ModelOpt: one algorithm for all modules, or one for each (MIXED_PRECISION), and a type of the KV cache.

Its older releases write `hf_quant_config.json` beside config.json, where all is below `quantization`; newer ones write
config.json itself. After `vllm/model_executor/layers/quantization/modelopt.py` and `utils/torch_utils.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.quantization.floats import MXFP8
from conclave.catalogue.architectures.quantization.names import HEAD, rule, unconverted
from conclave.catalogue.shapes import FormatRule, MatrixFormat, WeightFormat

MODELOPT = "modelopt"
ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4", "MXFP8")
MIXED = "MIXED_PRECISION"
OLDER_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4")
"""Those that vLLM takes from hf_quant_config.json."""
_OLDER_NVFP4_FIELDS = ("group_size", "kv_cache_quant_algo", "exclude_modules")
_CACHES: dict[str, Literal["fp8", "nvfp4"]] = {"fp8": "fp8", "nvfp4": "nvfp4"}


def is_older(quantization: Fields) -> bool:
    """Whether this is what hf_quant_config.json holds, which names its tool and no method."""
    return quantization.has("producer") and not quantization.has("quant_method")


def modelopt(quantization: Fields) -> WeightFormat | None:
    """The format; None where hf_quant_config.json says that nothing is quantized, or only the KV cache."""
    inner = quantization.nested("quantization") or quantization
    algorithm = inner.text("quant_algo").upper()
    if is_older(quantization):
        if not algorithm:
            return None
        _check_older(quantization, inner, algorithm)
    if not algorithm:
        raise inner.engine_refuses("Missing 'quant_algo' in quantization config")
    if algorithm not in (*ALGORITHMS, MIXED):
        raise inner.engine_refuses(
            f"ModelOpt currently only supports: {', '.join((*ALGORITHMS, MIXED))}, and quant_algo is {algorithm:.40}"
        )
    stay = unconverted(inner, "exclude_modules") if inner is not quantization else unconverted(quantization, "ignore")
    if algorithm == MIXED:
        return WeightFormat(
            rules=(*stay, *_layer_rules(inner)), declared=f"{MODELOPT}_mixed", kv_cache=_kv_cache(quantization, inner)
        )
    matrices = _matrices(inner, algorithm)
    # Unlike other tools' configs, this one has to name the output head where it stays.
    whole = (FormatRule(names=HEAD, format=matrices), FormatRule(format=matrices))
    return WeightFormat(rules=(*stay, *whole), declared=MODELOPT, kv_cache=_kv_cache(quantization, inner))


def _check_older(quantization: Fields, inner: Fields, algorithm: str) -> None:
    producer = quantization.required("producer").text("name")
    if producer != MODELOPT:
        raise quantization.engine_refuses(
            f"it names no quant_method, and the producer {producer!r:.40} is not modelopt"
        )
    if algorithm not in OLDER_ALGORITHMS:
        raise inner.engine_refuses(f"Unknown ModelOpt quant algo: {algorithm:.40}")
    missing = [name for name in _OLDER_NVFP4_FIELDS if not inner.mentions(name)]
    if algorithm == "NVFP4" and missing:
        raise inner.engine_refuses(
            f"NVFP4 quantization requires the following fields in hf_quant_config.json: {missing}"
        )


def _matrices(fields: Fields, algorithm: str) -> MatrixFormat:
    if algorithm == "MXFP8":
        return MXFP8
    if algorithm in ("NVFP4", "W4A16_NVFP4"):
        return MatrixFormat(method="nvfp4", bits=4, group=fields.size("group_size", 16), static_activations=True)
    return MatrixFormat(
        method="fp8",
        per_channel=algorithm == "FP8_PER_CHANNEL_PER_TOKEN",
        block=(128, 128) if algorithm == "FP8_PB_WO" else None,
        static_activations=algorithm == "FP8",
    )


def _layer_rules(fields: Fields) -> Iterator[FormatRule]:
    """The modules of each format; a module that is not listed stays as it is."""
    modules: dict[MatrixFormat, list[str]] = {}
    for name, layer in fields.entries("quantized_layers"):
        algorithm = layer.text("quant_algo").upper()
        if algorithm not in ALGORITHMS:
            raise layer.not_planned(f"ModelOpt's {algorithm:.40}")
        modules.setdefault(_matrices(layer, algorithm), []).append(name)
    if not modules:
        raise fields.engine_refuses(
            "MIXED_PRECISION quant_algo requires a non-empty 'quantized_layers' mapping in the quantization config."
        )
    for matrices, names in modules.items():
        yield rule(fields, "quantized_layers", names, matrices)


def _kv_cache(quantization: Fields, inner: Fields) -> Literal["auto", "fp8", "nvfp4"]:
    """In vLLM's order of places; a type that it does not know leaves the cache in the model's own type."""
    for name in ("kv_cache_scheme", "kv_cache_quant_algo"):
        for fields in (inner, quantization):
            if not fields.has(name):
                continue
            if fields.is_text(name):
                return _CACHES.get(fields.text(name).lower(), "auto")
            scheme = fields.required(name)
            bits = scheme.size("num_bits", 0, least=0) if scheme.text("type") == "float" else 0
            if bits == 8 and scheme.has("dynamic") and not scheme.flag("dynamic"):
                return "fp8"
            return "nvfp4" if bits == 4 else "auto"
    return "auto"

"""Reads `quantization_config`: how a checkpoint stores its converted weights, or why nothing here serves it.

What vLLM 0.32 refuses is refused with vLLM's reason; what it serves and the planner cannot size is named as that.
Used by the readers only; `quantization/` has one module for each tool that writes such configs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.quantization.auto_round import auto_round
from conclave.catalogue.architectures.quantization.compressed_tensors import compressed_tensors
from conclave.catalogue.architectures.quantization.floats import fp8, mxfp4, mxfp8
from conclave.catalogue.architectures.quantization.integers import awq, gptq
from conclave.catalogue.architectures.quantization.modelopt import is_older, modelopt
from conclave.catalogue.architectures.quantization.quark import quark
from conclave.catalogue.shapes import WeightFormat

READERS: Mapping[str, Callable[[Fields], WeightFormat | None]] = {
    "fp8": fp8,
    "awq": awq,
    "awq_marlin": awq,
    "auto_awq": awq,
    "gptq": gptq,
    "gptq_marlin": gptq,
    "auto_gptq": gptq,
    "mxfp4": mxfp4,
    "gpt_oss_mxfp4": mxfp4,
    "mxfp8": mxfp8,
    "compressed-tensors": compressed_tensors,
    "modelopt": modelopt,
    "modelopt_fp4": modelopt,
    "modelopt_mxfp8": modelopt,
    "modelopt_mixed": modelopt,
    "quark": quark,
    "auto-round": auto_round,
    "inc": auto_round,
}
"""`quant_method` of the checkpoints that can be planned."""
NOT_PLANNED = (
    "deepseek_v4_fp8",
    "experts_int8",
    "fp8_per_block",
    "fp8_per_channel",
    "fp8_per_tensor",
    "humming",
    "int8_per_channel_weight_only",
    "moe_wna16",
    "nvfp4_per_token",
    "online",
    "torchao",
)
"""Methods that vLLM serves and no reader knows."""
DEPRECATED = ("fbgemm_fp8", "fp_quant")
"""Methods that vLLM starts only with --allow-deprecated-quantization, which is not on the list of arguments."""


def read_weight_format(fields: Fields) -> WeightFormat | None:
    """The checkpoint's format, or None for plain weights.

    Raises InvalidInput for nonsense, and NotServed for what vLLM refuses or the planner cannot size.
    """
    for name in ("quantization_config", "compression_config"):
        nested = fields.nested(name)
        if nested is not None:
            return _read(nested)
    return None


def _read(quantization: Fields) -> WeightFormat | None:
    if is_older(quantization):
        return modelopt(quantization.of_file("hf_quant_config.json"))
    method = quantization.text("quant_method").lower().replace("compressed_tensors", "compressed-tensors")
    if not method:
        raise quantization.engine_refuses("quant_method is missing, so that the weights are taken for unquantized")
    if method in DEPRECATED:
        raise quantization.engine_refuses(
            f"The quantization method {method} is deprecated and will be removed in future versions of vLLM."
        )
    if method in NOT_PLANNED:
        raise quantization.not_planned(f"quantization method {method}")
    reader = READERS.get(method)
    if reader is None:
        raise quantization.engine_refuses(f"Unknown quantization method: {method:.40}")
    weights = reader(quantization)
    return weights if weights is None or weights.declared else weights.model_copy(update={"declared": method})

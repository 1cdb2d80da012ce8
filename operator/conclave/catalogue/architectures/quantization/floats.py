"""fp8 as DeepSeek and others write it, mxfp8 (MiniMax), and gpt-oss' experts in mxfp4.

After `vllm/model_executor/layers/quantization/{fp8,modelopt,mxfp4}.py`.
"""

from __future__ import annotations

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.quantization.names import unconverted
from conclave.catalogue.shapes import FormatRule, MatrixFormat, WeightFormat

MXFP8 = MatrixFormat(method="mxfp8", bits=8, group=32)
MXFP4 = MatrixFormat(method="mxfp4", bits=4, group=32)


def fp8(quantization: Fields) -> WeightFormat:
    """fp8 with a scale for each tensor or block."""
    if not quantization.has("activation_scheme"):
        raise quantization.engine_refuses(
            "Cannot find any of ['activation_scheme'] in the model's quantization config."
        )
    scheme, block = quantization.text("activation_scheme"), quantization.sizes("weight_block_size")
    if scheme not in ("static", "dynamic"):
        raise quantization.engine_refuses(f"Unsupported activation scheme {scheme:.40}")
    if block and (len(block) != 2 or 0 in block):
        raise quantization.refuse("weight_block_size", "two sizes, for instance [128, 128]")
    if block and scheme == "static":
        raise quantization.engine_refuses(
            "The block-wise quantization only supports dynamic activation scheme for now, but got static activation "
            "scheme."
        )
    if quantization.has("store_dtype"):
        raise quantization.not_planned(f"fp8 with store_dtype {quantization.text('store_dtype'):.40}")
    matrices = MatrixFormat(
        method="fp8", block=(block[0], block[1]) if block else None, static_activations=scheme == "static"
    )
    stay = unconverted(quantization, "ignored_layers", "modules_to_not_convert")
    return WeightFormat(rules=(*stay, FormatRule(format=matrices)))


def mxfp8(quantization: Fields) -> WeightFormat:
    """The format that ModelOpt calls MXFP8, in a config of its own."""
    return WeightFormat(rules=(*unconverted(quantization, "ignored_layers"), FormatRule(format=MXFP8)))


def mxfp4(quantization: Fields) -> WeightFormat:
    """vLLM converts only experts to this format."""
    stay = unconverted(quantization, "modules_to_not_convert", "ignored_layers")
    return WeightFormat(rules=(*stay, FormatRule(names=("experts",), format=MXFP4)))

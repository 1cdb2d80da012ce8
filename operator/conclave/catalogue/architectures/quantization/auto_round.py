"""Intel's AutoRound: packed integers as GPTQ or AWQ store them, and `extra_config` for single modules.

After `vllm/model_executor/layers/quantization/inc/{inc,config_parser}.py` and `inc/schemes`.
"""

from __future__ import annotations

from collections.abc import Iterator

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.quantization.integers import group_size
from conclave.catalogue.architectures.quantization.names import rule
from conclave.catalogue.shapes import FormatRule, MatrixFormat, WeightFormat

_PACKINGS = ("auto_round:auto_gptq", "auto_round:auto_awq")
_UNCONVERTED_BITS = 16
_OTHER_BITS = (2, 3, 5, 6, 7)
_SPECIAL = frozenset("*+?^$()[]{}|\\")
"""A key of extra_config with one of these is a regular expression, which may match anywhere in a name."""


def auto_round(quantization: Fields) -> WeightFormat:
    """Rules for single modules before the format of all."""
    for name in ("bits", "group_size"):
        if not quantization.has(name):
            raise quantization.engine_refuses(f"Cannot find any of ['{name}'] in the model's quantization config.")
    data_type = quantization.text("data_type", "int")
    if data_type != "int":
        raise quantization.not_planned(f"AutoRound's data_type {data_type:.20}")
    rules = tuple(_extra_rules(quantization))
    usual = _matrices(quantization, quantization)
    for name in ("block_name_to_quantize", "to_quant_block_names"):
        if quantization.has(name):
            blocks = quantization.text(name).split(",") if quantization.is_text(name) else quantization.flat_texts(name)
            return WeightFormat(rules=(*rules, rule(quantization, name, blocks, usual)))
    return WeightFormat(rules=(*rules, FormatRule(format=usual)))


def _extra_rules(quantization: Fields) -> Iterator[FormatRule]:
    """Whole names count before regular expressions."""
    entries = sorted(quantization.entries("extra_config"), key=lambda entry: not _SPECIAL.isdisjoint(entry[0]))
    for key, given in entries:
        name = key if _SPECIAL.isdisjoint(key) else f"re:{'' if key.startswith('^') else '.*'}(?:{key})"
        yield rule(quantization, "extra_config", (name,), _matrices(quantization, given))


def _matrices(quantization: Fields, given: Fields) -> MatrixFormat | None:
    """The format of one entry, which takes from the whole what it does not say."""
    bits = given.size("bits", quantization.size("bits"))
    if bits >= _UNCONVERTED_BITS:
        return None
    packing, symmetric = (
        quantization.text("packing_format", _PACKINGS[0]),
        given.flag("sym", quantization.flag("sym", True)),
    )
    if packing not in _PACKINGS:
        raise quantization.engine_refuses(
            f"INC int quantization only supports packing_format in {list(_PACKINGS)}, but found packing_format="
            f"{packing:.40}."
        )
    if bits in _OTHER_BITS:
        raise given.not_planned(f"AutoRound's {bits}-bit weights")
    is_gptq = packing == _PACKINGS[0]
    if is_gptq and (bits not in (4, 8) or not symmetric):
        raise given.engine_refuses(
            f"INC quantization with bits={bits}, sym={symmetric} is not supported. Only 4-bit and 8-bit symmetric "
            "quantization is supported with Marlin kernels."
        )
    if not is_gptq and bits != 4:
        raise given.engine_refuses(f"Unsupported num_bits = {bits}. Supported: 4")
    group = group_size(given, "group_size", quantization.size("group_size", least=-1))
    return MatrixFormat(method="gptq" if is_gptq else "awq", bits=bits, group=group, zero_points=True)

"""AWQ and GPTQ: packed integers with a scale for each group, and GPTQ's `dynamic` rules for single modules.

After `vllm/model_executor/layers/quantization/{auto_awq,auto_gptq}.py` and `utils/gptq_utils.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.architectures.quantization.names import HEAD, rule, unconverted
from conclave.catalogue.shapes import FormatRule, MatrixFormat, WeightFormat

_GPTQ_BITS = (4, 8)
_NO_ORDER = (
    "GPTQ group activation ordering (desc_act=True) is no longer supported. Use a checkpoint with static activation "
    "ordering or desc_act=False"
)


def awq(quantization: Fields) -> WeightFormat:
    """AWQ has one width. The zero points are stored whether or not they are used."""
    bits_name, group_name = _given(quantization, "w_bit", "bits"), _given(quantization, "q_group_size", "group_size")
    _given(quantization, "zero_point")
    bits = quantization.size(bits_name)
    if bits != 4:
        raise quantization.engine_refuses(f"Unsupported num_bits = {bits}. Supported: 4")
    matrices = MatrixFormat(method="awq", bits=4, group=group_size(quantization, group_name), zero_points=True)
    return WeightFormat(rules=(*unconverted(quantization, "modules_to_not_convert"), *_whole(quantization, matrices)))


def gptq(quantization: Fields) -> WeightFormat:
    """GPTQ of 4 or 8 bits. vLLM refuses asymmetric weights, and groups in another order than the inputs."""
    for name in ("bits", "group_size", "desc_act", "sym"):
        _given(quantization, name)
    usual = _gptq(quantization, quantization)
    rules = tuple(_dynamic(quantization))
    if blocks := quantization.flat_texts("modules_in_block_to_quantize"):
        return WeightFormat(rules=(*rules, rule(quantization, "modules_in_block_to_quantize", blocks, usual)))
    return WeightFormat(rules=(*rules, *_whole(quantization, usual)))


def group_size(fields: Fields, name: str, default: int | None = None) -> int | None:
    """Inputs that share a scale; None where a whole column does, which configs write as -1."""
    size = fields.size(name, default, least=-1)
    return size if size > 0 else None


def _gptq(quantization: Fields, given: Fields) -> MatrixFormat:
    """The format of a `dynamic` rule, which takes from the whole what it does not say, or of the whole."""
    bits, symmetric = given.size("bits", quantization.size("bits")), given.flag("sym", quantization.flag("sym"))
    if bits not in _GPTQ_BITS or not symmetric:
        raise given.engine_refuses(f"Unsupported quantization config: bits={bits}, sym={symmetric}")
    group = group_size(given, "group_size", quantization.size("group_size", least=-1))
    if given.flag("desc_act", quantization.flag("desc_act")) and group is not None:
        raise given.engine_refuses(_NO_ORDER)
    return MatrixFormat(method="gptq", bits=bits, group=group, zero_points=True)


def _dynamic(quantization: Fields) -> Iterator[FormatRule]:
    """GPTQModel's rules for single modules: a regular expression, and what differs (`+:`) or that it stays (`-:`)."""
    dynamic = quantization.nested("dynamic") or Fields({})
    for pattern in dynamic.field_names():
        matrices = None if pattern.startswith("-:") else _gptq(quantization, dynamic.required(pattern))
        names = (f"re:{pattern.removeprefix('-:').removeprefix('+:')}",)
        yield rule(quantization, "dynamic", names, matrices)


def _whole(quantization: Fields, matrices: MatrixFormat) -> tuple[FormatRule, ...]:
    """All matrices of the layers, and the output head where the config says so."""
    whole = FormatRule(format=matrices)
    return (FormatRule(names=HEAD, format=matrices), whole) if quantization.flag("lm_head") else (whole,)


def _given(quantization: Fields, *names: str) -> str:
    """The first of the names that the config has; vLLM has no value of its own for these."""
    for name in names:
        if quantization.has(name):
            return name
    raise quantization.engine_refuses(f"Cannot find any of {list(names)} in the model's quantization config.")

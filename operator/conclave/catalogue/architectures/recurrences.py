"""Mixers that keep a state for each request: Mamba, linear attention, short convolutions.

Sizes after `vllm/model_executor/layers/mamba/mamba_utils.py:MambaStateShapeCalculator`. Used by `general_layers.py`.
"""

from __future__ import annotations

from conclave.catalogue.architectures import general_names as names
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.shapes import Recurrence

_HEADS = ("mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "num_heads")
_HEAD_DIM = ("mamba_head_dim", "mamba_d_head", "mamba_headdim", "head_dim")
_STATE = ("ssm_state_size", "mamba_d_state", "state_size")
_GROUPS = ("n_groups", "mamba_n_groups", "mamba_ngroups")
_KERNEL = ("conv_kernel", "mamba_d_conv", "linear_conv_kernel_dim", "short_conv_kernel_size")
_MOST_COPIES = 16
"""Ranks that may each hold a single group of Mamba 2; the group is a small part of what a convolution keeps."""
_EXPAND = ("mamba_expand", "expand")


def recurrence(text: Fields) -> Recurrence:
    """The one kind of state that a config describes. Raises InvalidInput naming the field."""
    hidden = text.size(text.spelled(names.HIDDEN))
    if text.has("linear_num_value_heads"):
        return _gated_delta(text)
    if text.has("linear_attn_config"):
        linear = text.required("linear_attn_config")
        return _delta(linear.size("num_heads"), linear.size("head_dim"), linear.size("short_conv_kernel_size", 4))
    if text.has("linear_num_heads"):
        kernel = text.size(text.spelled(_KERNEL), 4)
        return _delta(text.size("linear_num_heads"), text.size("linear_head_dim"), kernel)
    if text.has("conv_L_cache"):
        width = text.size("conv_dim", hidden)
        return Recurrence(
            projected=3 * width,
            inner=width,
            convolution_elements=width * max(1, text.size("conv_L_cache") - 1),
            sliced=(width,),
        )
    if not any(map(text.has, _STATE)):  # linear attention with the heads of the other layers
        heads = text.size(text.spelled(names.HEADS))
        head_dim = text.size(text.spelled(names.HEAD_DIM), -(-hidden // heads))
        return _delta(heads, head_dim, text.size("short_conv_kernel_size", 4))
    state, kernel = text.size(text.spelled(_STATE)), text.size(text.spelled(_KERNEL), 4)
    heads_name = text.spelled(_HEADS)
    if (
        not text.has(heads_name)
        or text.has("mamba_dt_rank")
        or (text.has("time_step_rank") and not text.has("n_groups"))
    ):
        return _mamba(text, hidden, state, kernel)
    return _mamba2(text, hidden, state, kernel)


def _gated_delta(text: Fields) -> Recurrence:
    """Qwen3-Next's gated delta net."""
    key_heads, value_heads = text.size("linear_num_key_heads"), text.size("linear_num_value_heads")
    key_dim, value_dim = text.size("linear_key_head_dim"), text.size("linear_value_head_dim")
    keys, values = key_heads * key_dim, value_heads * value_dim
    return Recurrence(
        projected=2 * keys + 2 * values + 2 * value_heads,
        inner=values,
        state_elements=value_heads * value_dim * key_dim,
        convolution_elements=(2 * keys + values) * max(1, text.size("linear_conv_kernel_dim", 4) - 1),
        sliced=(key_heads, value_heads),
    )


def _delta(heads: int, head_dim: int, kernel: int) -> Recurrence:
    """Kimi's delta attention, and what is smaller: a state of head_dim x head_dim for each head."""
    width = heads * head_dim
    return Recurrence(
        projected=5 * width + heads,
        inner=width,
        state_elements=width * head_dim,
        convolution_elements=3 * width * max(1, kernel - 1),
        sliced=(heads,),
    )


def _mamba(text: Fields, hidden: int, state: int, kernel: int) -> Recurrence:
    inner = (
        text.size("intermediate_size")
        if text.text("model_type") in ("mamba", "falcon_mamba") and text.has("intermediate_size")
        else hidden * text.size(text.spelled(_EXPAND), 2)
    )
    rank = -(-hidden // 16)
    # From inner to the step and both state vectors, and from the step to inner, beside the two wide ones.
    small = 2 * rank + 3 * state
    return Recurrence(
        projected=2 * inner + -(-small * inner // hidden),
        inner=inner,
        state_elements=inner * state,
        convolution_elements=inner * max(1, kernel - 1),
        sliced=(inner,),
    )


def _mamba2(text: Fields, hidden: int, state: int, kernel: int) -> Recurrence:
    heads, groups = text.size(text.spelled(_HEADS)), text.size(text.spelled(_GROUPS), 1)
    expanded = hidden * text.size(text.spelled(_EXPAND), 2)
    head_dim_name = text.spelled(_HEAD_DIM)
    is_given = (isinstance(text.values.get(head_dim_name), int) and head_dim_name != "head_dim") or (
        text.text("model_type") == "mamba2"
    )
    inner = text.size("mamba_d_ssm", heads * text.size(head_dim_name) if is_given else expanded)
    mixed = inner + 2 * groups * state
    kept = inner + 2 * state * (groups if groups > 1 else _MOST_COPIES)
    return Recurrence(
        projected=inner + mixed + heads,
        inner=inner,
        state_elements=inner * state,
        convolution_elements=kept * max(1, kernel - 1),
        sliced=(heads, *((groups,) if groups > 1 else ())),
    )

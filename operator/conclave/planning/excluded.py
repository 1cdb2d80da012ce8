"""Which modules a quantized checkpoint leaves as they are.

A config names them as the checkpoint does (`modules_to_not_convert`, `ignore`): whole names, parts of names or
`re:` patterns. Called by `weights.py` only; no other module interprets these names.
"""

from __future__ import annotations

import re
from functools import cache

# Checkpoint names below `model.layers.N.` of the matrices that vLLM fuses into one module.
_NAMES = {
    "qkv": (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.qkv_proj",
        "attn.q_proj",
        "norm_attn_norm.attn.Wqkv",
    ),
    "output": ("self_attn.o_proj", "attn.o_proj", "norm_attn_norm.attn.out_proj"),
    "latent_down": ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.fused_qkv_a_proj"),
    "query_up": ("self_attn.q_b_proj", "self_attn.q_proj"),
    "latent_up": ("self_attn.kv_b_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj", "feed_forward.gate_proj"),
    "down": ("mlp.down_proj", "feed_forward.down_proj"),
    "experts": (
        "mlp.experts",
        "mlp.experts.0.gate_proj",
        "block_sparse_moe.experts",
        "block_sparse_moe.experts.0.w1",
        "feed_forward.experts",
        "feed_forward.experts.gate_up_proj",
        "ffn.experts",
        "moe_block.experts",
        "moe_block.experts.0.linear",
    ),
    "shared_gate_up": (
        "mlp.shared_experts.gate_proj",
        "mlp.shared_expert.gate_proj",
        "feed_forward.shared_expert.gate_proj",
    ),
    "shared_down": (
        "mlp.shared_experts.down_proj",
        "mlp.shared_expert.down_proj",
        "feed_forward.shared_expert.down_proj",
    ),
}
_PREFIXES = ("model.layers", "language_model.model.layers", "transformer.blocks")


@cache
def is_excluded(patterns: tuple[str, ...], layer: int, module: str) -> bool:
    """Whether a pattern names the module in that layer."""
    return any(
        _matches(pattern, f"{prefix}.{layer}.{name}")
        for pattern in patterns
        for prefix in _PREFIXES
        for name in _NAMES[module]
    )


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), name) is not None
    if "*" in pattern:
        parts = ".*".join(re.escape(part) for part in pattern.split("*"))
        return re.fullmatch(rf"{parts}(\..*)?", name) is not None
    pattern = pattern.removesuffix(".weight").removesuffix(".")
    return name == pattern or name.startswith(f"{pattern}.") or name.endswith(f".{pattern}") or f".{pattern}." in name

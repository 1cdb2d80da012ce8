"""The states of hybrid models take at least the bytes that vLLM's own calculator gives, and little more."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from conclave.catalogue.facts import read_config
from conclave.catalogue.shapes import Recurrence
from conclave.planning.kv_cache import state_bytes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch and others, while vLLM is imported
CONFIGS = Path(__file__).parents[1] / "data/architectures"
FALCON_H1: dict[str, Any] = {
    "architectures": ["FalconH1ForCausalLM"],
    "model_type": "falcon_h1",
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 44,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 130049,
    "max_position_embeddings": 262144,
    "mamba_d_conv": 4,
    "mamba_d_head": 128,
    "mamba_d_ssm": 3072,
    "mamba_d_state": 256,
    "mamba_n_groups": 1,
    "mamba_n_heads": 24,
}
FALCON_MAMBA: dict[str, Any] = {
    "architectures": ["FalconMambaForCausalLM"],
    "model_type": "falcon_mamba",
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 64,
    "state_size": 16,
    "conv_kernel": 4,
    "vocab_size": 65024,
}
LFM2: dict[str, Any] = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "hidden_size": 2048,
    "intermediate_size": 12288,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "conv_L_cache": 3,
    "vocab_size": 65536,
}
NEMOTRON = "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.json"
STATES: list[tuple[str, str | dict[str, Any], str, dict[str, int]]] = [
    (
        "Mamba 2 in groups",
        NEMOTRON,
        "mamba2_state_shape",
        {
            "intermediate_size": 4096,
            "n_groups": 8,
            "num_heads": 64,
            "head_dim": 64,
            "state_size": 128,
            "conv_kernel": 4,
        },
    ),
    (
        "Mamba 2 of one group",
        FALCON_H1,
        "mamba2_state_shape",
        {
            "intermediate_size": 3072,
            "n_groups": 1,
            "num_heads": 24,
            "head_dim": 128,
            "state_size": 256,
            "conv_kernel": 4,
        },
    ),
    ("Mamba", FALCON_MAMBA, "mamba1_state_shape", {"intermediate_size": 8192, "state_size": 16, "conv_kernel": 4}),
    (
        "a gated delta net",
        "Qwen--Qwen3.5-35B-A3B.json",
        "gated_delta_net_state_shape",
        {"num_k_heads": 16, "num_v_heads": 32, "head_k_dim": 128, "head_v_dim": 128, "conv_kernel_size": 4},
    ),
    ("Kimi's delta attention", "moonshotai--Kimi-K3.json", "kda_state_shape", {"num_heads": 96, "head_dim": 128}),
    ("a short convolution", LFM2, "short_conv_state_shape", {"intermediate_size": 2048, "conv_kernel": 3}),
]


def recurrence_of(model: str | dict[str, Any]) -> Recurrence:
    config = model if isinstance(model, dict) else json.loads((CONFIGS / model).read_text(encoding="utf-8"))
    return next(layer.recurrence for layer in read_config(config).layers if layer.recurrence)


@pytest.mark.parametrize(("model", "method", "sizes"), [row[1:] for row in STATES], ids=[row[0] for row in STATES])
@pytest.mark.parametrize("tensor", [1, 4])
def test_a_state_is_as_large_as_vllm_says(
    model: str | dict[str, Any], method: str, sizes: dict[str, int], tensor: int
) -> None:
    from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator

    shapes = getattr(MambaStateShapeCalculator, method)(tp_world_size=tensor, **sizes)
    convolution, states = prod(shapes[0]) * 2, sum(prod(shape) * 4 for shape in shapes[1:])
    assert convolution + states <= state_bytes(recurrence_of(model), tensor, 2) <= 1.1 * (convolution + states)

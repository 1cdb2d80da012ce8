"""Directories of weights whose headers are real and whose data is a hole: any size, no disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conclave_weights.files.headers import DTYPE_BITS, write_header

GRANITE: dict[str, Any] = {
    "architectures": ["GraniteMoeForCausalLM"],
    "model_type": "granitemoe",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "num_local_experts": 16,
    "num_experts_per_tok": 4,
    "vocab_size": 49152,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
"""No reader knows it, and the engine has its class."""
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def granite_tensors(layers: int = 3) -> dict[str, tuple[str, tuple[int, ...]]]:
    """As its publisher names and shapes them."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": ("BF16", (49152, 2048))}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        found |= {
            f"{prefix}.self_attn.q_proj.weight": ("BF16", (2048, 2048)),
            f"{prefix}.self_attn.k_proj.weight": ("BF16", (512, 2048)),
            f"{prefix}.self_attn.v_proj.weight": ("BF16", (512, 2048)),
            f"{prefix}.self_attn.o_proj.weight": ("BF16", (2048, 2048)),
            f"{prefix}.block_sparse_moe.input_linear.weight": ("BF16", (16, 2048, 2048)),
            f"{prefix}.block_sparse_moe.output_linear.weight": ("BF16", (16, 2048, 1024)),
            f"{prefix}.block_sparse_moe.router.layer.weight": ("BF16", (16, 2048)),
            f"{prefix}.input_layernorm.weight": ("BF16", (2048,)),
            f"{prefix}.post_attention_layernorm.weight": ("BF16", (2048,)),
        }
    return found | {"model.norm.weight": ("BF16", (2048,))}


def size_bytes(tensors: Tensors) -> int:
    """Of the data."""
    return sum(math.prod(shape) * DTYPE_BITS[dtype] // 8 for dtype, shape in tensors.values())


def write_weights(root: Path, config: Mapping[str, Any] = GRANITE, tensors: Tensors | None = None) -> Path:
    """A directory that an engine would read: config.json, a tokenizer, one file of weights and its index."""
    stored = granite_tensors() if tensors is None else tensors
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (root / "tokenizer.json").write_text("{}", encoding="utf-8")
    header = write_header(stored)
    with (root / "model-1.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size_bytes(stored))
    write_index(root, stored)
    return root


def write_index(root: Path, tensors: Tensors) -> None:
    """The index file alone."""
    index = {
        "metadata": {"total_size": size_bytes(tensors)},
        "weight_map": dict.fromkeys(tensors, "model-1.safetensors"),
    }
    (root / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

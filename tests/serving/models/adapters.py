"""Adapters of PEFT for all projections of a tiny checkpoint's attention, with the names of its official layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tools.tiny_checkpoint import ARCHITECTURES

LORA_RANK = 8
SPLIT = {"q_proj": "query", "k_proj": "key_value", "v_proj": "key_value", "o_proj": "hidden"}
PROJECTIONS = {
    "mixtral": ("model.layers.{}.self_attn", SPLIT),
    "dbrx": ("transformer.blocks.{}.norm_attn_norm.attn", {"Wqkv": "query_key_value", "out_proj": "hidden"}),
    "grok-1": ("model.layers.{}.attn", SPLIT),
    "phi-3.5-moe": ("model.layers.{}.self_attn", SPLIT),
}
"""The parent of the projections, and the rows of each."""


def make_adapter(model: str, path: Path) -> Path:
    """Write it into the new directory `path` and return that; all its weights are 0.1."""
    sizes, (parent, projections) = ARCHITECTURES[model].sizes, PROJECTIONS[model]
    extents = sizes.dimensions()
    tensors = {}
    for layer in range(sizes.layers):
        for projection, rows in projections.items():
            name = f"base_model.model.{parent.format(layer)}.{projection}"
            tensors[f"{name}.lora_A.weight"] = torch.full((LORA_RANK, extents["hidden"]), 0.1)
            tensors[f"{name}.lora_B.weight"] = torch.full((extents[rows], LORA_RANK), 0.1)
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": LORA_RANK, "lora_alpha": LORA_RANK, "target_modules": list(projections)}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path

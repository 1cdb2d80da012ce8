"""Writes a tiny random LoRA adapter, as PEFT saves one, for a checkpoint of tools/tiny_checkpoint.py.

The same checkpoint, rank and seed give the same bytes. Used by the tests: `python tools/tiny_adapter.py BASE PATH`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from conclave_weights.files.headers import read_header

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_adapter(base: Path, path: Path, *, rank: int = 8, alpha: int = 16, seed: int = 0) -> Path:
    """Write an adapter of all attention and dense projections of `base` into the directory `path` and return it."""
    random = np.random.Generator(np.random.PCG64(seed))
    tensors: dict[str, np.ndarray] = {}
    headers = {name: header for shard in base.glob("*.safetensors") for name, header in read_header(shard).items()}
    for name, header in sorted(headers.items()):
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] not in TARGETS:
            continue
        outputs, inputs = header.shape
        # A change of about the size of the weights themselves, so that other tokens are said.
        down = random.standard_normal((rank, inputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
        up = random.standard_normal((outputs, rank), dtype=np.float32) / np.float32(np.sqrt(rank) * alpha / rank)
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    if not tensors:
        raise ValueError(f"{base} has none of {', '.join(TARGETS)}; expected a checkpoint with split projections")
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(TARGETS),
    }
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(make_adapter(arguments.base, arguments.path, rank=arguments.rank, seed=arguments.seed))


if __name__ == "__main__":
    main()

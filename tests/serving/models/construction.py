"""Program: builds models in several ways, one worker of a group, and writes what came of it.

Started by `test_construction.py`, once a rank. No engine: under expert parallel, fp8 and LoRA nothing is loaded but
the adapters, for vLLM's CPU build can build these, but has no kernels for them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ATTENTION = ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"]
WAYS: dict[str, dict[str, Any]] = {
    "expert parallel": {"enable_expert_parallel": True},
    "fp8": {"quantization": "fp8"},
    # vLLM's CPU build cannot wrap experts.
    "lora": {"enable_lora": True, "max_lora_rank": 8, "lora_target_modules": ATTENTION},
    "loaded": {"load_format": "safetensors"},
    "one key-value head": {"load_format": "safetensors"},
}


def main() -> None:
    """Arguments: rank, ranks, port, file of {model: {way: checkpoint, "adapter": path}}, file for the answer."""
    rank, ranks, port = map(int, sys.argv[1:4])
    checkpoints, answer = json.loads(Path(sys.argv[4]).read_text()), Path(sys.argv[5])
    os.environ["VLLM_DIST_IDENT"] = str(port)

    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    torch.set_num_threads(1)
    built: dict[str, dict[str, Any]] = {}
    is_joined = False
    for model, paths in checkpoints.items():
        built[model] = {}
        for way, options in WAYS.items():
            arguments = EngineArgs(
                model=paths[way],
                enforce_eager=True,
                tensor_parallel_size=ranks,
                distributed_executor_backend="mp",
                dtype="bfloat16",
                max_model_len=512,
                max_num_seqs=8,
                **({"load_format": "dummy"} | options),
            )
            config = arguments.create_engine_config()
            with set_current_vllm_config(config):
                if not is_joined:
                    init_distributed_environment(
                        ranks, rank, f"tcp://127.0.0.1:{port}", local_rank=rank, backend="gloo"
                    )
                    initialize_model_parallel(ranks, 1)
                    is_joined = True
                with set_default_torch_dtype(config.model_config.dtype), torch.device("cpu"):
                    made = initialize_model(config)
                built[model][way] = REPORTS[way](made, config, paths["adapter"])
    answer.write_text(json.dumps(built))


def experts_of(model: Any, config: Any, adapter: str) -> list[dict[str, Any]]:
    """Of each layer: the global experts on this rank, and what one of them is allocated."""
    return [
        {
            "experts": [expert for expert, local in enumerate(module.expert_map.tolist()) if local >= 0],
            "w13": list(module.routed_experts.w13_weight.shape),
            "w2": list(module.routed_experts.w2_weight.shape),
        }
        for name, module in model.named_modules()
        if name.endswith(".experts")
    ]


def methods_of(model: Any, config: Any, adapter: str) -> dict[str, list[str]]:
    """How each kind of layer is quantized, by the last part of its name."""
    methods: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "quant_method"):
            methods.setdefault(name.rpartition(".")[2], set()).add(type(module.quant_method).__name__)
    return {name: sorted(found) for name, found in methods.items()}


def adapted_modules(model: Any, config: Any, adapter: str) -> list[str]:
    """Modules into which vLLM has put the adapter's weights."""
    import torch
    from vllm.lora.request import LoRARequest
    from vllm.lora.worker_manager import WorkerLoRAManager

    manager = WorkerLoRAManager(config, torch.device("cpu"), model.embedding_modules)
    manager.create_lora_manager(model, config)
    manager.add_adapter(LoRARequest("adapter", 1, adapter))
    return [
        name
        for name, module in model.named_modules()
        if hasattr(module, "lora_b_stacked") and all(part[0].any() for part in module.lora_b_stacked)
    ]


def load(model: Any, config: Any) -> dict[str, int]:
    """What vLLM's loader reads, into the model: how many of the tensors were alive at once, and their bytes.

    Each is copied out of the file's mapping, so that its memory is its own and is gone with the last view of it.
    """
    from torch.multiprocessing.reductions import StorageWeakRef
    from vllm.model_executor.model_loader import get_model_loader

    seen: list[tuple[StorageWeakRef, int]] = []
    alive: list[tuple[int, int]] = []

    def watched(weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for name, tensor in weights:
            copy = tensor.clone()
            del tensor
            seen.append((StorageWeakRef(copy.untyped_storage()), copy.nbytes))
            living = [nbytes for storage, nbytes in seen if not storage.expired()]
            alive.append((len(living), sum(living)))
            yield name, copy
            del copy

    model.load_weights(watched(get_model_loader(config.load_config).get_all_weights(config.model_config, model)))
    return {
        "tensors": len(seen),
        "bytes": sum(nbytes for _, nbytes in seen),
        "largest": max(nbytes for _, nbytes in seen),
        "tensors at once": max(tensors for tensors, _ in alive),
        "bytes at once": max(nbytes for _, nbytes in alive),
        "left over": sum(not storage.expired() for storage, _ in seen),
    }


def loaded(model: Any, config: Any, adapter: str) -> dict[str, Any]:
    return {"memory": load(model, config), "routers": [router(layer.gate) for layer in mixtures(model)]}


def mixtures(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "gate") and hasattr(module, "experts")]


def router(gate: Any) -> dict[str, Any]:
    """Types of weights and logits, and how far the logits for bfloat16 inputs are from those in float32 throughout."""
    import torch

    weight = gate.weight.data.clone()
    gate.quant_method.process_weights_after_loading(gate)  # on CPU it packs the weight, and leaves none
    hidden = torch.randn(7, weight.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
    logits, _ = gate(hidden)
    exact = hidden.float() @ weight.float().t()
    return {
        "weights": str(weight.dtype),
        "logits": str(logits.dtype),
        "error": (logits.float() - exact).abs().max().item(),
        "rounding": (exact.bfloat16().float() - exact).abs().max().item(),
    }


def key_value_heads(model: Any, config: Any, adapter: str) -> list[dict[str, Any]]:
    """Of each layer: heads of this rank, and whether those of keys and values are the one of the checkpoint."""
    import torch
    from safetensors.torch import load_file

    load(model, config)
    checkpoint = {
        name: tensor
        for shard in Path(config.model_config.model).glob("*.safetensors")
        for name, tensor in load_file(shard).items()
    }
    attentions = [module for module in model.modules() if hasattr(module, "qkv_proj")]
    reports = []
    for layer, attention in enumerate(attentions):
        heads, head_dim = attention.attn.num_heads, attention.attn.head_size
        rows = attention.qkv_proj.weight
        fused = checkpoint.get(f"transformer.blocks.{layer}.norm_attn_norm.attn.Wqkv.weight")
        if fused is None:
            stem = next(name for name in checkpoint if name.startswith(f"model.layers.{layer}.") and "k_proj.w" in name)
            expected = torch.cat([checkpoint[stem], checkpoint[stem.replace("k_proj", "v_proj")]])
        else:
            expected = fused[-2 * head_dim :]
        reports.append(
            {
                "heads": heads,
                "key-value heads": attention.attn.num_kv_heads,
                "rows": len(rows) // head_dim,
                "is the checkpoint's": torch.equal(rows[-2 * head_dim :], expected),
            }
        )
    return reports


REPORTS = {
    "expert parallel": experts_of,
    "fp8": methods_of,
    "lora": adapted_modules,
    "loaded": loaded,
    "one key-value head": key_value_heads,
}


if __name__ == "__main__":
    main()

"""Program: builds models under expert parallel, fp8 and LoRA, one worker of a group, and writes what came of it.

Started by `test_construction.py`, once a rank. Nothing is loaded but the adapters, and nothing runs: vLLM's CPU
build can build these, but has no kernels for them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ATTENTION = ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"]
WAYS: dict[str, dict[str, Any]] = {
    "expert parallel": {"enable_expert_parallel": True},
    "fp8": {"quantization": "fp8"},
    # vLLM's CPU build cannot wrap experts.
    "lora": {"enable_lora": True, "max_lora_rank": 8, "lora_target_modules": ATTENTION},
}


def main() -> None:
    """Arguments: rank, ranks, port, file of {model: [checkpoint, adapter]}, file for the answer."""
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
    for model, (checkpoint, adapter) in checkpoints.items():
        built[model] = {}
        for way, options in WAYS.items():
            arguments = EngineArgs(
                model=checkpoint,
                load_format="dummy",
                enforce_eager=True,
                tensor_parallel_size=ranks,
                distributed_executor_backend="mp",
                dtype="bfloat16",
                max_model_len=512,
                max_num_seqs=8,
                **options,
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
                built[model][way] = REPORTS[way](made, config, adapter)
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


REPORTS = {"expert parallel": experts_of, "fp8": methods_of, "lora": adapted_modules}


if __name__ == "__main__":
    main()

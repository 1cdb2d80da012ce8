"""Program: builds models in vLLM's CPU build, one worker of a group, and writes what each of them allocated.

Started by `test_planner_matches_vllm.py`, once a rank. No engine and no weights: vLLM's own distributed groups and
model classes, parameters before `process_weights_after_loading`, and the KV cache spec of each attention layer.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

LAYOUTS = ((1, 1), (2, 1), (1, 2))
"""Tensor and pipeline size."""


def main() -> None:
    """Arguments: rank of two, a port for each layout, directory of configs, file for the answer.

    The answer is what each config allocated, by layout. A rank that a layout does not have waits for the next one, in
    the same process: imports take longer than models.
    """
    rank, ports = int(sys.argv[1]), sys.argv[2].split(",")
    configs, answer = Path(sys.argv[3]), Path(sys.argv[4])

    import torch
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    torch.set_num_threads(1)
    allocated = {}
    for (tensor, pipeline), port in zip(LAYOUTS, map(int, ports), strict=True):
        if rank < tensor * pipeline:
            os.environ["VLLM_DIST_IDENT"] = str(port)
            allocated[f"{tensor}x{pipeline}"] = _allocated(rank, tensor, pipeline, port, configs)
            cleanup_dist_env_and_memory()
    answer.write_text(json.dumps(allocated))


def _allocated(rank: int, tensor: int, pipeline: int, port: int, configs: Path) -> dict[str, object]:
    from vllm.config import set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs

    allocated: dict[str, object] = {}
    is_joined = False
    # The group of expert-parallel ranks is made with the others, and only where the first model has experts.
    for path in sorted(configs.iterdir(), key=lambda path: (path.name != "mixtral", path.name)):
        if path.name.endswith("+ep") and tensor == 1:
            continue
        arguments = EngineArgs(
            model=str(path),
            skip_tokenizer_init=True,
            load_format="dummy",
            enforce_eager=True,
            tensor_parallel_size=tensor,
            pipeline_parallel_size=pipeline,
            enable_expert_parallel=path.name.endswith("+ep"),
            distributed_executor_backend="mp",
            dtype=json.loads((path / "config.json").read_text())["torch_dtype"],
            max_model_len=512,
            kv_cache_memory_bytes=2**24,
            limit_mm_per_prompt={"image": 0} if path.name.startswith("llama4-vision") else {},
        )
        try:
            _inspect_here(json.loads((path / "config.json").read_text())["architectures"][0])
            config = arguments.create_engine_config()
            with set_current_vllm_config(config):
                if not is_joined:
                    init_distributed_environment(
                        tensor * pipeline, rank, f"tcp://127.0.0.1:{port}", local_rank=rank, backend="gloo"
                    )
                    initialize_model_parallel(tensor, pipeline)
                    is_joined = True
                allocated[path.name] = _measure(config)
        except (ImportError, NotImplementedError, ValueError) as error:  # what the CPU build refuses is an answer too
            allocated[path.name] = {"error": f"{type(error).__name__}: {error}"}
    return allocated


def _inspect_here(architecture: str) -> None:
    """Registers vLLM's own class as loaded: it is otherwise inspected in a process of its own, seconds for each."""
    from vllm.model_executor.models import ModelRegistry

    if architecture in ModelRegistry.models:
        ModelRegistry.register_model(architecture, ModelRegistry.models[architecture].load_model_cls())


def _measure(config) -> dict[str, object]:  # type: ignore[no-untyped-def]
    import torch
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with set_default_torch_dtype(config.model_config.dtype), torch.device("cpu"):
        model = initialize_model(config)
    layers = config.compilation_config.static_forward_context
    specs = {
        name: spec
        for name, layer in layers.items()
        if isinstance(layer, AttentionLayerBase) and (spec := layer.get_kv_cache_spec(config)) is not None
    }
    return {
        "weights": sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        "parameters": {name: [str(parameter.dtype), *parameter.shape] for name, parameter in model.named_parameters()},
        "kv_bytes_per_token": sum(spec.page_size_bytes / spec.block_size for spec in specs.values()),
        "block_tokens": sorted({spec.block_size for spec in specs.values()}),
        "windows": sorted(
            getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None) or 0
            for spec in specs.values()
        ),
    }


if __name__ == "__main__":
    main()

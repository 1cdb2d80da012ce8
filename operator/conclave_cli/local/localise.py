"""Adapts a ModelDeployment for a cluster to this machine: fields that name or count nodes change.

Pure. Returns what has changed, so that `conclave up` can print it.
"""

from __future__ import annotations

from conclave.api.modeldeployment import KvCacheDtype, ModelDeployment
from conclave.engine.environment import CLOSED_ENVIRONMENT
from conclave.errors import InvalidInput
from conclave.planning.inventory import Inventory
from conclave.planning.roles import Role
from conclave_cli.local.machine import GIB, rank_binding

MAX_CPU_KV_CACHE_BYTES = 4 * GIB
CPU_KV_CACHE_SHARE = 4
"""A quarter of a rank's memory at most: a laptop has other things to do."""


def ranks_of(deployment: ModelDeployment) -> int:
    """Engine processes on a machine without GPUs: one, unless the manifest asks for more."""
    parallelism = deployment.spec.parallelism
    return (parallelism.tensor or 1) * (parallelism.pipeline or 1)


def has_no_gpus(inventory: Inventory) -> bool:
    """Whether vLLM runs on the processors of this machine."""
    return all(node.accelerator == "cpu" for node in inventory.nodes)


def localise(deployment: ModelDeployment, inventory: Inventory, model_name: str | None) -> ModelDeployment:
    """The deployment for this machine's one node: its accelerator, and as many replicas as it carries.

    Without GPUs the KV cache keeps the model's type: vLLM has fp8 there only for x86 with AVX-512 or AMX.
    """
    spec = deployment.spec
    if model_name in [adapter.name for adapter in spec.model.adapters]:
        raise InvalidInput(
            f"--model-name {model_name}: an adapter of spec.model.adapters has this name; give the "
            "base model another name"
        )
    on_cpu = has_no_gpus(inventory)
    engine, parallelism = spec.engine, spec.parallelism
    if on_cpu:
        if parallelism.expert_parallel:
            raise InvalidInput(
                "spec.parallelism.expertParallel is true: vLLM without GPUs cannot run this, since its kernel "
                "ignores the expert map; remove the field for this machine"
            )
        parallelism = parallelism.model_copy(
            update={"tensor": parallelism.tensor or 1, "pipeline": parallelism.pipeline or 1, "expert_parallel": False}
        )
        memory_bytes = min(node.memory_bytes for node in inventory.nodes)
        kv_cache_bytes = min(memory_bytes // CPU_KV_CACHE_SHARE, MAX_CPU_KV_CACHE_BYTES)
        engine = engine.model_copy(
            update={
                "kv_cache_dtype": KvCacheDtype.AUTO,
                "extra_args": {"kv_cache_memory_bytes": str(kv_cache_bytes), **engine.extra_args},
            }
        )
    return deployment.model_copy(
        update={
            "spec": spec.model_copy(
                update={
                    "model": spec.model.model_copy(update={"served_name": model_name or spec.model.served_name}),
                    "engine": engine,
                    "parallelism": parallelism,
                    "hardware": spec.hardware.model_copy(update={"accelerators": (), "node_selector": {}}),
                    "access": spec.access.model_copy(update={"regions": ()}),
                    "scaling": spec.scaling.model_copy(update={"min_replicas": 1, "max_replicas": 1}),
                }
            )
        }
    )


def engine_environment(role: Role, cores: tuple[int, ...], visible_gpus: tuple[int, ...]) -> dict[str, str]:
    """Variables that the engine's processes need on this machine, in addition to those of the Serve config."""
    if role.accelerator == "cpu":
        # Without one set of cores a rank, tensor parallelism on one NUMA node is refused.
        return {**CLOSED_ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": rank_binding(cores, role.tensor * role.pipeline)}
    return {**CLOSED_ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ",".join(map(str, visible_gpus))}

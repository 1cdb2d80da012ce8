"""A deployment for a cluster becomes one for this machine: only what names nodes or counts them changes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from conclave.api.modeldeployment import ModelDeployment
from conclave.errors import InvalidInput
from conclave.planning.inventory import Inventory, Node
from conclave_cli.local.localise import localise, ranks_of
from conclave_cli.local.machine import GIB

MANIFEST = """
apiVersion: conclave.dev/v1alpha1
kind: ModelDeployment
metadata: {name: mixtral}
spec:
  model:
    id: mistralai/Mixtral-8x7B-Instruct-v0.1
    source: {persistentVolumeClaim: {claimName: weights}}
  engine: {extraArgs: {max_num_seqs: "64"}}
  hardware: {accelerators: [NVIDIA-H100-80GB-HBM3], nodeSelector: {pool: gpu}}
  parallelism: {tensor: 2}
  scaling: {minReplicas: 0, maxReplicas: 4}
  access: {dataClass: internal, regions: [eu-west-1]}
"""


def deployment(**spec: Any) -> ModelDeployment:
    manifest = yaml.safe_load(MANIFEST)
    manifest["spec"].update(spec)
    return ModelDeployment.model_validate(manifest)


def inventory(accelerator: str, memory_gib: int) -> Inventory:
    node = Node(name="here", accelerator=accelerator, memory_bytes=memory_gib * GIB, gpus=2, free_gpus=2)
    return Inventory(nodes=(node,))


def test_on_this_machine_its_own_hardware_counts() -> None:
    spec = localise(deployment(), inventory("cpu", 8), None).spec
    assert (spec.hardware.accelerators, spec.hardware.node_selector, spec.access.regions) == ((), {}, ())
    assert (spec.scaling.min_replicas, spec.scaling.max_replicas) == (1, 1)
    assert (spec.parallelism.tensor, spec.parallelism.pipeline) == (2, 1)


@pytest.mark.parametrize(
    ("memory_gib", "kv_cache_gib"), [pytest.param(8, 2, id="a quarter"), pytest.param(64, 4, id="at most 4 GiB")]
)
def test_without_gpus_the_cache_leaves_room_for_others(memory_gib: int, kv_cache_gib: int) -> None:
    extra_args = localise(deployment(), inventory("cpu", memory_gib), None).spec.engine.extra_args
    assert extra_args == {"kv_cache_memory_bytes": str(kv_cache_gib * GIB), "max_num_seqs": "64"}


@pytest.mark.parametrize(
    ("accelerator", "dtype"),
    [pytest.param("cpu", "auto", id="not every processor"), pytest.param("NVIDIA-L4", "fp8", id="GPUs")],
)
def test_a_cache_in_fp8_is_for_gpus(accelerator: str, dtype: str) -> None:
    asked = deployment(engine={"kvCacheDtype": "fp8"})
    assert localise(asked, inventory(accelerator, 24), None).spec.engine.kv_cache_dtype == dtype


def test_the_owners_cache_size_stands() -> None:
    own = deployment(engine={"extraArgs": {"kv_cache_memory_bytes": "67108864"}})
    assert localise(own, inventory("cpu", 8), None).spec.engine.extra_args == {"kv_cache_memory_bytes": "67108864"}


def test_with_gpus_engine_and_parallelism_stay_as_written() -> None:
    local = localise(deployment(), inventory("NVIDIA-L4", 22), None)
    assert local.spec.engine == deployment().spec.engine
    assert local.spec.parallelism == deployment().spec.parallelism


def test_expert_parallel_is_refused_where_the_engine_cannot() -> None:
    with pytest.raises(InvalidInput, match=r"expertParallel is true.*remove the field"):
        localise(deployment(parallelism={"expertParallel": True}), inventory("cpu", 8), None)


@pytest.mark.parametrize(("model_name", "served"), [(None, "mixtral"), ("mine", "mine")])
def test_the_served_name_can_be_replaced(model_name: str | None, served: str) -> None:
    assert localise(deployment(), inventory("cpu", 8), model_name).served_name == served


@pytest.mark.parametrize(
    ("parallelism", "ranks"), [({}, 1), ({"tensor": 2}, 2), ({"tensor": 2, "pipeline": 2}, 4)], ids=str
)
def test_ranks(parallelism: dict[str, int], ranks: int) -> None:
    assert ranks_of(deployment(parallelism=parallelism)) == ranks

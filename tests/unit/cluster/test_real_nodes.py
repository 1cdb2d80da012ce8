"""Nodes of real clusters: what of them can be planned, and what is told of the rest (tests/data/nodes)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fake_cluster import FakeCluster
from tests.scenes import make_deployment

from conclave.api.modeldeployment import Toleration
from conclave.catalogue.models import find_model
from conclave.planning.inventory import Inventory, Node, Sharing
from conclave.planning.left_out import left_out_nodes
from conclave.planning.plan import PlanOutcome, plan_deployment
from conclave.planning.request import facts_for, request_for
from conclave_cluster.inventory import make_inventory
from conclave_cluster.observe import observe
from conclave_cluster.resources import RESOURCE_SLICE

Json = dict[str, Any]
DATA = Path(__file__).parents[2] / "data" / "nodes"
SMALL = "meta-llama/Llama-3.2-1B"
GIB = 2**30


def listed(name: str) -> list[Json]:
    items: list[Json] = json.loads((DATA / f"{name}.json").read_text())["items"]
    return items


def inventory_of(name: str, *tolerations: Json) -> Inventory:
    given = [Toleration.model_validate(toleration) for toleration in tolerations]
    return make_inventory(listed(name), [], tolerations=given)


def planned(inventory: Inventory, model: str = SMALL, **hardware: Any) -> PlanOutcome:
    assert find_model(model) is not None
    deployment = make_deployment({"model": {"id": model}, "hardware": hardware})
    return plan_deployment(deployment, facts_for(model, None), inventory)


def left_out(inventory: Inventory) -> str:
    request = request_for(make_deployment(), facts_for(SMALL, None), inventory)
    return "; ".join(f"{option.option}: {option.reason}" for option in left_out_nodes(request))


def usable(inventory: Inventory) -> list[list[Any]]:
    return [
        [node.accelerator, node.gpus, *([node.resource] if node.resource else [])]
        for node in inventory.nodes
        if node.schedulable
    ]


LISTINGS = yaml.safe_load((DATA / "listings.yaml").read_text())


def node_of(listing: Json, name: str = "n") -> Json:
    ready = {"type": "Ready", "status": listing.get("ready", "True")}
    spec = {"taints": listing.get("taints", []), "unschedulable": listing.get("unschedulable", False)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": name, "labels": listing["labels"]},
        "spec": spec,
        "status": {"allocatable": listing["allocatable"], "conditions": [ready]},
    }


def slices_of(listing: Json, node: str = "n") -> list[Json]:
    return [
        {"metadata": {"name": f"slice-{number}"}, "spec": {"nodeName": node, **item}}
        for number, item in enumerate(listing.get("slices", []))
    ]


@pytest.mark.parametrize("listing", LISTINGS, ids=[listing["id"] for listing in LISTINGS])
def test_a_node_as_it_was_found(listing: Json) -> None:
    inventory = make_inventory([node_of(listing)], [], slices=slices_of(listing))
    assert usable(inventory) == listing["usable"]
    said = left_out(inventory)
    for words in listing.get("says", []):
        assert words in said
    if not listing.get("says"):
        assert said == ""
    else:
        assert "node n: " in said


@pytest.mark.parametrize(
    ("name", "product", "gpus", "devices"),
    [("hami_t4_10of1", "Tesla-T4", 1, 10), ("hami_a40_40of8", "NVIDIA-A40", 8, 40)],
    ids=["one T4 that HAMi lists as ten", "eight A40 that HAMi lists as forty"],
)
def test_allocatable_devices_are_not_physical_gpus(name: str, product: str, gpus: int, devices: int) -> None:
    (node,) = inventory_of(name).nodes
    assert (node.accelerator, node.gpus, node.free_gpus, node.devices) == (product, gpus, gpus, devices)
    assert node.sharing is Sharing.BY_SCHEDULER
    outcome = planned(Inventory(nodes=(node,)))
    assert outcome.plan is not None
    assert any(f"node a: {devices} nvidia.com/gpu are {gpus} GPU" in reason for reason in outcome.plan.because)


def test_no_tensor_parallel_group_is_larger_than_the_cards_that_are_there() -> None:
    outcome = planned(inventory_of("hami_t4_10of1"), "meta-llama/Llama-3.1-8B", maxGpusPerReplica=64)
    assert outcome.plan is None
    assert "1 of 1 are free" in outcome.explanation
    assert "10 nvidia.com/gpu are 1 GPU" in outcome.explanation
    many = planned(inventory_of("hami_a40_40of8"), "meta-llama/Llama-3.1-70B", maxGpusPerReplica=64)
    assert many.plan is not None
    assert many.plan.role.tensor <= 8


@pytest.mark.parametrize(
    "number",
    [index for index, listing in enumerate(LISTINGS) if any("SHARED" in row[0] for row in listing["usable"])],
)
def test_time_slices_never_join(number: int) -> None:
    outcome = planned(make_inventory([node_of(LISTINGS[number])], []), "google/gemma-2-27b", maxGpusPerReplica=64)
    assert outcome.plan is None or outcome.plan.role.gpus_per_replica == 1


def shared_node(taken: int, strategy: str = "time-slicing", product: str = "NVIDIA-A10G-SHARED") -> Node:
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": "23028",
        "nvidia.com/gpu.count": "2",
        "nvidia.com/gpu.replicas": "4" if strategy else "1",
        "nvidia.com/gpu.sharing-strategy": strategy or "none",
    }
    limits = [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]
    pods = [
        {"metadata": {"name": f"p{index}", "uid": f"p{index}"}, "spec": {"nodeName": "n", "containers": limits}}
        for index in range(taken)
    ]
    (node,) = make_inventory([node_of({"labels": labels, "allocatable": {"nvidia.com/gpu": "8"}})], pods).nodes
    return node


@pytest.mark.parametrize(
    ("taken", "strategy", "product", "free"),
    [
        (0, "time-slicing", "NVIDIA-A10G-SHARED", 2),
        (3, "time-slicing", "NVIDIA-A10G-SHARED", 2),
        (7, "time-slicing", "NVIDIA-A10G-SHARED", 1),
        (8, "time-slicing", "NVIDIA-A10G-SHARED", 0),
        (1, "", "NVIDIA-A10G", 1),
        (3, "", "NVIDIA-A10G", 0),
    ],
    ids=[
        "time slices, none taken",
        "time slices of which some are left on each GPU",
        "one time slice left",
        "no time slice left",
        "a scheduler's share takes a whole GPU",
        "never fewer than none",
    ],
)
def test_what_is_free_of_shared_gpus(taken: int, strategy: str, product: str, free: int) -> None:
    node = shared_node(taken, strategy, product)
    assert (node.gpus, node.devices, node.free_gpus) == (2, 8, free)


def test_mps_is_planned_for_a_share_of_the_memory_that_each_pod_has() -> None:
    inventory = Inventory(nodes=(shared_node(0, "mps"),))
    refused = planned(inventory)
    assert refused.plan is None
    assert "gpu_memory_utilization is 0.92, expected at most 0.25; set it in engine.extraArgs" in refused.explanation
    deployment = make_deployment(
        {"model": {"id": SMALL}, "engine": {"extraArgs": {"gpu-memory-utilization": "0.25"}, "maxModelLen": 2048}}
    )
    assert plan_deployment(deployment, facts_for(SMALL, None), inventory).plan is not None


TOLERATED = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}


@pytest.mark.parametrize(
    ("name", "option", "reason"),
    [
        (
            "noexecute_gpu_taint",
            "node a",
            "taint nvidia.com/gpu=present:NoExecute is not tolerated: add hardware.tolerations "
            '[{key: nvidia.com/gpu, operator: Equal, value: "present", effect: NoExecute}]',
        ),
        (
            "aks_sku_taint",
            "node aks-a",
            "taint sku=gpu:NoSchedule is not tolerated: add hardware.tolerations "
            '[{key: sku, operator: Equal, value: "gpu", effect: NoSchedule}]',
        ),
        (
            "gb200",
            "node a",
            "taint kubernetes.io/arch=arm64:NoSchedule is not tolerated: add hardware.tolerations "
            '[{key: kubernetes.io/arch, operator: Equal, value: "arm64", effect: NoSchedule}]',
        ),
    ],
    ids=["another effect on the GPU's key", "AKS' taint of GPU pools", "the architecture of a GB200"],
)
def test_an_excluded_node_is_named_with_its_taint_and_the_field_that_would_admit_it(
    name: str, option: str, reason: str
) -> None:
    inventory = inventory_of(name)
    outcome = planned(inventory)
    assert outcome.plan is None
    assert f"{option}: {reason}" in outcome.explanation
    assert "none" not in outcome.explanation
    (node,) = inventory.nodes
    (barrier,) = node.barriers
    wanted = [toleration.to_wire() for toleration in barrier.tolerations]
    assert outcome.remedies[0].startswith("hardware.tolerations [{key: ")
    assert outcome.remedies[0].endswith(f"would admit {option}: TP=1 on {node.accelerator} fits there")
    admitted = inventory_of(name, *wanted)
    assert planned(admitted).plan is not None


@pytest.mark.parametrize(
    ("tolerations", "is_admitted"),
    [
        ([], False),
        ([TOLERATED], True),
        ([{"key": "nvidia.com/gpu", "operator": "Exists"}], True),
        ([{"operator": "Exists"}], True),
        ([{**TOLERATED, "tolerationSeconds": 300}], False),
        ([{"key": "nvidia.com/gpu", "operator": "Equal", "value": "other", "effect": "NoExecute"}], False),
    ],
    ids=[
        "what each worker tolerates is NoSchedule only",
        "the effect",
        "a toleration without an effect matches all of them",
        "a toleration of everything",
        "for a while only, after which pods are evicted",
        "another value",
    ],
)
def test_a_taint_s_effect_counts(tolerations: list[Json], is_admitted: bool) -> None:
    inventory = inventory_of("noexecute_gpu_taint", *tolerations)
    assert inventory.nodes[0].schedulable is is_admitted
    if any("tolerationSeconds" in toleration for toleration in tolerations):
        assert "only for tolerationSeconds, after which pods are evicted" in left_out(inventory)


def test_slices_of_mig_are_planned_and_asked_for_by_their_own_names() -> None:
    inventory = inventory_of("mig_mixed_all")
    assert usable(inventory) == [
        ["NVIDIA-A100-80GB-PCIe-MIG-2g.20gb", 1, "nvidia.com/mig-2g.20gb"],
        ["NVIDIA-A100-80GB-PCIe-MIG-3g.40gb", 1, "nvidia.com/mig-3g.40gb"],
    ]
    small, large = inventory.nodes
    assert large.memory_bytes == 40192 << 20
    assert 17 * GIB < small.memory_bytes < 19.5 * GIB
    assert large.selector == {"nvidia.com/mig-3g.40gb.product": "NVIDIA-A100-80GB-PCIe-MIG-3g.40gb"}
    assert small.selector == {"nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe"}
    plan = planned(inventory).plan
    assert plan is not None
    assert (plan.role.resource, plan.role.gpus_per_replica) == ("nvidia.com/mig-2g.20gb", 1)
    refused = planned(inventory, "google/gemma-2-27b")
    assert refused.plan is None
    assert "MIG slices cannot join in tensor or pipeline parallelism" in refused.explanation


def test_a_node_with_two_kinds_of_slices_is_named_once() -> None:
    (item,) = listed("mig_mixed_all")
    item["spec"] = {"unschedulable": True}
    assert left_out(make_inventory([item], [])) == (
        "node a: cordoned (spec.unschedulable is true): `kubectl uncordon` admits pods again; it has "
        "1 NVIDIA-A100-80GB-PCIe-MIG-2g.20gb, 1 NVIDIA-A100-80GB-PCIe-MIG-3g.40gb"
    )


def test_a_slice_that_another_pod_holds_is_taken() -> None:
    limits = [{"resources": {"limits": {"nvidia.com/mig-3g.40gb": "1"}}}]
    pod = {"metadata": {"name": "p", "uid": "p"}, "spec": {"nodeName": "a", "containers": limits}}
    inventory = make_inventory(listed("mig_mixed_all"), [pod])
    assert [(node.resource, node.free_gpus) for node in inventory.nodes] == [
        ("nvidia.com/mig-2g.20gb", 1),
        ("nvidia.com/mig-3g.40gb", 0),
    ]
    assert all(node.free_gpus == 1 for node in make_inventory(listed("mig_mixed_all"), [pod], {"p"}).nodes)


def test_a_resource_that_nobody_asks_for_is_named() -> None:
    inventory = inventory_of("ts_renamed")
    assert inventory.nodes == ()
    outcome = planned(inventory)
    assert "node a: 50 nvidia.com/gpu.shared: GPUs that the device plugin shares between pods" in outcome.explanation
    assert "renameByDefault" in outcome.explanation
    assert "there: none" not in outcome.explanation


def test_a_cloud_s_label_says_the_product_and_finds_the_node() -> None:
    (node,) = inventory_of("gke_no_gfd").nodes
    assert (node.accelerator, node.gpus, node.schedulable) == ("NVIDIA-H100-80GB-HBM3", 8, True)
    assert 79 <= node.memory_bytes / GIB <= 79.7
    assert node.selector == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    for wanted in ("NVIDIA-H100", "nvidia-h100-80gb"):
        plan = planned(Inventory(nodes=(node,)), accelerators=[wanted]).plan
        assert plan is not None
        assert plan.role.node_labels == {"cloud.google.com/gke-accelerator": ("nvidia-h100-80gb",)}


def test_a_missing_memory_label_is_unknown_and_not_nothing() -> None:
    inventory = inventory_of("gb10_no_memory")
    assert inventory.nodes == ()
    assert "node a: the memory of NVIDIA-GB10 is unknown" in left_out(inventory)
    (item,) = listed("gb10_no_memory")
    item["metadata"]["labels"]["nvidia.com/gpu.memory"] = "122880"
    (node,) = make_inventory([item], []).nodes
    assert node.memory_bytes == 120 * GIB
    del item["metadata"]["labels"]["nvidia.com/gpu.memory"]
    item["metadata"]["labels"]["nvidia.com/gpu.product"] = "NVIDIA-L40S"
    (known,) = make_inventory([item], []).nodes
    assert 44 <= known.memory_bytes / GIB <= 45


def test_many_nodes_are_summed_up_within_the_bound_of_a_status() -> None:
    nodes = [
        node_of(
            {
                "labels": {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"},
                "taints": [{"key": f"team-{number % 40}", "value": "x" * 63, "effect": "NoSchedule"}],
                "allocatable": {"nvidia.com/gpu": "1"},
            },
            name=f"{'long-name.' * 20}{number:04}",
        )
        for number in range(2000)
    ]
    inventory = make_inventory(nodes, [])
    explanation = planned(inventory).explanation
    assert len(explanation) <= 4096
    assert "and 47 more: taint team-" in explanation
    assert "1800 further nodes: may not be used for 36 other reasons" in explanation
    one = make_inventory([*nodes[:1] * 1, *[{**node, "spec": nodes[0]["spec"]} for node in nodes[1:]]], [])
    assert "and 1997 more: taint team-0=" in planned(one).explanation
    assert "they have 2000 NVIDIA-L4" in planned(one).explanation


def test_nodes_that_the_spec_does_not_mean_are_of_no_interest() -> None:
    tainted, other = listed("aks_sku_taint"), listed("ts_renamed")
    inventory = make_inventory([*tainted, *other], [])
    outcome = planned(inventory, accelerators=["NVIDIA-L4"])
    assert "aks-a" not in outcome.explanation
    only = planned(inventory, nodeSelector={"kubernetes.io/hostname": "aks-a"})
    assert "gpu.shared" not in only.explanation
    assert (
        "nodeSelector needs nodes whose label kubernetes.io/hostname is aks-a; on 1 of 2 nodes this label is a (node a)"
        in (only.explanation)
    )


def test_a_plan_that_fits_says_which_nodes_it_may_not_use() -> None:
    free = node_of({"labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}, "allocatable": {"nvidia.com/gpu": "1"}}, "free")
    outcome = planned(make_inventory([*listed("aks_sku_taint"), free], []))
    assert outcome.plan is not None
    assert any(option.option == "node aks-a" and "sku=gpu" in option.reason for option in outcome.rejected)


def test_two_labels_for_one_product_are_two_kinds_of_nodes() -> None:
    """Pods of one template find the nodes of one kind of label only."""
    (cloud,) = listed("gke_no_gfd")
    labelled = node_of(
        {
            "labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"},
            "allocatable": {"nvidia.com/gpu": "8"},
        },
        "labelled",
    )
    inventory = make_inventory([cloud, labelled], [])
    outcome = planned(inventory, "deepseek-ai/DeepSeek-V3", maxGpusPerReplica=16)
    assert outcome.plan is None


def test_machine_types_of_one_accelerator_are_one_kind() -> None:
    nodes = [
        node_of(
            {"labels": {"node.kubernetes.io/instance-type": machine}, "allocatable": {"nvidia.com/gpu": "8"}}, machine
        )
        for machine in ("Standard_ND96is_H100_v5", "Standard_ND96isr_H100_v5")
    ]
    plan = planned(make_inventory(nodes, []), "deepseek-ai/DeepSeek-V3", maxGpusPerReplica=16).plan
    assert plan is not None
    assert plan.role.node_labels == {
        "node.kubernetes.io/instance-type": ("Standard_ND96is_H100_v5", "Standard_ND96isr_H100_v5")
    }


@pytest.mark.parametrize(
    ("machine", "devices", "gpus"),
    [("Standard_NC4as_T4_v3", 10, 1), ("g5.12xlarge", 16, 4), ("g5.12xlarge", 4, 4), ("p5.48xlarge", 2, 2)],
    ids=["one T4 as ten", "four A10G as sixteen", "none shared", "fewer than the machine has"],
)
def test_a_machine_type_says_how_many_gpus_its_devices_are(machine: str, devices: int, gpus: int) -> None:
    told = {
        "labels": {"node.kubernetes.io/instance-type": machine},
        "allocatable": {"nvidia.com/gpu": str(devices)},
    }
    (found,) = make_inventory([node_of(told, "a")], []).nodes
    assert (found.gpus, bool(found.sharing)) == (gpus, devices > gpus)


@pytest.mark.parametrize("reads", ["all", "absent", "forbidden"])
def test_resource_slices_explain_and_are_no_failure_where_nobody_can_read_them(reads: str) -> None:
    (listing,) = [listing for listing in LISTINGS if listing["id"] == "GPUs of dynamic resource allocation"]
    cluster = FakeCluster()
    cluster.put(node_of(listing))
    for item in slices_of(listing):
        cluster.put({"apiVersion": RESOURCE_SLICE.api_version, "kind": RESOURCE_SLICE.kind, **item})
    if reads == "absent":
        cluster.absent.add(RESOURCE_SLICE)
    if reads == "forbidden":
        cluster.forbidden.add(("list", RESOURCE_SLICE))
    observed = asyncio.run(observe(cluster, make_deployment()))
    assert "resourceslices" not in {failure.resource for failure in observed.failures}
    (other,) = observed.inventory.others
    assert ("dynamic resource allocation" in other.barrier.seen) is (reads == "all")
    assert "device plugin" in other.barrier.remedy

"""Inventories of Node and Pod objects as clusters really have them."""

from __future__ import annotations

from typing import Any

import pytest

from conclave.api.modeldeployment import Toleration
from conclave_cluster.inventory import MOST_GPUS, MOST_KNOWN, Capacity, LastCapacity, held_by, make_inventory
from conclave_cluster.observe import keep_pod

Json = dict[str, Any]
H100 = "NVIDIA-H100-80GB-HBM3"


def node(labels: Json | None = None, gpus: str = "8", resource: str = "nvidia.com/gpu", **spec: Any) -> Json:
    return {
        "metadata": {"name": "n", "labels": {"nvidia.com/gpu.product": H100} if labels is None else labels},
        "spec": spec,
        "status": {"allocatable": {resource: gpus}, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def pod(uid: str, *limits: str, node_name: str = "n", phase: str = "Running", init: tuple[str, ...] = ()) -> Json:
    def containers(amounts: tuple[str, ...]) -> list[Json]:
        return [{"resources": {"limits": {"nvidia.com/gpu": amount}}} for amount in amounts]

    spec = {"nodeName": node_name, "containers": containers(limits), "initContainers": containers(init)}
    return {"metadata": {"name": f"pod-{uid}", "uid": uid}, "spec": spec, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("pods", "free"),
    [
        ([], 8),
        ([pod("a", "2"), pod("b", "1", "1")], 4),
        ([pod("own", "4")], 8),
        ([pod("a", "2", phase="Succeeded"), pod("b", "2", phase="Failed")], 8),
        ([pod("a", "2", node_name="")], 8),
        ([pod("a", "2", node_name="elsewhere")], 8),
        ([pod("a", "1", init=("4",))], 4),
        ([pod("a", "8"), pod("b", "8")], 0),
        ([pod("a", "1k")], 0),
        ([pod("a", "3000m")], 5),
        ([pod("a", "-8")], 8),
        ([pod("a", "1e999999999")], 0),
        ([pod("a", "many")], 0),
    ],
    ids=[
        "nobody is there",
        "others hold some, in one or two containers",
        "the deployment's own pods count as free",
        "pods that ended hold nothing",
        "a pod that waits holds nothing",
        "a pod of another node",
        "an init container's larger share counts",
        "never below none",
        "1k is a thousand",
        "3000m are three",
        "fewer than none is none",
        "more than there are is all",
        "what is no quantity may be all",
    ],
)
def test_free_is_what_no_other_pod_holds(pods: list[Json], free: int) -> None:
    (found,) = make_inventory([node()], pods, frozenset({"own"})).nodes
    assert (found.gpus, found.free_gpus) == (8, free)


GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
TEAM_TAINT = {"key": "team", "value": "llm", "effect": "NoSchedule"}
SOFT_TAINT = {"key": "team", "value": "llm", "effect": "PreferNoSchedule"}


@pytest.mark.parametrize(
    ("spec", "tolerations", "schedulable"),
    [
        ({}, [], True),
        ({"unschedulable": True}, [], False),
        ({"taints": [GPU_TAINT]}, [], True),
        ({"taints": [TEAM_TAINT]}, [], False),
        ({"taints": [SOFT_TAINT]}, [], True),
        ({"taints": [TEAM_TAINT]}, [{"key": "team", "operator": "Equal", "value": "llm"}], True),
        ({"taints": [TEAM_TAINT]}, [{"key": "team", "value": "other"}], False),
        ({"taints": [TEAM_TAINT]}, [{"operator": "Exists"}], True),
        ({"taints": [TEAM_TAINT]}, [{"key": "team", "operator": "Exists", "effect": "NoExecute"}], False),
    ],
    ids=[
        "plain",
        "cordoned",
        "the GPU taint, which every worker tolerates",
        "another team's",
        "a preference",
        "tolerated by value",
        "another value",
        "everything tolerated",
        "another effect tolerated",
    ],
)
def test_taints_and_cordons_keep_away(spec: Json, tolerations: list[Json], schedulable: bool) -> None:
    given = [Toleration.model_validate(toleration) for toleration in tolerations]
    (found,) = make_inventory([node(**spec)], [], tolerations=given).nodes
    assert found.schedulable is schedulable


def test_a_node_that_is_not_ready_is_not_schedulable() -> None:
    lost = node()
    lost["status"]["conditions"][0]["status"] = "Unknown"
    assert make_inventory([lost], []).nodes[0].schedulable is False


@pytest.mark.parametrize(
    ("labels", "resource", "accelerator", "gib"),
    [
        ({"nvidia.com/gpu.product": H100, "nvidia.com/gpu.memory": "81559"}, "nvidia.com/gpu", H100, (79, 79.7)),
        ({"nvidia.com/gpu.product": H100}, "nvidia.com/gpu", H100, (79, 79.7)),
        (
            {"nvidia.com/gpu.product": "NVIDIA-NEW-1", "nvidia.com/gpu.memory": "100000"},
            "nvidia.com/gpu",
            "NVIDIA-NEW-1",
            (97.6, 97.7),
        ),
        ({"nvidia.com/gpu.product": H100, "nvidia.com/gpu.memory": "40000"}, "nvidia.com/gpu", H100, (39, 39.1)),
        ({"amd.com/gpu.product-name": "AMD_NEW", "amd.com/gpu.vram": "192G"}, "amd.com/gpu", "AMD_NEW", (192, 192)),
    ],
    ids=[
        "known, and its label agrees: what a process can get",
        "known without a label",
        "unknown to the catalogue",
        "a label that tells of less wins",
        "AMD's spelling",
    ],
)
def test_memory_of_one_gpu(labels: Json, resource: str, accelerator: str, gib: tuple[float, float]) -> None:
    (found,) = make_inventory([node(labels, resource=resource)], []).nodes
    assert found.accelerator == accelerator
    assert gib[0] <= found.memory_bytes / 2**30 <= gib[1]


@pytest.mark.parametrize(
    ("amount", "gpus"),
    [
        ("8", 8),
        ("1k", 1000),
        ("8000m", 8),
        (8, 8),
        ("-8", None),
        ("0", None),
        ("many", None),
        ("1e999999999", MOST_GPUS),
    ],
)
def test_gpus_of_a_node_are_a_quantity(amount: object, gpus: int | None) -> None:
    told = node()
    told["status"]["allocatable"] = {"nvidia.com/gpu": amount}
    assert [found.gpus for found in make_inventory([told], []).nodes] == ([] if gpus is None else [gpus])


@pytest.mark.parametrize("memory", ["²", "9" * 5000, "-1", "8e4", "1Ki", ""])
def test_memory_that_is_none_is_the_catalogue_s(memory: str) -> None:
    labels = {"nvidia.com/gpu.product": H100, "nvidia.com/gpu.memory": memory}
    (found,) = make_inventory([node(labels)], []).nodes
    assert 79 <= found.memory_bytes / 2**30 <= 79.7


def test_nodes_without_a_product_or_without_gpus_do_not_count() -> None:
    assert make_inventory([node({}), node(gpus="0")], []).nodes == ()


def test_a_pod_without_limits_holds_nothing() -> None:
    assert not held_by({"metadata": {"uid": "a"}, "spec": {"containers": [{}]}})


def test_a_sidecar_holds_its_gpus_beside_the_containers() -> None:
    told = pod("a", "1", init=("2",))
    told["spec"]["initContainers"][0]["restartPolicy"] = "Always"
    kept = keep_pod(told)
    assert kept is not None
    assert make_inventory([node()], [kept]).nodes[0].free_gpus == 5


def test_who_asks_the_same_shares_one_inventory_and_own_pods_free_their_gpus_for_their_owner_only() -> None:
    capacity = Capacity([node()], [pod("own", "4"), pod("a", "2"), pod("", "1")])
    shared = capacity.inventory()
    assert capacity.inventory(["no pod of this uid", ""]) is shared
    assert shared.nodes[0].free_gpus == 1
    assert capacity.inventory(["own", "own"]).nodes[0].free_gpus == 5
    assert capacity.inventory() is shared


def test_a_taint_counts_for_those_who_do_not_tolerate_it_only() -> None:
    capacity = Capacity([node(taints=[{"key": "team", "effect": "NoSchedule"}])], [])
    tolerations = [Toleration(key=f"k{number}", operator="Exists") for number in range(2 * MOST_KNOWN)]
    for toleration in (*tolerations, None):
        assert not capacity.inventory((), [toleration] if toleration else []).nodes[0].schedulable
    team = [Toleration(key="team", operator="Exists")]
    assert capacity.inventory((), team).nodes[0].schedulable
    assert capacity.inventory((), team) is capacity.inventory((), list(team))


def test_capacity_is_read_again_only_for_other_nodes_or_pods() -> None:
    last, nodes, pods = LastCapacity(), (node(),), (pod("a", "2"),)
    first = last.of(nodes, pods)
    assert last.of(nodes, pods) is first
    assert last.of(nodes, (pod("a", "4"),)).inventory().nodes[0].free_gpus == 4
    assert last.of(nodes, pods) is not first

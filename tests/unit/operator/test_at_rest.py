"""An object at rest costs no full pass until something that its last one came from has changed."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.golden.test_golden import CASES, NOW, Case
from tests.scenes import make_event, make_pod, make_rayservice, merged
from tests.unit.operator.simulation import NAMESPACE, Simulation, gpu_node, model_deployment
from tests.unit.operator.test_object_store import stored

from conclave import names
from conclave.modeldeployment.inputs import inputs_of
from conclave.modeldeployment.status import derive_status
from conclave.names import REFRESH
from conclave_cluster.resources import (
    CLAIM,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    NODE,
    RAY_CLUSTER,
    RAY_SERVICE,
    REVISION,
)
from conclave_operator.kinds import Key
from conclave_operator.reconcile import MOST_ROUNDS

KEY = Key("ModelDeployment", NAMESPACE, "mixtral")
Change = Callable[[Simulation], object]


def passes(world: Simulation) -> float:
    registry = world.controller._metrics.registry
    return sum(
        registry.get_sample_value("conclave_reconciles_total", {"result": result}) or 0
        for result in ("ok", "refused", "failed", "internal_error")
    )


def at_rest(nodes: int = 1) -> Simulation:
    world = Simulation(nodes=nodes)
    world.put(model_deployment())
    world.settle()
    world.step()
    return world


def test_a_new_object_is_at_rest_after_two_passes_and_one_status() -> None:
    world = Simulation()
    world.put(model_deployment())
    for _ in range(4):
        world.step()
    assert passes(world) == 2
    assert world.cluster.writes.count("patch ModelDeployment/mixtral") == 1


def test_an_object_at_rest_is_looked_at_and_costs_no_pass() -> None:
    world = at_rest()
    before, writes = passes(world), len(world.cluster.writes)
    for _ in range(3):
        assert world.step()
    assert passes(world) == before
    assert len(world.cluster.writes) == writes
    assert (world.controller._metrics.registry.get_sample_value("conclave_unchanged_total") or 0) >= 3


def annotated(world: Simulation) -> None:
    item = world.deployment()
    item["metadata"].setdefault("annotations", {})[REFRESH] = "now"
    world.put(item)


def drifted(world: Simulation) -> None:
    item = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]
    world.put({**item, "spec": {**item["spec"], "serveConfigV2": "x"}})


def with_status(status: object) -> Change:
    return lambda world: world.put({**world.deployment(), "status": status})


def without(kind: Any) -> Change:
    def remove(world: Simulation) -> None:
        name = next(name for resource, _, name in world.cluster.objects if resource == kind)
        world.cluster.remove(kind, NAMESPACE, name)

    return remove


CHANGES: dict[str, Change] = {
    "its spec": lambda world: world.edit(suspend=True),
    "an annotation": annotated,
    "its status, forged": with_status({"conditions": []}),
    "its status, wiped": with_status({}),
    "somebody edits its RayService": drifted,
    "its RayService goes": without(RAY_SERVICE),
    "a policy goes": without(NETWORK_POLICY),
    "its record goes": without(REVISION),
    "its claim goes, which nobody tells of": without(CLAIM),
    "a pod comes": lambda world: world.put(make_pod("head")),
    "KubeRay's CRD goes": lambda world: world.cluster.absent.add(RAY_SERVICE),
    "policies may not be read any more": lambda world: world.cluster.forbidden.add(("list", NETWORK_POLICY)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_around_it_costs_a_pass(change: Change) -> None:
    world = at_rest()
    before = passes(world)
    change(world)
    world.step()
    assert passes(world) > before


INDIFFERENT: dict[str, Change] = {
    "a node comes": lambda world: world.put(gpu_node("another")),
    "the node's GPUs go": lambda world: world.put(gpu_node("node-0", gpus=0)),
    "a pod of others takes GPUs": lambda world: world.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "theirs", "namespace": "others"},
            "spec": {"nodeName": "node-0", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}]},
        }
    ),
    "only its version": lambda world: world.put(world.deployment()),
}


@pytest.mark.parametrize("change", INDIFFERENT.values(), ids=INDIFFERENT)
def test_what_its_plan_does_not_rest_on_costs_none(change: Change) -> None:
    world = at_rest()
    before = passes(world)
    change(world)
    world.step()
    assert passes(world) == before


def test_where_nothing_fits_any_node_and_any_foreign_pod_costs_a_pass() -> None:
    world = at_rest(nodes=0)
    before = passes(world)
    world.step()
    assert passes(world) == before
    world.put(gpu_node("large"))
    world.step()
    assert passes(world) > before
    assert world.condition("PlanReady")["status"] == "True"


def test_where_an_edit_fits_nowhere_and_the_old_spec_runs_on_a_node_costs_a_pass_too() -> None:
    world = at_rest()
    world.edit(hardware={"accelerators": ["NVIDIA-H200"]})
    world.settle()
    assert world.condition("PlanReady")["reason"] == "NothingFits"
    before = passes(world)
    world.step()
    assert passes(world) == before
    node = world.put(gpu_node("better", product="NVIDIA-H200", memory_mib=143771))
    world.controller.heard(NODE, node)
    assert len(world.controller.queue) == 1
    world.step()
    assert world.condition("PlanReady")["status"] == "True"


def test_while_a_pod_is_in_trouble_each_look_is_a_pass_since_time_alone_can_change_the_status() -> None:
    world = at_rest()
    world.put(make_event(world.put(make_pod("head", ready=False, phase="Pending")), "Failed", "no such image"))
    world.step()
    before = passes(world)
    world.step()
    assert passes(world) > before


@pytest.mark.parametrize("directory", CASES, ids=lambda path: path.name)
def test_where_a_day_alone_changes_the_status_nothing_is_at_rest(directory: Path) -> None:
    case = Case(directory)
    decision = case.decide()
    now, tomorrow = (
        [
            (condition.type, condition.status, condition.reason, condition.message)
            for condition in derive_status(case.deployment, case.observed, decision, case.outcome, at).conditions
        ]
        for at in (NOW, NOW + timedelta(days=1))
    )
    assert now == tomorrow or inputs_of(case.observed, rests_on_nodes=decision.plan is None) is None


def test_a_pass_that_raised_is_not_remembered_as_rest() -> None:
    world = at_rest()
    get = world.cluster.get

    async def failing(*_: object) -> Any:
        raise KeyError("x")

    world.cluster.get = failing  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        asyncio.run(world.controller.process(KEY))
    world.cluster.get = get  # type: ignore[method-assign]
    before = passes(world)
    world.step()
    assert passes(world) > before
    assert world.condition("Ready")["reason"] != "InternalError"


def test_a_resync_looks_at_all_after_the_news_and_passes_over_none() -> None:
    world = at_rest()
    before = passes(world)
    queue = world.controller.queue
    world.controller.resync(MODEL_DEPLOYMENT.kind, [world.deployment()])
    assert len(queue) == 1
    world.controller.heard(NODE, world.put(gpu_node("another")))
    assert passes(world) == before


def test_an_apply_that_never_ends_is_tried_again_later_and_not_in_a_loop() -> None:
    world = at_rest()
    asked = 0

    async def always(desired: dict[str, Any]) -> Any:
        nonlocal asked
        asked += desired["kind"] == "RayService"
        return type(written)("patch")

    written = asyncio.run(world.cluster.apply(world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]))
    world.cluster.apply = always  # type: ignore[method-assign]
    world.edit(suspend=True)
    assert not world.step()
    assert asked == MOST_ROUNDS


AT = "2026-11-23T00:00:00Z"


def serving_world() -> Simulation:
    """A model that answers, as KubeRay reports it."""
    world = at_rest()
    live = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]
    status = make_rayservice(serving=True)["status"] | {"observedGeneration": live["metadata"]["generation"]}
    world.put({**copy.deepcopy(live), "status": status})
    for kind in ("head", "worker"):
        ready = [{"type": "Ready", "status": "True", "lastTransitionTime": AT}]
        pod = make_pod(kind, name=f"mixtral-x7k2p-{kind}")
        world.put(merged(pod, {"metadata": {"creationTimestamp": AT}, "status": {"conditions": ready}}))
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    return world


def downloading_world() -> Simulation:
    """A model that is planned, and whose weights are not there yet."""
    world = Simulation()
    world.put(model_deployment(model=stored()))
    world.settle()
    assert world.condition("WeightsReady")["reason"] == "Downloading"
    return world


def world_without_kuberay() -> Simulation:
    world = Simulation()
    world.cluster.absent |= {RAY_SERVICE, RAY_CLUSTER}
    world.put(model_deployment())
    world.settle()
    return world


def refused_world() -> Simulation:
    """A model that serves on, and whose edit fits nowhere."""
    world = serving_world()
    world.edit(hardware={"accelerators": ["NVIDIA-H200"]})
    world.settle()
    assert world.condition("PlanReady")["reason"] == "NothingFits"
    return world


def lose_a_label(world: Simulation) -> None:
    live = copy.deepcopy(world.cluster.objects.get((RAY_SERVICE, NAMESPACE, "mixtral")))
    if live is not None:
        live["metadata"]["labels"].pop(names.MANAGED_BY)
        world.put(live)


WORLDS = {
    "at rest": at_rest,
    "serving": serving_world,
    "downloading": downloading_world,
    "without KubeRay": world_without_kuberay,
    "a refused edit": refused_world,
}
EVENTS: dict[str, Change] = {
    "its nodes go": lambda world: world.cluster.remove(NODE, "", "node-0"),
    "a better node comes": lambda world: world.put(gpu_node("better", product="NVIDIA-H200", memory_mib=143771)),
    "its data class is edited": lambda world: world.edit(access={"dataClass": "public"}),
    "its RayService loses a label": lose_a_label,
    "KubeRay comes": lambda world: world.cluster.absent.clear(),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("begin", WORLDS.values(), ids=WORLDS)
def test_a_status_at_rest_is_what_a_restarted_operator_says(begin: Callable[[], Simulation], event: Change) -> None:
    world = begin()
    event(world)
    for _ in range(4):
        world.step()
    at_rest_now = told(world)
    world.restart()
    world.settle()
    assert told(world) == at_rest_now


def told(world: Simulation) -> dict[str, tuple[str, str, str]]:
    conditions = world.deployment()["status"]["conditions"]
    return {each["type"]: (each["status"], each["reason"], each["message"]) for each in conditions}


def test_a_change_of_metadata_alone_leaves_a_serving_model_ready() -> None:
    world = serving_world()
    world.edit(access={"dataClass": "public"})
    for _ in range(3):
        world.step()
    assert world.condition("Ready")["status"] == "True"

"""An operator that was rolled back meets a record of the version that ran meanwhile: it says so and does no more."""

from __future__ import annotations

import pytest
from tests.unit.operator.simulation import NAMESPACE, Simulation, model_deployment

from conclave import __version__, names
from conclave_cluster.resources import RAY_SERVICE, REVISION

TOLD = ("Ready", "PlanReady", "Reconciling", "Stalled")


@pytest.fixture
def world() -> Simulation:
    """Two deployments that have been planned; a newer version has then edited the plan of `mixtral`."""
    world = Simulation(nodes=2)
    world.put(model_deployment())
    world.put(model_deployment("other"))
    world.settle()
    record = next(item for item in of(world, "mixtral"))
    metadata = {key: value for key, value in record["metadata"].items() if key not in ("uid", "resourceVersion")}
    metadata |= {"name": "mixtral-newer", "annotations": {names.RECORD_VERSION: "99.0.0"}}
    world.put({**record, "metadata": metadata, "data": {"roles": []}, "revision": 2})
    world.cluster.writes.clear()
    world.restart()
    return world


def of(world: Simulation, name: str) -> list[dict]:  # type: ignore[type-arg]
    """The deployment's records."""
    return [
        item
        for (kind, _, _), item in world.cluster.objects.items()
        if kind == REVISION and item["metadata"]["labels"][names.MODEL_DEPLOYMENT] == name
    ]


def written(world: Simulation) -> set[str]:
    return {write for write in world.cluster.writes if "Event/" not in write}


def test_the_condition_says_both_versions_and_what_was_said_before_stays(world: Simulation) -> None:
    before = world.deployment()["status"]
    world.settle()
    assert written(world) == {"patch ModelDeployment/mixtral"}
    after = world.deployment()["status"]
    for kind in TOLD:
        condition = world.condition(kind)
        assert condition["reason"] == "RecordTooNew"
        assert "was written by Conclave 99.0.0" in condition["message"]
        assert f"this operator is Conclave {__version__}" in condition["message"]
    assert {kind: world.condition(kind)["status"] for kind in TOLD} == {
        "Ready": "Unknown",
        "PlanReady": "False",
        "Reconciling": "False",
        "Stalled": "True",
    }
    others = [condition for condition in before["conditions"] if condition["type"] not in TOLD]
    assert [condition for condition in after["conditions"] if condition["type"] not in TOLD] == others
    assert {key: after[key] for key in before if key != "conditions"} == {
        key: before[key] for key in before if key != "conditions"
    }


def test_no_edit_is_carried_out_and_everything_else_goes_on(world: Simulation) -> None:
    running = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]
    for change in ({"engine": {"maxModelLen": 4096}}, {"suspend": True}, {"scaling": {"maxReplicas": 4}}):
        world.edit(**change)
        world.settle()
        assert world.condition("Ready")["observedGeneration"] == world.deployment()["metadata"]["generation"]
    world.edit("other", engine={"maxModelLen": 4096})
    world.put(model_deployment("third"))
    world.settle()
    assert world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"] == running
    assert not [write for write in written(world) if "mixtral" in write and "ModelDeployment" not in write]
    assert "patch RayService/other" in written(world)
    assert "create RayService/third" in written(world)


def test_it_plans_anew_when_the_newer_record_is_gone(world: Simulation) -> None:
    world.edit(engine={"maxModelLen": 4096})
    world.settle()
    world.cluster.remove(REVISION, NAMESPACE, "mixtral-newer")
    world.settle()
    assert "patch RayService/mixtral" in written(world)
    assert world.condition("PlanReady")["reason"] == "Planned"
    assert world.condition("Stalled")["status"] == "False"

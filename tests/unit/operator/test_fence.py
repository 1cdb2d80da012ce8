"""An exception that nobody foresaw concerns one ModelDeployment: the others go on, and it says what has happened."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.unit.operator.simulation import NAMESPACE, Simulation, model_deployment

from conclave_cluster.cluster import Reading
from conclave_cluster.lease import LeadershipLost
from conclave_cluster.resources import CLAIM, RAY_SERVICE, Resource
from conclave_operator.kinds import key_of

Json = dict[str, Any]


def hinder(world: Simulation, error: Exception, claim: str = "weights") -> None:
    """Whoever reads this claim fails."""
    get = world.cluster.get

    async def failing(resource: Resource, namespace: str, name: str) -> Reading:
        if resource == CLAIM and name == claim:
            raise error
        return await get(resource, namespace, name)

    world.cluster.get = failing  # type: ignore[method-assign]


def passes(world: Simulation, count: int = 1) -> None:
    """As the work queue makes them."""
    for _ in range(count):
        for key in world.controller.fleet.known():
            try:
                asyncio.run(world.controller.process(key))
            except RuntimeError as error:
                world.controller._failed(key, error)
        for item in [item for (_, _, _), item in world.cluster.objects.items() if item["kind"] == "ModelDeployment"]:
            world.controller.fleet.watched(dict(item))


def failing_world() -> Simulation:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    hinder(world, RuntimeError("of a\nhostile object \x1b[31m" + "x" * 5000))
    return world


def test_the_status_says_so_the_metrics_count_it_and_what_runs_keeps_running() -> None:
    world = failing_world()
    before = world.deployment()["status"]
    running = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]
    passes(world)
    ready, stalled, reconciling = map(world.condition, ("Ready", "Stalled", "Reconciling"))
    assert (ready["status"], ready["reason"]) == ("Unknown", "InternalError")
    assert (stalled["status"], reconciling["status"]) == ("True", "False")
    assert ready["message"] == stalled["message"]
    for words in ("ModelDeployment llm/mixtral", "RuntimeError", "tried again", "operator's log"):
        assert words in ready["message"]
    assert "hostile" not in ready["message"]
    after = world.deployment()["status"]
    assert {**after, "conditions": ()} == {**before, "conditions": ()}
    types = sorted(condition["type"] for condition in before["conditions"])
    assert sorted(condition["type"] for condition in after["conditions"]) == types
    kept = [condition for condition in before["conditions"] if condition["type"] in ("PlanReady", "Serving")]
    assert all(condition in after["conditions"] for condition in kept)
    assert world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"] == running
    counted = world.controller._metrics.registry.get_sample_value(
        "conclave_reconciles_total", {"result": "internal_error"}
    )
    assert counted == 1


def test_nothing_is_written_while_it_fails_alike_and_the_end_of_it_is_noticed() -> None:
    world = failing_world()
    passes(world)
    count = len(world.cluster.writes)
    passes(world, 5)
    assert len(world.cluster.writes) == count
    del world.cluster.get  # type: ignore[method-assign]
    world.settle()
    assert world.condition("Ready")["reason"] != "InternalError"
    assert world.condition("Stalled")["status"] == "False"


def test_another_deployment_is_reconciled_meanwhile() -> None:
    world = Simulation()
    world.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "o", "namespace": NAMESPACE}})
    hinder(world, RuntimeError("of a hostile object"))
    world.put(model_deployment())
    source = {"persistentVolumeClaim": {"claimName": "o"}}
    world.put(model_deployment("other", model={"id": "mistralai/Mixtral-8x7B-Instruct-v0.1", "source": source}))
    for item in (world.deployment(), world.deployment("other")):
        world.controller.fleet.watched(item)
        world.controller.queue.add(key_of(item))

    async def work() -> None:
        running = asyncio.create_task(world.controller.queue.run())
        async with asyncio.timeout(20):
            await world.controller.queue.idle()
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(work())
    assert (RAY_SERVICE, NAMESPACE, "other") in world.cluster.objects
    assert world.condition("Ready")["reason"] == "InternalError"


def test_the_log_has_one_line_of_it_with_the_place_and_little_of_the_words(caplog: pytest.LogCaptureFixture) -> None:
    world = failing_world()
    with caplog.at_level(logging.ERROR):
        passes(world)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    began = r"llm/mixtral: the pass failed and is tried again: RuntimeError: of a\nhostile object \x1b[31mxxx"
    assert line.startswith(began)
    assert "conclave_cluster.observe.observe:" in line
    assert line.isprintable()
    assert len(line) < 800


def test_a_lost_lease_is_no_internal_error() -> None:
    world = Simulation()
    world.put(model_deployment())
    hinder(world, LeadershipLost("another one leads"))
    with pytest.raises(LeadershipLost):
        world.step()
    assert "status" not in world.deployment()


FORGED: dict[str, Any] = {
    "conditions that are none": {"conditions": ["x", {"type": 3}, {}]},
    "a text in their place": {"conditions": "x"},
    "a list for a status": ["x"],
}


@pytest.mark.parametrize("status", FORGED.values(), ids=FORGED)
def test_a_forged_status_does_not_keep_it_from_being_told(status: Any) -> None:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    world.put({**world.deployment(), "status": status})
    hinder(world, RuntimeError("of a hostile object"))
    world.restart()
    world.controller.fleet.watched(world.deployment())
    passes(world)
    conditions = [item for item in world.deployment()["status"]["conditions"] if isinstance(item, dict)]
    assert {"Ready", "Stalled"} <= {condition.get("type") for condition in conditions}

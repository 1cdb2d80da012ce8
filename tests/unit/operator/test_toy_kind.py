"""A second kind costs one record in the table and rooms of its own: here on the fake cluster, beside models."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime
from typing import Any

from tests.fake_cluster import FakeCluster
from tests.scenes import SETTINGS
from tests.toy_kind import GREETING, GREETINGS, LABEL, greeting
from tests.unit.operator.simulation import NAMESPACE, model_deployment

from conclave_cluster.resources import CONFIG_MAP, MODEL_DEPLOYMENT, Resource
from conclave_operator.controller import Controller
from conclave_operator.kinds import Key, key_of, watches_of
from conclave_operator.metrics import Metrics
from conclave_operator.model_deployments import model_deployments

Json = dict[str, Any]
NAME = "hello"
KEY = Key("Greeting", NAMESPACE, NAME)


class World:
    """A controller of two kinds."""

    def __init__(self) -> None:
        self.cluster = FakeCluster(GREETING)
        kinds = (model_deployments(SETTINGS), GREETINGS)
        self.controller = Controller(kinds, self.cluster, Metrics(), lambda: datetime(2026, 11, 23, tzinfo=UTC))

    def put(self, item: Json) -> Json:
        return self.cluster.put({**item, "metadata": {**item["metadata"], "namespace": NAMESPACE}})

    def tell(self, resource: Resource = GREETING) -> None:
        """What kopf's watch does."""
        for (kind, _, _), item in self.cluster.objects.items():
            if kind == resource and self.controller.fleet.watched(copy.deepcopy(item)):
                self.controller.queue.add(key_of(item))

    def work(self) -> list[str]:
        """Until nothing waits; what was written."""
        before = len(self.cluster.writes)

        async def main() -> None:
            running = asyncio.create_task(self.controller.queue.run())
            async with asyncio.timeout(20):
                await self.controller.queue.idle()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(main())
        return [write for write in self.cluster.writes[before:] if "Event" not in write]

    def greeting(self) -> Json:
        return self.cluster.objects[GREETING, NAMESPACE, NAME]

    def child(self) -> Json:
        return self.cluster.objects[CONFIG_MAP, NAMESPACE, NAME]


def greeted() -> World:
    world = World()
    world.put(greeting(NAME, "good day"))
    world.tell()
    assert world.work() == ["create ConfigMap/hello", "patch Greeting/hello"]
    return world


def test_it_is_created_with_its_child_and_its_status_is_written_once() -> None:
    world = greeted()
    assert world.child()["data"] == {"words": "good day"}
    assert world.greeting()["status"]["count"] == 1
    assert world.greeting()["status"]["conditions"][0]["status"] == "True"
    told = [item for (kind, _, _), item in world.cluster.objects.items() if kind.kind == "Event"]
    assert [(item["involvedObject"]["kind"], item["reason"]) for item in told] == [("Greeting", "AsWanted")]
    world.tell()
    assert world.work() == []
    world.controller.resync("Greeting", [copy.deepcopy(world.greeting())])
    assert world.work() == []


def test_an_edit_changes_its_child() -> None:
    world = greeted()
    world.put({**world.greeting(), "spec": {"words": "good night"}})
    world.tell()
    assert world.work() == ["patch ConfigMap/hello", "patch Greeting/hello"]
    assert world.child()["data"] == {"words": "good night"}
    assert world.greeting()["status"]["observedGeneration"] == 2


def test_a_child_that_somebody_else_changed_is_repaired_and_concerns_nobody_else() -> None:
    world = greeted()
    world.put({**model_deployment(NAME), "metadata": {"name": NAME}})
    world.tell(MODEL_DEPLOYMENT)
    world.work()
    changed = world.put({**world.child(), "data": {"words": "boo"}})
    world.controller.heard(CONFIG_MAP, changed)
    assert world.work() == ["patch ConfigMap/hello"]
    assert world.child()["data"] == {"words": "good day"}
    stranger = world.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "labels": {LABEL: "x"}}})
    world.controller.heard(CONFIG_MAP, stranger)
    assert len(world.controller.queue) == 0


def test_one_that_cannot_be_read_says_what_to_change_and_the_rest_goes_on() -> None:
    world = greeted()
    world.put({**world.greeting(), "spec": {"words": "much too many words for this"}})
    world.tell()
    world.work()
    ready = world.greeting()["status"]["conditions"][0]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "InvalidSpec")
    assert "words" in ready["message"]
    assert world.child()["data"] == {"words": "good day"}


def test_a_deleted_one_is_forgotten_and_a_list_without_it_too() -> None:
    world = greeted()
    world.cluster.remove(GREETING, NAMESPACE, NAME)
    world.controller.resync("Greeting", [])
    assert world.work() == []
    assert world.controller.fleet.known() == ()
    assert (CONFIG_MAP, NAMESPACE, NAME) not in world.cluster.objects


def test_what_several_kinds_read_is_watched_once() -> None:
    once = watches_of((GREETINGS,))
    assert watches_of((GREETINGS, GREETINGS)) == once
    assert {watch.resource for watch in once} == {CONFIG_MAP}

"""A cache over scripted answers: one object that cannot be read concerns no other, and the watch goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from conclave.observation import JsonObject
from conclave_cluster.cache import Cache
from conclave_cluster.client import Client
from conclave_cluster.observe import keep_event, keep_node, keep_pod
from conclave_cluster.resources import EVENT, NODE, POD, Resource
from conclave_operator.metrics import Metrics


class Script:
    """A client with one list and one watch, which then stays silent."""

    def __init__(self, listed: list[Any], told: list[Any]) -> None:
        self.listed, self.told, self.lists = listed, told, 0
        self.is_told = asyncio.Event()

    async def list(self, *_: object, **__: str) -> JsonObject:
        self.lists += 1
        return {"metadata": {"resourceVersion": "10"}, "items": self.listed}

    async def watch(self, *_: object, **__: str) -> AsyncIterator[JsonObject]:
        for number, (kind, item) in enumerate(self.told):
            if isinstance(item, dict) and isinstance(item.get("metadata"), dict):
                item["metadata"].setdefault("resourceVersion", str(11 + number))
            yield {"type": kind, "object": item}
        self.is_told.set()
        await asyncio.Event().wait()


def after(
    script: Callable[[], Script],
    project: Callable[[JsonObject], JsonObject | None],
    heard: Callable[[Resource, JsonObject], None] = lambda *_: None,
    resource: Resource = POD,
) -> Cache:
    """The cache once everything was told; nothing may have ended it."""

    async def main() -> Cache:
        client = script()
        cache = Cache(cast("Client", client), resource, "", heard, project)
        running = asyncio.create_task(cache.run())
        async with asyncio.timeout(10):
            await client.is_told.wait()
            assert cache.synced.is_set()
        assert not running.done()
        assert client.lists == 1
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return cache

    return asyncio.run(main())


def named(name: str, **fields: Any) -> JsonObject:
    return {"metadata": {"name": name, "namespace": "llm", "uid": f"uid-of-{name}"}, **fields}


def refusing_hostile(item: JsonObject) -> JsonObject:
    if item.get("hostile"):
        raise ValueError("Exceeds the limit (4300 digits)\n\x1b[31m" + "9" * 5000)
    return item


def names_in(cache: Cache) -> list[str]:
    return sorted(item["metadata"]["name"] for item in cache)


def test_an_object_that_a_projection_fails_on_is_absent_and_the_watch_goes_on() -> None:
    listed = [named("bad", hostile=True), named("a")]
    told = [
        ("ADDED", named("worse", hostile=True)),
        ("ADDED", named("b")),
        ("MODIFIED", named("a", hostile=True)),
        ("ADDED", named("c")),
    ]
    cache = after(lambda: Script(listed, told), refusing_hostile)
    assert names_in(cache) == ["b", "c"]
    assert cache.skipped == 3


NO_OBJECTS: dict[str, Any] = {
    "no object at all": None,
    "a list": [],
    "no metadata": {},
    "metadata that is a text": {"metadata": "x"},
    "no name": {"metadata": {"namespace": "llm"}},
    "a name that is a list": {"metadata": {"name": ["x"], "namespace": "llm"}},
    "a namespace that is a mapping": {"metadata": {"name": "x", "namespace": {}}},
}


@pytest.mark.parametrize("project", [keep_pod, keep_node, keep_event], ids=lambda project: project.__name__)
@pytest.mark.parametrize("item", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_what_has_no_name_is_passed_over(item: Any, project: Callable[[JsonObject], JsonObject | None]) -> None:
    told = [("ADDED", item), ("MODIFIED", item), ("DELETED", item), ("ADDED", named("a"))]
    cache = after(lambda: Script([item, named("b")], told), refusing_hostile)
    assert names_in(cache) == ["a", "b"]
    assert cache.skipped == 4
    assert list(after(lambda: Script([item], told[:3]), project, resource=NODE)) == []


def test_a_listener_that_fails_loses_one_word_and_not_the_object() -> None:
    heard: list[str] = []

    def listener(_: Resource, item: JsonObject) -> None:
        heard.append(item["metadata"]["name"])
        raise KeyError("involvedObject")

    told = [("ADDED", named("b")), ("DELETED", named("b")), ("ADDED", named("c"))]
    cache = after(lambda: Script([named("a")], told), dict, listener)
    assert names_in(cache) == ["a", "c"]
    assert heard == ["a", "b", "b", "c"]
    assert cache.skipped == 4


def test_it_is_logged_once_for_a_version_on_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    bad = named("bad", hostile=True)
    bad["metadata"]["resourceVersion"] = "5"
    newer = {**bad, "metadata": {**bad["metadata"], "resourceVersion": "6"}}
    with caplog.at_level(logging.ERROR):
        after(lambda: Script([bad, bad], [("ADDED", bad), ("MODIFIED", newer)]), refusing_hostile)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(": ")[0] for line in lines] == [
        f"pods llm/bad at version {version} is passed over" for version in "56"
    ]
    assert all(line.isprintable() and len(line) < 300 for line in lines)


def test_what_was_passed_over_is_counted_by_resource() -> None:
    metrics = Metrics()
    metrics.watch_skipped(lambda: {"pods": 3}.items())
    assert 'conclave_skipped_objects_total{resource="pods"} 3.0' in generate_latest(metrics.registry).decode()


def test_a_warning_about_a_pod_without_a_name_is_passed_over() -> None:
    about: dict[str, Any] = {"kind": "Pod", "uid": "u", "namespace": "llm"}
    good = named("good", type="Warning", reason="Failed", involvedObject={**about, "name": "mixtral-head"})
    bad = named("bad", type="Warning", reason="Failed", involvedObject=about)
    cache = after(lambda: Script([bad], [("ADDED", bad), ("ADDED", good)]), keep_event, resource=EVENT)
    assert names_in(cache) == ["good"]

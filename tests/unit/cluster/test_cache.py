"""A cache over scripted answers: one object that cannot be read concerns no other, and the watch goes on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from conclave.kubernetes.objects import JsonObject
from conclave_cluster.cache import MOST_SHARED, Bound, Cache, _text, keep_owner
from conclave_cluster.client import Client
from conclave_cluster.observe import EVENT_BOUND, keep_event, keep_node, keep_pod, keep_resource_slice
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


@pytest.mark.parametrize(
    "project", [keep_pod, keep_node, keep_event, keep_resource_slice], ids=lambda project: project.__name__
)
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


def told_event(name: str, about: str, *, reason: str = "Failed", **fields: Any) -> JsonObject:
    involved = {"kind": "Pod", "name": about, "namespace": "llm", "uid": "u"}
    return named(name, type="Warning", reason=reason, involvedObject=involved, **fields)


def flood(*told: JsonObject, listed: tuple[JsonObject, ...] = (), bound: Bound = EVENT_BOUND) -> Cache:
    async def main() -> Cache:
        client = Script(list(listed), [("ADDED", item) for item in told])
        cache = Cache(cast("Client", client), EVENT, "", lambda *_: None, keep_event, bound=bound)
        running = asyncio.create_task(cache.run())
        async with asyncio.timeout(30):
            await client.is_told.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return cache

    return asyncio.run(main())


def test_of_a_flood_about_one_object_the_newest_are_kept_and_no_other_object_s_are_lost() -> None:
    events = [told_event(f"e{number:04}", "victim") for number in range(500)]
    cache = flood(told_event("older", "other"), *events)
    kept = names_in(cache)
    assert "older" in kept
    assert "e0499" in kept
    assert "e0000" not in kept
    assert len(kept) <= 1 + 1.1 * EVENT_BOUND.most_of_group
    assert kept[-15:-1] == [f"e{number:04}" for number in range(486, 500)]


def test_of_a_flood_about_many_objects_a_namespace_keeps_so_many_and_other_namespaces_theirs() -> None:
    bound = EVENT_BOUND._replace(most_of_namespace=100)
    events = [told_event(f"e{number:04}", f"pod-{number}") for number in range(500)]
    far = told_event("far", "pod")
    far["metadata"]["namespace"] = "elsewhere"
    kept = names_in(flood(far, *events, bound=bound))
    assert {"far", "e0499"} <= set(kept)
    assert 100 <= len(kept) <= 111


def test_an_event_that_is_told_again_is_one() -> None:
    again = [told_event("same", f"pod-{number % 7}") for number in range(300)]
    for number, item in enumerate(again):
        item["metadata"]["resourceVersion"] = str(11 + number)
    cache = flood(*again)
    assert names_in(cache) == ["same"]
    assert sum(map(len, cache._groups.values())) == 2


def test_of_an_event_what_is_read_is_kept_and_its_text_is_cut() -> None:
    event = told_event("big", "pod", message="<" * 1_000_000, action="x" * 100_000, source={"component": "y" * 100_000})
    event["metadata"]["annotations"] = {"a": "x" * 100_000}
    event["metadata"]["managedFields"] = [{"manager": "x"}]
    kept = keep_event(event)
    assert kept is not None
    assert len(json.dumps(kept)) < 9000
    assert kept["message"] == "<" * 8192


@pytest.mark.parametrize("reason", ["BackOff", "Unhealthy", "FailedScheduling", "x" * 100_000, ["Failed"], None])
def test_events_of_reasons_that_nobody_reads_are_not_kept(reason: Any) -> None:
    assert keep_event(told_event("e", "pod", reason=reason)) is None


def test_what_anybody_may_make_large_is_listed_in_small_pages() -> None:
    asked: list[str] = []

    class Listing(Script):
        async def list(self, *_: object, **query: str) -> JsonObject:
            asked.append(query["limit"])
            return await super().list()

    async def main(bound: Bound | None) -> None:
        client = Listing([], [])
        cache = Cache(cast("Client", client), EVENT, "", lambda *_: None, keep_event, bound=bound)
        running = asyncio.create_task(cache.run())
        await client.is_told.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main(EVENT_BOUND))
    asyncio.run(main(None))
    assert asked == ["50", "500"]


def test_texts_that_objects_share_are_bounded_whatever_tenants_write() -> None:
    for number in range(MOST_SHARED + 100):
        keep_owner({"metadata": {"name": "theirs", "labels": {"made-up": f"value-{number}"}}})
    assert _text.cache_info().currsize <= MOST_SHARED
    first, second = (keep_owner({"metadata": {"labels": {"a": "".join(["la", "bel"])}}}) for _ in range(2))
    assert first["metadata"]["labels"]["a"] is second["metadata"]["labels"]["a"]

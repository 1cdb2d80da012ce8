"""What the caches keep of objects that an apply compares: ours whole, of others' only whose they are."""

from __future__ import annotations

from typing import Any, cast

import pytest

from conclave_cluster.cache import LARGEST_BYTES, MOST_UNPACKED, Cache, Projection
from conclave_cluster.client import Client
from conclave_cluster.observe import keep_ours, keep_record
from conclave_cluster.resources import NETWORK_POLICY

OWNER = {"apiVersion": "conclave.dev/v1alpha1", "kind": "ModelDeployment", "name": "mixtral", "uid": "1"}
OURS = [{**OWNER, "controller": True}]


def policy(name: str, owners: list[dict[str, Any]] | None, size: int = 10) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "llm", "uid": "2", "resourceVersion": "3", "annotations": {"a": "b"}}
    return {"metadata": {**metadata, "ownerReferences": owners}, "spec": {"x": "y" * size}}


def packed(projection: Projection) -> Cache:
    """As the operator keeps what an apply compares, with nobody behind it."""
    client = cast("Client", None)
    labels = ("owner",)
    return Cache(client, NETWORK_POLICY, "", lambda *_: None, projection, indexed=labels, is_packed=True)


def kept_of(item: dict[str, Any], projection: Projection) -> dict[str, Any]:
    cache = packed(projection)
    cache.learn({**item, "metadata": dict(item["metadata"])})
    found = cache.get("llm", item["metadata"]["name"])
    assert found is not None
    assert (found.pop("apiVersion"), found.pop("kind")) == ("networking.k8s.io/v1", "NetworkPolicy")
    return found


@pytest.mark.parametrize(
    ("name", "owners", "size", "is_whole"),
    [
        pytest.param("mixtral", OURS, 10, True, id="a RayService or a policy of a deployment"),
        pytest.param("mixtral.head", OURS, 10, True, id="its head's policy"),
        pytest.param("mixtral", OURS, 100_000, True, id="one that somebody else's fields made large"),
        pytest.param("mixtral", OURS, LARGEST_BYTES, False, id="one as large as no build makes it"),
        pytest.param("mixtral", None, 10, False, id="one of nobody"),
        pytest.param("mixtral", [OWNER], 10, False, id="one that it does not control"),
        pytest.param("mixtral", [{**OURS[0], "kind": "Deployment"}], 10, False, id="one of another kind"),
        pytest.param("flood-17", OURS, 10, False, id="one under a name that is never given"),
    ],
)
def test_what_is_kept_of_an_object(name: str, owners: list[dict[str, Any]] | None, size: int, is_whole: bool) -> None:
    item = policy(name, owners, size)
    kept = kept_of(item, keep_ours)
    assert (kept == item) is is_whole
    assert kept["metadata"]["ownerReferences"] == owners
    assert is_whole or set(kept) == {"metadata"}
    assert is_whole or "annotations" not in kept["metadata"]


def test_a_record_of_a_deployment_is_kept_under_any_name_that_it_may_be_named() -> None:
    forged = policy("whatever", OURS)
    assert kept_of(forged, keep_record) == forged
    assert set(kept_of(policy("whatever", None), keep_record)) == {"metadata"}
    assert set(kept_of(policy("whatever", OURS, LARGEST_BYTES), keep_record)) == {"metadata"}


def test_packed_objects_are_found_by_name_by_namespace_and_by_label_as_they_were() -> None:
    cache = packed(keep_ours)
    items = [policy("mixtral", OURS) for _ in range(3 * MOST_UNPACKED)]
    for number, item in enumerate(items):
        item["metadata"] |= {"namespace": f"llm-{number % 2}", "name": "mixtral" if number < 2 else f"x-{number}"}
        item["metadata"]["labels"] = {"owner": f"m-{number // 4}", "more": "yes"}
        cache.learn(item)
    for number, item in enumerate(items):
        found = cache.get(item["metadata"]["namespace"], item["metadata"]["name"])
        assert found is not None
        assert found.get("spec") == (item["spec"] if number < 2 else None)

    def names(*asked: Any) -> list[str]:
        return [found["metadata"]["name"] for found in cache.select(*asked)]

    assert names("llm-0", {"owner": "m-1"}) == ["x-4", "x-6"]
    assert names("llm-1", {"owner": "m-1", "more": "yes"}) == ["x-5", "x-7"]
    assert names("llm-1", {"owner": "m-1", "more": "no"}) == []
    assert names("llm-1", {"owner": "m-999"}) == []
    assert names("", {"owner": "m-1"}) == ["x-4", "x-5", "x-6", "x-7"]
    assert len(names("llm-0")) == len(names()) / 2 == len(items) / 2


def test_a_label_that_changes_is_selected_by_its_new_value_only() -> None:
    cache = packed(keep_ours)
    for version, owner in ((4, "one"), (5, "other")):
        item = policy("mixtral", OURS)
        item["metadata"] |= {"labels": {"owner": owner}, "resourceVersion": str(version)}
        cache.learn(item)
    assert list(cache.select("llm", {"owner": "one"})) == []
    assert len(list(cache.select("llm", {"owner": "other"}))) == 1


def test_all_objects_are_the_same_tuple_until_one_changes_in_what_is_kept_of_it() -> None:
    cache = packed(keep_ours)
    first = policy("mixtral", OURS)
    cache.learn(first)
    seen = cache.all()
    again = {**policy("mixtral", OURS)}
    again["metadata"]["resourceVersion"] = "4"
    cache.learn(again)
    assert cache.all() is seen
    changed = policy("mixtral", OURS, size=11)
    changed["metadata"]["resourceVersion"] = "5"
    cache.learn(changed)
    assert cache.all() is not seen
    assert [len(item["spec"]["x"]) for item in cache.all()] == [11]

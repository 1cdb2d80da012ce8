"""What every `Cluster` does, whatever lies behind it: run against the fake and against a real API server."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from conclave.kubernetes.failures import FOREIGN_OWNER
from conclave_cluster.cluster import Cluster
from conclave_cluster.resources import NETWORK_POLICY, RESOURCE_SLICE, SECRET, Resource

Json = dict[str, Any]


class Bed(Protocol):
    """One cluster under test and the hands of somebody else who works in it."""

    cluster: Cluster
    namespace: str
    absent: Resource
    """A kind that this cluster does not have."""

    async def put(self, manifest: Json) -> Json:
        """Somebody else makes an object, or edits it in place; returns it as stored."""
        ...

    async def live(self, kind: str, name: str) -> Json | None: ...

    async def remove(self, kind: str, name: str) -> None: ...

    def forbid(self, verb: str, plural: str) -> None: ...


async def an_object_is_created_once_and_then_left_alone(bed: Bed) -> None:
    desired = await policy(bed)
    assert (await bed.cluster.apply(desired)).verb == "create"
    first = await bed.live("NetworkPolicy", "p")
    assert first is not None
    assert (await bed.cluster.apply(desired)) == ("", None)
    second = await bed.live("NetworkPolicy", "p")
    assert second is not None
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def a_changed_value_is_repaired(bed: Bed) -> None:
    desired = await policy(bed)
    await bed.cluster.apply(desired)
    await edit(bed, lambda spec: spec["podSelector"]["matchLabels"].update(app="other"))
    assert (await bed.cluster.apply(desired)).verb == "patch"
    assert await spec_of(bed) == desired["spec"]


async def a_foreign_field_in_spec_is_removed_and_stays_removed(bed: Bed) -> None:
    desired = await policy(bed)
    await bed.cluster.apply(desired)
    await edit(bed, lambda spec: spec["podSelector"]["matchLabels"].update(more="yes"))
    assert (await bed.cluster.apply(desired)).verb == "patch"
    assert await spec_of(bed) == desired["spec"]
    assert (await bed.cluster.apply(desired)) == ("", None)


async def a_field_that_is_no_longer_wanted_goes(bed: Bed) -> None:
    desired = await policy(bed)
    wider = copy.deepcopy(desired)
    wider["spec"]["podSelector"]["matchLabels"]["more"] = "yes"
    wider["metadata"]["labels"] = {"a": "1", "b": "2"}
    await bed.cluster.apply(wider)
    desired["metadata"]["labels"] = {"a": "1"}
    assert (await bed.cluster.apply(desired)).verb == "patch"
    live = await bed.live("NetworkPolicy", "p")
    assert live is not None
    assert live["spec"] == desired["spec"]
    assert live["metadata"]["labels"] == {"a": "1"}
    assert (await bed.cluster.apply(desired)) == ("", None)


async def labels_of_others_stay(bed: Bed) -> None:
    desired = await policy(bed)
    await bed.cluster.apply(desired)
    live = await bed.live("NetworkPolicy", "p")
    assert live is not None
    live["metadata"]["labels"] = {"theirs": "x"}
    await bed.put(live)
    assert (await bed.cluster.apply(desired)) == ("", None)
    live = await bed.live("NetworkPolicy", "p")
    assert live is not None
    assert live["metadata"]["labels"] == {"theirs": "x"}


async def a_deleted_object_comes_back(bed: Bed) -> None:
    desired = await policy(bed)
    await bed.cluster.apply(desired)
    await bed.remove("NetworkPolicy", "p")
    assert (await bed.cluster.apply(desired)).verb == "create"


async def an_object_of_nobody_is_never_adopted(bed: Bed) -> None:
    desired = await policy(bed)
    theirs = copy.deepcopy(desired)
    del theirs["metadata"]["ownerReferences"]
    theirs["spec"]["podSelector"]["matchLabels"] = {"app": "theirs"}
    await bed.put(theirs)
    written = await bed.cluster.apply(desired)
    assert written.failure is not None
    assert (written.verb, written.failure.reason) == ("", FOREIGN_OWNER)
    assert await spec_of(bed) == theirs["spec"]


async def an_object_of_another_owner_is_never_adopted_nor_deleted(bed: Bed) -> None:
    theirs = await policy(bed, owner="other")
    await bed.cluster.apply(theirs)
    desired = await policy(bed)
    written = await bed.cluster.apply(desired)
    assert written.failure is not None
    assert written.failure.reason == FOREIGN_OWNER
    deleted = await bed.cluster.delete(desired)
    assert deleted.failure is not None
    assert deleted.failure.reason == FOREIGN_OWNER
    assert await bed.live("NetworkPolicy", "p") is not None


async def deleting_is_done_once(bed: Bed) -> None:
    desired = await policy(bed)
    await bed.cluster.apply(desired)
    assert (await bed.cluster.delete(desired)).verb == "delete"
    assert (await bed.cluster.delete(desired)) == ("", None)


async def a_secret_is_created_once_and_never_overwritten(bed: Bed) -> None:
    def secret(token: str) -> Json:
        metadata = {"name": "s", "namespace": bed.namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"token": token}}

    assert (await bed.cluster.create_once(secret("Zmlyc3Q="))).verb == "create"
    assert (await bed.cluster.create_once(secret("c2Vjb25k"))) == ("", None)
    live = await bed.live("Secret", "s")
    assert live is not None
    assert live["data"] == {"token": "Zmlyc3Q="}


async def what_rbac_refuses_is_data_that_names_verb_and_resource(bed: Bed) -> None:
    desired = await policy(bed)
    bed.forbid("patch", "networkpolicies")
    written = await bed.cluster.apply(desired)
    assert written.failure is not None
    assert written.verb == ""
    failure = written.failure
    assert (failure.verb, failure.group, failure.resource, failure.code, failure.reason) == (
        "patch",
        "networking.k8s.io",
        "networkpolicies",
        403,
        "Forbidden",
    )
    assert failure.namespace == bed.namespace


async def labels_select(bed: Bed) -> None:
    desired = await policy(bed)
    desired["metadata"]["labels"] = {"a": "1", "b": "2"}
    await bed.cluster.apply(desired)
    for labels, found in (({"a": "1"}, ["p"]), ({"a": "1", "b": "2"}, ["p"]), ({"a": "2"}, []), (None, ["p"])):
        reading = await bed.cluster.list(NETWORK_POLICY, bed.namespace, labels)
        assert [item["metadata"]["name"] for item in reading.objects] == found
        assert reading.failure is None


async def what_does_not_exist_is_nothing_and_no_failure(bed: Bed) -> None:
    assert await bed.cluster.get(NETWORK_POLICY, bed.namespace, "absent") == ((), None)
    bed.forbid("get", "secrets")
    reading = await bed.cluster.get(SECRET, bed.namespace, "absent")
    assert reading.failure is not None
    assert (reading.failure.verb, reading.failure.resource) == ("get", "secrets")


async def a_kind_that_the_cluster_does_not_have_is_a_404(bed: Bed) -> None:
    reading = await bed.cluster.list(bed.absent, bed.namespace)
    assert reading.failure is not None
    assert (reading.objects, reading.failure.code, reading.failure.resource) == ((), 404, bed.absent.plural)
    assert await bed.cluster.schema(bed.absent) == ((), None)


async def objects_of_the_whole_cluster_are_listed_without_a_namespace(bed: Bed) -> None:
    name = f"{bed.namespace}-gpu.nvidia.com"
    device = {"name": "gpu-0", "attributes": {"productName": {"string": "NVIDIA H100 80GB HBM3"}}}
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.nvidia.com", "nodeName": name, "pool": pool, "devices": [device]}
    api_version = RESOURCE_SLICE.api_version
    await bed.put({"apiVersion": api_version, "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec})
    reading = await bed.cluster.list(RESOURCE_SLICE)
    assert reading.failure is None
    (found,) = [item for item in reading.objects if item["metadata"]["name"] == name]
    assert found["spec"]["devices"][0]["attributes"] == device["attributes"]
    await bed.remove("ResourceSlice", name)


ABSENT = Resource("absent.conclave.dev", "v1", "Absent", "absents")

CASES: tuple[Callable[[Bed], Awaitable[None]], ...] = (
    an_object_is_created_once_and_then_left_alone,
    a_changed_value_is_repaired,
    a_foreign_field_in_spec_is_removed_and_stays_removed,
    a_field_that_is_no_longer_wanted_goes,
    labels_of_others_stay,
    a_deleted_object_comes_back,
    an_object_of_nobody_is_never_adopted,
    an_object_of_another_owner_is_never_adopted_nor_deleted,
    deleting_is_done_once,
    a_secret_is_created_once_and_never_overwritten,
    what_rbac_refuses_is_data_that_names_verb_and_resource,
    labels_select,
    what_does_not_exist_is_nothing_and_no_failure,
    a_kind_that_the_cluster_does_not_have_is_a_404,
    objects_of_the_whole_cluster_are_listed_without_a_namespace,
)


async def policy(bed: Bed, owner: str = "owner") -> Json:
    """A NetworkPolicy that a ConfigMap owns."""
    metadata = {"name": owner, "namespace": bed.namespace}
    held = await bed.live("ConfigMap", owner) or await bed.put(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    )
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": owner,
        "uid": held["metadata"]["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": bed.namespace, "ownerReferences": [reference]},
        "spec": {"podSelector": {"matchLabels": {"app": "mine"}}, "policyTypes": ["Ingress"]},
    }


async def edit(bed: Bed, change: Callable[[Json], None]) -> None:
    live = await bed.live("NetworkPolicy", "p")
    assert live is not None
    change(live["spec"])
    await bed.put(live)


async def spec_of(bed: Bed) -> Json:
    live = await bed.live("NetworkPolicy", "p")
    assert live is not None
    spec: Json = live["spec"]
    return spec

"""What has to be written, told from the live object alone; ownership trees as API servers write them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from conclave_cluster.comparison import has_foreign_spec, has_same_controller, needs_apply

Json = dict[str, Any]

DESIRED: Json = {
    "apiVersion": "ray.io/v1",
    "kind": "RayService",
    "metadata": {"name": "m", "namespace": "n", "labels": {"a": "1"}},
    "spec": {
        "serve": "text",
        "params": {"x": "0"},
        "containers": [{"name": "ray", "env": [{"name": "A", "value": "1"}], "args": ["--one"]}],
        "groups": [{"replicas": 1}],
    },
}
OWNED: Json = {
    "f:metadata": {"f:labels": {"f:a": {}}},
    "f:spec": {
        "f:serve": {},
        "f:params": {"f:x": {}},
        "f:containers": {
            'k:{"name":"ray"}': {
                ".": {},
                "f:name": {},
                "f:env": {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}},
                "f:args": {},
            }
        },
        "f:groups": {},
    },
}


def live() -> Json:
    """As the API server holds it right after an apply, with what it and its controller filled in."""
    item = copy.deepcopy(DESIRED)
    item["metadata"] |= {"uid": "u", "resourceVersion": "1", "generation": 1}
    item["metadata"]["managedFields"] = [
        {"manager": "conclave", "operation": "Apply", "fieldsV1": copy.deepcopy(OWNED)},
        {"manager": "kuberay", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {"f:x": {}}}},
    ]
    item["spec"]["groups"][0]["numOfHosts"] = 1
    item["status"] = {"x": 1}
    return item


def test_what_was_applied_needs_nothing() -> None:
    assert not needs_apply(DESIRED, live())
    assert not has_foreign_spec(DESIRED, live())


def _other_value(item: Json) -> None:
    item["spec"]["params"]["x"] = "4"


def _lost_item(item: Json) -> None:
    item["spec"]["groups"] = []


def _longer_list(item: Json) -> None:
    item["spec"]["groups"].append({"replicas": 2})


def _atomic_list_extended(item: Json) -> None:
    item["spec"]["groups"][0]["theirs"] = "x"
    del item["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:groups"]


def _managers_cleared(item: Json) -> None:
    item["metadata"]["managedFields"] = []


def _field_no_longer_wanted(item: Json) -> None:
    item["spec"]["old"] = True
    item["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:old"] = {}


def _list_item_no_longer_wanted(item: Json) -> None:
    env = item["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:containers"]['k:{"name":"ray"}']["f:env"]
    env['k:{"name":"B"}'] = {".": {}, "f:name": {}}


def _label_no_longer_wanted(item: Json) -> None:
    item["metadata"]["labels"]["b"] = "2"
    item["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"]["f:b"] = {}


@pytest.mark.parametrize(
    "change",
    [
        _other_value,
        _lost_item,
        _longer_list,
        _atomic_list_extended,
        _managers_cleared,
        _field_no_longer_wanted,
        _list_item_no_longer_wanted,
        _label_no_longer_wanted,
    ],
    ids=lambda change: change.__name__.strip("_").replace("_", " "),
)
def test_these_need_an_apply(change: Callable[[Json], None]) -> None:
    item = live()
    change(item)
    assert needs_apply(DESIRED, item)


@pytest.mark.parametrize(
    ("fields", "spec", "is_foreign"),
    [
        ({"f:params": {"f:x": {}}}, {}, False),
        ({"f:params": {"f:y": {}}}, {"params": {"x": "0", "y": "1"}}, True),
        ({"f:serveService": {"f:name": {}}}, {"serveService": {"name": "theirs"}}, True),
        ({"f:serveService": {}}, {"serveService": {}}, False),
        ({"f:serveService": {"f:metadata": {}}}, {"serveService": {"metadata": {"labels": {}}}}, False),
        ({"f:suspend": {}}, {"suspend": False}, True),
        (
            {"f:containers": {'k:{"name":"side"}': {".": {}, "f:name": {}}}},
            {"containers": [{"name": "ray"}, {"name": "side"}]},
            True,
        ),
    ],
    ids=[
        "the same field with the same value",
        "a key added to a map",
        "a field that we do not set",
        "an empty field, as typed clients write back",
        "nested empty fields",
        "false is a value",
        "a container beside ours",
    ],
)
def test_fields_of_others_in_spec(fields: Json, spec: Json, is_foreign: bool) -> None:
    item = live()
    item["spec"] |= spec
    item["metadata"]["managedFields"].append(
        {"manager": "somebody", "operation": "Update", "fieldsV1": {"f:spec": fields}}
    )
    assert has_foreign_spec(DESIRED, item) is is_foreign


def test_what_a_typed_client_writes_back_with_empty_fields_is_left_alone() -> None:
    item = live()
    del item["spec"]["groups"][0]["numOfHosts"]
    item["spec"]["groups"][0]["scaleStrategy"] = {}
    item["spec"]["params"]["resources"] = {"limits": {}}
    fields = item["metadata"]["managedFields"]
    del fields[0]["fieldsV1"]["f:spec"]["f:groups"]
    theirs = {"f:spec": {"f:groups": {}, "f:params": {"f:resources": {}}}}
    fields.append({"manager": "ray-operator", "operation": "Update", "fieldsV1": theirs})
    assert not needs_apply(DESIRED, item)
    assert not has_foreign_spec(DESIRED, item)


def test_fields_of_others_in_metadata_and_status_are_theirs() -> None:
    item = live()
    fields = {"f:metadata": {"f:finalizers": {}, "f:labels": {"f:theirs": {}}}}
    item["metadata"]["managedFields"].append({"manager": "somebody", "operation": "Update", "fieldsV1": fields})
    assert not has_foreign_spec(DESIRED, item)
    assert not needs_apply(DESIRED, item)


@pytest.mark.parametrize(
    ("owners", "is_ours"),
    [
        ([{"uid": "u1", "controller": True}], True),
        ([{"uid": "u1", "controller": True}, {"uid": "u2"}], True),
        ([{"uid": "u2", "controller": True}], False),
        ([{"uid": "u1"}], False),
        ([], False),
    ],
    ids=["ours", "ours and a second, not controlling owner", "another's", "named but not controlled", "nobody's"],
)
def test_ownership_is_the_controller_reference(owners: list[Json], is_ours: bool) -> None:
    desired = {"metadata": {"ownerReferences": [{"uid": "u1", "controller": True}]}}
    assert has_same_controller({"metadata": {"ownerReferences": owners}}, desired) is is_ours

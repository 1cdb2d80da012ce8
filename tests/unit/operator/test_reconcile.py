"""The controller over the fake cluster: it converges, it stays quiet, and no crash changes where it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.operator.simulation import NAMESPACE, Crash, Simulation, gpu_node, model_deployment

from conclave.catalogue.models import find_model
from conclave.settings import OperatorSettings
from conclave_cluster.resources import (
    CONFIG_MAP,
    EVENT,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    NODE,
    RAY_SERVICE,
    REVISION,
    SECRET,
)

Json = dict[str, Any]


def test_a_new_deployment_is_written_in_order_and_then_nothing_more() -> None:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    writes = [write for write in world.cluster.writes if not write.startswith("create Event")]
    kinds = [write.partition("/")[0] for write in writes]
    assert kinds == [
        "create Secret",
        "create ControllerRevision",
        "create NetworkPolicy",
        "create NetworkPolicy",
        "create RayService",
        *["patch ModelDeployment"] * kinds.count("patch ModelDeployment"),
    ]
    count = len(world.cluster.writes)
    for _ in range(5):
        world.step()
    assert len(world.cluster.writes) == count


def test_a_restart_writes_nothing() -> None:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    count = len(world.cluster.writes)
    world.restart()
    world.settle()
    assert len(world.cluster.writes) == count


EDITS: dict[str, Json] = {
    "another context length": {"engine": {"maxModelLen": 8192}},
    "more replicas": {"scaling": {"minReplicas": 2, "maxReplicas": 4}},
    "suspended": {"suspend": True},
    "another region": {"access": {"dataClass": "internal", "regions": ["eu-west-1"]}},
    "four ranks": {"parallelism": {"tensor": 4}},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_a_b_a_returns_to_a(edit: Json) -> None:
    world = Simulation()
    original = world.put(model_deployment())
    world.settle()
    before = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"]
    world.edit(**edit)
    world.settle()
    assert world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"] != before
    back = world.deployment()
    back["spec"] = original["spec"]
    world.put(back)
    world.settle()
    assert world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"] == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("edit", [None, *EDITS.values()][:3], ids=["created", *EDITS][:3])
def test_a_crash_at_any_write_ends_where_no_crash_ends(when: str, edit: Json | None) -> None:
    calm = _run(edit, crash_at=None, when=when)
    for crash_at in range(1, len(calm.cluster.writes) + 1):
        crashed = _run(edit, crash_at=crash_at, when=when)
        assert crashed.children() == calm.children(), f"crash {when} write {crash_at}"
        assert _timeless(crashed.deployment()["status"]) == _timeless(calm.deployment()["status"])


def _run(edit: Json | None, crash_at: int | None, when: str) -> Simulation:
    world = Simulation()
    seen = 0

    def fault(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == crash_at:
            raise Crash

    setattr(world.cluster, f"{when}_write", fault)
    world.put(model_deployment())
    _settle_through_crashes(world)
    if edit is not None:
        world.edit(**edit)
        _settle_through_crashes(world)
    return world


def _settle_through_crashes(world: Simulation) -> None:
    try:
        world.settle()
    except Crash:
        world.restart()
        world.settle()


DRIFT = ("delete RayService", "delete NetworkPolicy", "wipe status", "forge status", "restart")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.one_of(
            st.sampled_from(sorted(EDITS)).map(lambda name: ("edit", name)),
            st.sampled_from(DRIFT).map(lambda what: (what, "")),
        ),
        max_size=6,
    ),
    reconcile_after=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_any_sequence_of_edits_and_drift_ends_in_nothing_to_do(
    steps: list[tuple[str, str]], reconcile_after: list[bool]
) -> None:
    world = Simulation()
    world.put(model_deployment())
    spec = dict(world.deployment()["spec"])
    for (what, name), is_reconciled in zip(steps, reconcile_after, strict=False):
        if what == "edit":
            spec |= EDITS[name]
            world.edit(**EDITS[name])
        elif what == "restart":
            world.restart()
        elif what.endswith("status"):
            item = world.deployment()
            item["status"] = {} if what.startswith("wipe") else {"readyReplicas": 7, "plan": {"tensor": 99}}
            world.put(item)
        else:
            kind = RAY_SERVICE if what.endswith("RayService") else NETWORK_POLICY
            world.cluster.remove(kind, NAMESPACE, "mixtral")
        if is_reconciled:
            world.step()
    world.settle()
    fresh = Simulation()
    fresh.put(model_deployment(**spec))
    fresh.settle()
    ours, theirs = (one.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"] for one in (world, fresh))
    assert ours["rayClusterConfig"]["suspend"] == theirs["rayClusterConfig"]["suspend"]
    assert world.deployment()["status"]["observedGeneration"] == world.deployment()["metadata"]["generation"]
    assert world.deployment()["status"]["readyReplicas"] == 0


def test_deletion_needs_no_operator() -> None:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    world.cluster.remove(MODEL_DEPLOYMENT, NAMESPACE, "mixtral")
    kinds = {kind for kind, _, _ in world.cluster.objects}
    assert not kinds & {RAY_SERVICE, NETWORK_POLICY, REVISION, SECRET}


REFUSALS: dict[str, tuple[Callable[[Simulation], None], str, str]] = {
    "KubeRay is absent": (
        lambda world: world.cluster.absent.add(RAY_SERVICE),
        "DependencyMissing",
        "KubeRay",
    ),
    "patching RayServices is forbidden": (
        lambda world: world.cluster.forbidden.add(("patch", RAY_SERVICE)),
        "Forbidden",
        "rayservices",
    ),
    "creating Secrets is forbidden": (
        lambda world: world.cluster.forbidden.add(("create", SECRET)),
        "Forbidden",
        "secrets",
    ),
    "listing ControllerRevisions is forbidden": (
        lambda world: world.cluster.forbidden.add(("list", REVISION)),
        "Forbidden",
        "controllerrevisions",
    ),
}


@pytest.mark.parametrize(("hinder", "reason", "named"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_the_cluster_refuses_is_told_and_its_end_is_noticed(
    hinder: Callable[[Simulation], None], reason: str, named: str
) -> None:
    world = Simulation()
    hinder(world)
    world.put(model_deployment())
    world.settle()
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert named in ready["message"]
    assert (RAY_SERVICE, NAMESPACE, "mixtral") not in world.cluster.objects
    world.cluster.absent.clear()
    world.cluster.forbidden.clear()
    world.settle()
    assert (RAY_SERVICE, NAMESPACE, "mixtral") in world.cluster.objects


def test_where_nothing_fits_it_is_tried_again_when_a_node_comes() -> None:
    world = Simulation(nodes=0)
    world.put(gpu_node("small", gpus=1))
    world.put(model_deployment())
    world.settle()
    assert world.condition("PlanReady")["reason"] == "NothingFits"
    node = world.put(gpu_node("large"))
    world.controller.heard(NODE, node)
    assert len(world.controller.queue) == 1
    world.settle()
    assert world.condition("PlanReady")["status"] == "True"


def test_the_plan_stays_when_the_cluster_changes() -> None:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    before = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"]
    count = len(world.cluster.writes)
    world.put(gpu_node("node-0", gpus=0))
    world.put(gpu_node("better", gpus=8, product="NVIDIA-H200", memory_mib=143771))
    world.settle()
    assert world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"] == before
    assert not [write for write in world.cluster.writes[count:] if "RayService" in write]


def test_a_configured_difference_rolls_nothing_until_it_is_asked_for() -> None:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    before = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"]
    world.settings = OperatorSettings(image="conclave/serving:newer")
    world.restart()
    world.settle()
    assert world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"] == before
    assert world.condition("UpdateAvailable")["status"] == "True"
    item = world.deployment()
    item["metadata"]["annotations"] = {"conclave.dev/refresh": "1"}
    world.put(item)
    world.settle()
    assert world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"] != before
    assert world.condition("UpdateAvailable")["status"] == "False"


def test_a_config_map_that_comes_late_is_found() -> None:
    world = Simulation()
    deployment = model_deployment()
    deployment["spec"]["model"] |= {"id": "acme/own-mixtral", "configRef": {"name": "own"}}
    world.put(deployment)
    assert world.step() is False
    assert world.condition("PlanReady")["reason"] == "ConfigMissing"
    entry = find_model("mistralai/Mixtral-8x7B-Instruct-v0.1")
    assert entry is not None
    metadata = {"name": "own", "namespace": NAMESPACE}
    world.put(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"config.json": json.dumps(entry.config)},
        }
    )
    world.settle()
    assert world.condition("PlanReady")["status"] == "True", world.condition("PlanReady")
    assert (CONFIG_MAP, NAMESPACE, "own") in world.cluster.objects


UNREADABLE: dict[str, tuple[Json, str]] = {
    "a field of a newer version": ({"newer": {"field": 1}}, "spec.newer: field not declared in schema; declared are"),
    "a word where a number is due": (
        {"scaling": {"minReplicas": "many"}},
        'spec.scaling.minReplicas: Invalid value: "string": spec.scaling.minReplicas in body must be of type integer',
    ),
    "a part of a replica": (
        {"scaling": {"minReplicas": 1.5}},
        'spec.scaling.minReplicas: Invalid value: "float64": spec.scaling.minReplicas in body must be of type int64',
    ),
    "a word where a switch is due": (
        {"suspend": "perhaps"},
        'spec.suspend: Invalid value: "string": spec.suspend in body must be of type boolean',
    ),
}


@pytest.mark.parametrize(("spec", "problem"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_object_that_cannot_be_read_says_which_field_in_the_words_of_admission(spec: Json, problem: str) -> None:
    world = Simulation()
    deployment = model_deployment()
    deployment["spec"] |= spec
    world.put(deployment)
    world.settle()
    ready = world.condition("Ready")
    assert ready["reason"] == "InvalidSpec"
    assert problem in ready["message"]
    assert ready["message"].endswith("; correct these fields")


def test_events_tell_transitions_once() -> None:
    world = Simulation()
    world.put(model_deployment())
    world.settle()
    world.restart()
    world.settle()
    events = [item for (kind, _, _), item in world.cluster.objects.items() if kind == EVENT]
    told = [event["message"].partition(":")[0] for event in events]
    assert told.count("PlanReady is True") == 1
    assert all(event["involvedObject"]["uid"] == world.deployment()["metadata"]["uid"] for event in events)


def _timeless(status: Json) -> Json:
    conditions = [{**condition, "lastTransitionTime": ""} for condition in status["conditions"]]
    return {**status, "conditions": conditions}

"""Each field of each foreign object, absent, of another type, huge: no pass raises, and what it says stays sayable."""

from __future__ import annotations

import asyncio
import copy
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.operator.hostile_worlds import (
    SPOILT,
    WORLDS,
    Absent,
    Path,
    fields_of,
    foreign_objects,
    with_field,
)
from tests.unit.operator.simulation import Simulation

from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes import shapes
from conclave.kubernetes.failures import Outcome
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.sync import decide
from conclave_cluster.observe import keep_event, keep_node, keep_pod, keep_resource_slice, observe
from conclave_cluster.resources import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    JOB,
    NETWORK_POLICY,
    NODE,
    POD,
    RAY_CLUSTER,
    RAY_SERVICE,
    RESOURCE_SLICE,
    REVISION,
    Resource,
)

Json = dict[str, Any]
READERS = {
    CLAIM: (shapes.read_claim,),
    CONFIG_MAP: (shapes.read_config_map,),
    EVENT: (shapes.read_event, keep_event),
    JOB: (shapes.read_job,),
    NETWORK_POLICY: (shapes.read_network_policy,),
    NODE: (shapes.read_node, keep_node),
    POD: (shapes.read_pod, keep_pod),
    RAY_CLUSTER: (shapes.read_raycluster,),
    RAY_SERVICE: (shapes.read_rayservice,),
    RESOURCE_SLICE: (shapes.read_resource_slice, keep_resource_slice),
    REVISION: (shapes.read_revision,),
}
UNREAD = {(RAY_SERVICE, "spec"), (JOB, "spec")}
"""What of our own objects nobody reads back."""


@cache
def made(number: int) -> tuple[Simulation, ModelDeployment]:
    world = WORLDS[number]()
    return world, ModelDeployment.model_validate(world.deployment())


@cache
def targets(number: int) -> list[tuple[tuple[Resource, str, str], Path]]:
    """A recorded plan that reads well but lies is refused elsewhere, so that nothing of it is spoilt here."""
    world, _ = made(number)
    return [
        (key, path)
        for key, item in foreign_objects(world)
        for path in fields_of(item)
        if (key[0], path[0]) not in UNREAD and path[:2] != ("data", "rayservice")
    ]


def look(world: Simulation, deployment: ModelDeployment) -> Json:
    """One pass without its writes; the status as it would be written."""
    for (resource, _, _), item in world.cluster.objects.items():
        kept = READERS[resource][-1](item) if resource in READERS else None
        if kept is not None:
            world.controller.heard(resource, kept)
    observed = asyncio.run(observe(world.cluster, deployment))
    decision = decide(deployment, observed, world.settings, "token")
    return derive_status(deployment, observed, decision, Outcome(), world.now).to_wire()


def is_sayable(status: Json) -> bool:
    return all(
        condition["message"].isprintable() and len(condition["message"]) <= 4096 for condition in status["conditions"]
    )


@pytest.mark.parametrize("number", range(len(WORLDS)), ids=[world.__name__ for world in WORLDS])
def test_the_worlds_themselves_are_read(number: int) -> None:
    world, deployment = made(number)
    world.controller.fleet.watched(world.deployment())
    assert is_sayable(look(world, deployment))
    assert len(targets(number)) > 20


@settings(max_examples=150)
@given(data=st.data())
def test_no_spoilt_field_makes_a_pass_fail(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(WORLDS) - 1))
    world, deployment = made(number)
    before = dict(world.cluster.objects)
    try:
        for key, path in data.draw(st.lists(st.sampled_from(targets(number)), min_size=1, max_size=4)):
            value = data.draw(st.sampled_from(SPOILT))
            try:
                world.cluster.objects[key] = with_field(world.cluster.objects[key], path, value)
            except (LookupError, TypeError):
                continue  # an earlier one has spoilt what this one lies in
        assert is_sayable(look(world, deployment))
    finally:
        world.cluster.objects = before


@pytest.mark.parametrize("value", [Absent, ["x"], {"x": 1}, 3, "x"], ids=lambda value: repr(value)[:12])
def test_each_field_of_the_crd_s_schema(value: object) -> None:
    world, deployment = made(0)
    before = copy.deepcopy(world.cluster.schemas[RAY_SERVICE])
    try:
        for path in fields_of(before):
            world.cluster.schemas[RAY_SERVICE] = with_field(before, path, value)
            kuberay = asyncio.run(observe(world.cluster, deployment)).kuberay
            is_leaf = not any(len(other) > len(path) and other[: len(path)] == path for other in fields_of(before))
            assert is_leaf or kuberay.missing_fields or not kuberay.installed
    finally:
        world.cluster.schemas[RAY_SERVICE] = before


@pytest.mark.parametrize("number", range(len(WORLDS)), ids=[world.__name__ for world in WORLDS])
def test_a_reader_never_raises_and_gives_what_it_would_take(number: int) -> None:
    world, _ = made(number)
    for key, path in targets(number):
        item = world.cluster.objects[key]
        for value in SPOILT[:: 1 + len(path) % 3]:
            spoilt = with_field(item, path, value)
            for read in READERS[key[0]]:
                found = read(spoilt)
                again = read(dict(found)) if found is not None else None
                assert again == found or read is keep_pod
                assert found is None or isinstance(found["metadata"]["name"], str)

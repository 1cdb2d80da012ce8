"""Nothing that runs is rolled: over what a released version left, the operator of today writes nothing but status."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.fake_cluster import FakeCluster
from tests.frozen import APPLIED, CASES, IDS, Frozen, Json, read, settings
from tests.unit.operator.simulation import Simulation, gpu_node
from tools.freeze.scenarios import CLAIMS, NODES

from conclave import __version__
from conclave.api.crd import make_crd
from conclave.api.modeldeployment import MODEL_DEPLOYMENT
from conclave.settings import OperatorSettings
from conclave_cluster.resources import resource_of

FAILING_JOBS = ("download-refused",)
"""Nothing of these runs: the Job fails again and again, and its successor with the newer image may not."""
AT_WORK = [(version, name) for version, name in CASES if name not in FAILING_JOBS]
LATER = datetime(2026, 12, 1, tzinfo=UTC)


def put(cluster: FakeCluster, frozen: Frozen) -> None:
    """As it stood: what the operator applied is applied again, so that its fields are the operator's."""
    for item in frozen.objects:
        if item["kind"] not in APPLIED:
            cluster.put(item)
            continue
        uid, metadata = item["metadata"]["uid"], {key: value for key, value in item["metadata"].items() if key != "uid"}
        written = {key: value for key, value in item.items() if key != "status"} | {"metadata": metadata}
        assert asyncio.run(cluster.apply(written)).failure is None
        live = cluster.objects[resource_of(item), metadata["namespace"], metadata["name"]]
        live["metadata"]["uid"] = uid
        live |= {"status": item["status"]} if "status" in item else {}


def over(frozen: Frozen) -> Simulation:
    """An operator of today that has just started over what was left."""
    image = f"conclave/serving:{__version__}"
    world = Simulation(nodes=0, settings=OperatorSettings.model_validate(settings(frozen.version, image)))
    world.now = LATER
    for name, product, count, memory_mib in NODES:
        world.put(gpu_node(name, count, product, memory_mib))
    for claim in CLAIMS:
        metadata = {"name": claim, "namespace": frozen.parent["metadata"]["namespace"]}
        status = {"phase": "Bound"}
        world.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "status": status})
    put(world.cluster, frozen)
    world.cluster.writes.clear()
    return world


def verdicts(status: Json) -> dict[str, tuple[str, str]]:
    """Status and reason by condition, but for what is new about every newer version."""
    return {
        condition["type"]: (condition["status"], condition["reason"])
        for condition in status["conditions"]
        if condition["type"] != "UpdateAvailable"
    }


def planned(status: Json, frozen: Frozen) -> Json:
    """The plan. Without a record nothing runs: each version plans again, with estimates and words of its own."""
    again = () if frozen.of("ControllerRevision") else ("because", "rejected", "memory", "kvCacheTokens")
    return {key: value for key, value in (status.get("plan") or {}).items() if key not in again}


@pytest.mark.parametrize(("version", "name"), AT_WORK, ids=[f"{version}-{name}" for version, name in AT_WORK])
def test_the_operator_of_today_writes_nothing_but_status_and_reads_all_that_was_left(version: str, name: str) -> None:
    """The status that it derives has the verdicts, the plan and the endpoint of then."""
    frozen = read(version, name)
    world = over(frozen)
    world.settle()
    written = {write for write in world.cluster.writes if "Event/" not in write}
    assert written <= {f"patch ModelDeployment/{name}"}
    then, now = frozen.parent["status"], world.deployment(name)["status"]
    assert verdicts(now) == verdicts(then)
    kept = ("endpoint", "replicas", "readyReplicas")
    assert {key: now.get(key) for key in kept} == {key: then.get(key) for key in kept}
    assert planned(now, frozen) == planned(then, frozen)


@pytest.mark.parametrize("version", sorted({version for version, _ in CASES}))
def test_a_job_that_fails_is_made_anew_with_the_newer_image_and_nothing_else_is_touched(version: str) -> None:
    for name in FAILING_JOBS:
        frozen = read(version, name)
        world = over(frozen)
        world.settle()
        (job,) = frozen.of("Job")
        written = [write for write in world.cluster.writes if not write.endswith(f"/{name}") and "Event/" not in write]
        assert [write.partition("/")[0] for write in written] == ["create Job", "delete Job"]
        assert written[1] == f"delete Job/{job['metadata']['name']}"


@pytest.mark.parametrize(("version", "name"), CASES, ids=IDS)
def test_nothing_secret_is_frozen(version: str, name: str) -> None:
    """Tokens are in Secrets, which nobody reads: not the operator, and not the tool that freezes."""
    frozen = read(version, name)
    assert frozen.objects
    assert not frozen.of("Secret")


def stored(value: Any, schema: Json) -> Any:
    """With the defaults that the API server adds to what it has stored, as it does at each read."""
    if isinstance(value, list):
        return [stored(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    added = {name: field["default"] for name, field in fields.items() if "default" in field and name not in value}
    return {name: stored(item, fields.get(name, {})) for name, item in (value | added).items()}


@pytest.mark.parametrize(("version", "name"), CASES, ids=IDS)
def test_the_crd_of_today_adds_nothing_to_an_object_of_then(version: str, name: str) -> None:
    """An older operator that is rolled back to reads no object with a field that it does not know."""
    (today,) = make_crd(MODEL_DEPLOYMENT)["spec"]["versions"]
    spec = read(version, name).parent["spec"]
    assert stored(spec, today["schema"]["openAPIV3Schema"]["properties"]["spec"]) == spec

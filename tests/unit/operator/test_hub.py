"""Weights and adapters of a hub, pass by pass over the fake cluster: one Job fetches them, and only then they serve."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.operator.simulation import NAMESPACE, Simulation, model_deployment
from tests.unit.operator.test_object_store import RUNNING, complete, crashed, ended, of, stored, the_job

from conclave_cluster.resources import JOB, NETWORK_POLICY, RAY_SERVICE, REVISION

Json = dict[str, Any]
COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
KEY = "conclave.dev/weights-key"
GIB = 2**30


def hub(repository: str = "mistralai/Mixtral-8x7B-Instruct-v0.1", revision: str = COMMIT, **more: Any) -> Json:
    return {"huggingFace": {"repository": repository, "revision": revision, **more}}


def from_hub(source: Json | None = None, **model: Any) -> Json:
    return {
        "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "source": source or hub(),
        "cache": {"size": "20Gi"},
        **model,
    }


def adapter(name: str, revision: str = COMMIT) -> Json:
    return {"name": name, "source": hub(f"acme/{name}", revision)}


def world_of(model: Json) -> Simulation:
    world = Simulation()
    world.put(model_deployment(model=model))
    world.settle()
    return world


@pytest.fixture
def world() -> Simulation:
    return world_of(from_hub())


def commands(world: Simulation) -> list[list[str]]:
    spec = the_job(world)["spec"]["template"]["spec"]
    return [item["command"] for item in (*spec.get("initContainers", []), *spec["containers"])]


def kept(command: list[str]) -> set[str]:
    return {command[place + 1] for place, part in enumerate(command) if part == "--keep"}


def pod(world: Simulation, states: dict[str, Json]) -> None:
    """The Job's pod; a container without a state waits for those before it."""
    job = the_job(world)
    template = job["spec"]["template"]
    waiting = {"state": {"waiting": {"reason": "PodInitializing"}}}

    def statuses(part: str) -> list[Json]:
        return [{"name": item["name"]} | states.get(item["name"], waiting) for item in template["spec"].get(part, [])]

    owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"], "controller": True}
    world.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{job['metadata']['name']}-x7k2p",
                "namespace": NAMESPACE,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": template["spec"],
            "status": {
                "phase": "Pending",
                "initContainerStatuses": statuses("initContainers"),
                "containerStatuses": statuses("containers"),
            },
        }
    )
    world.settle()


def mounts(world: Simulation) -> dict[str, str]:
    """Directories of the cache that the model's pods mount, by their path."""
    group = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    spec = group["template"]["spec"]
    claims = {
        item["name"]: item["persistentVolumeClaim"]["claimName"]
        for item in spec["volumes"]
        if "persistentVolumeClaim" in item
    }
    assert set(claims.values()) == {"mixtral.weights"}
    found = spec["containers"][0]["volumeMounts"]
    return {item["mountPath"]: item["subPath"] for item in found if item["name"] in claims}


def test_nothing_of_the_model_runs_before_its_files_are_there_and_then_its_commit_is_recorded(
    world: Simulation,
) -> None:
    assert (of(world, RAY_SERVICE), of(world, REVISION)) == ([], [])
    assert world.condition("WeightsReady")["reason"] == "Downloading"
    assert [item["metadata"]["name"] for item in of(world, NETWORK_POLICY)] == ["mixtral.weights"]
    complete(world)
    (service,) = of(world, RAY_SERVICE)
    assert service["metadata"]["annotations"]["conclave.dev/model-revision"] == COMMIT
    assert world.condition("WeightsReady")["reason"] == "Downloaded"
    count = len(world.cluster.writes)
    world.restart()
    world.settle()
    assert len(world.cluster.writes) == count


def test_another_commit_is_fetched_beside_the_one_that_serves(world: Simulation) -> None:
    complete(world)
    (before,) = mounts(world).values()
    world.edit(model=from_hub(hub(revision=OTHER)))
    world.settle()
    assert set(mounts(world).values()) == {before}
    assert all(before in kept(command) and len(kept(command)) == 2 for command in commands(world))
    complete(world)
    (after,) = mounts(world).values()
    assert after != before


WORDS = f"hf://acme/tiny@{COMMIT}: the repository is gated and no token was sent"
STATES: dict[str, tuple[Json, str, str]] = {
    "a gated repository": (
        {"download-50": crashed({"error": "DownloadFailed", "message": WORDS})},
        "DownloadFailed",
        f"container download-50 ended: {WORDS}; the Job tries again within five minutes",
    ),
    "pickles only": (
        {"download-50": crashed({"error": "WeightsUnfit", "message": "only pickled weights"})},
        "WeightsCorrupt",
        "only pickled weights; name a revision with complete weights, or correct allowPatterns and ignorePatterns",
    ),
    "a Secret without the token": (
        {
            "download-50": {
                "state": {
                    "waiting": {
                        "reason": "CreateContainerConfigError",
                        "message": "couldn't find key HF_TOKEN in Secret llm/hub",
                    }
                }
            }
        },
        "SecretMissing",
        "create the Secret hub in namespace llm with the keys",
    ),
    "half of the bytes": (
        {"download-50": ended({"doneBytes": 5 * GIB, "totalBytes": 10 * GIB}), "download": RUNNING},
        "Downloading",
        "5.0 of 10.0 GiB (50 %) are downloaded",
    ),
}


@pytest.mark.parametrize(("states", "reason", "words"), STATES.values(), ids=STATES)
def test_the_condition_says_how_far_it_is_or_why_not(world: Simulation, states: Json, reason: str, words: str) -> None:
    pod(world, states)
    condition = world.condition("WeightsReady")
    assert (condition["status"], condition["reason"]) == ("False", reason)
    assert words in condition["message"]


DONE = ended({"doneBytes": 1, "totalBytes": 1})
OF_ADAPTERS: dict[str, tuple[Json, str, str]] = {
    "the first adapter": (
        {"download-adapter-1": DONE, "download-adapter-2": RUNNING},
        "Downloading",
        "1 of 2 adapters are downloaded",
    ),
    "both adapters": (
        {"download-adapter-1": DONE, "download-adapter-2": DONE, "download-50": RUNNING},
        "Downloading",
        "2 of 2 adapters are downloaded",
    ),
    "an adapter that is none": (
        {"download-adapter-1": crashed({"error": "WeightsUnfit", "message": "no adapter_config.json"})},
        "WeightsCorrupt",
        "container download-adapter-1 ended: no adapter_config.json; name a revision with complete weights",
    ),
    "an object store's model that is none, beside the adapters": (
        {
            "download-adapter-1": DONE,
            "download-adapter-2": DONE,
            "download-50": crashed({"error": "WeightsUnfit", "message": "no tokenizer"}),
        },
        "WeightsCorrupt",
        "no tokenizer; upload complete weights",
    ),
}


@pytest.mark.parametrize(("states", "reason", "words"), OF_ADAPTERS.values(), ids=OF_ADAPTERS)
def test_the_condition_says_what_of_the_adapters_is_there(states: Json, reason: str, words: str) -> None:
    world = world_of(stored(adapters=[adapter("tone"), adapter("style")]))
    pod(world, states)
    condition = world.condition("WeightsReady")
    assert condition["reason"] == reason
    assert words in condition["message"]


def test_adapters_are_mounted_from_the_cache_beside_the_model() -> None:
    world = world_of(from_hub(adapters=[adapter("tone"), adapter("acme/style".partition("/")[2])]))
    assert of(world, RAY_SERVICE) == []
    complete(world)
    found = mounts(world)
    assert found.keys() == {"/models/weights", "/models/adapters/tone", "/models/adapters/style"}
    assert len(set(found.values())) == 3


def test_an_adapter_that_changes_is_fetched_while_the_one_that_serves_is_kept() -> None:
    world = world_of(from_hub(adapters=[adapter("tone")]))
    complete(world)
    before = mounts(world)
    world.edit(model=from_hub(adapters=[adapter("tone", OTHER)]))
    world.settle()
    assert mounts(world) == before
    assert all(kept(command) >= set(before.values()) for command in commands(world))
    complete(world)
    after = mounts(world)
    assert after["/models/weights"] == before["/models/weights"]
    assert after["/models/adapters/tone"] != before["/models/adapters/tone"]
    world.edit(model=from_hub())
    world.settle()
    assert world.condition("WeightsReady")["reason"] == "Downloading"
    assert all(after["/models/adapters/tone"] in kept(command) for command in commands(world))
    complete(world)
    assert mounts(world).keys() == {"/models/weights"}


def test_an_adapter_of_a_hub_beside_a_model_on_a_claim() -> None:
    claimed = {"persistentVolumeClaim": {"claimName": "weights", "path": "mixtral"}}
    world = world_of(from_hub(claimed, adapters=[adapter("tone")]))
    assert [command[3] for command in commands(world)] == ["download"]
    assert of(world, RAY_SERVICE) == []
    complete(world)
    assert len(of(world, RAY_SERVICE)) == 1
    assert world.condition("WeightsReady")["status"] != "False"


def test_a_job_of_the_same_files_counts_and_one_of_fewer_does_not() -> None:
    world = world_of(from_hub())
    complete(world)
    first = the_job(world)["metadata"]["labels"][KEY]
    world.edit(model=from_hub(adapters=[adapter("tone")]))
    world.settle()
    assert the_job(world)["metadata"]["labels"][KEY] != first
    assert world.condition("WeightsReady")["reason"] == "Downloading"


def test_an_unknown_model_is_inspected_when_its_files_are_there() -> None:
    world = world_of(from_hub(id="acme/own"))
    assert world.condition("PlanReady")["reason"] == "Inspecting"
    assert f"filled from hf://mistralai/Mixtral-8x7B-Instruct-v0.1@{COMMIT}" in world.condition("PlanReady")["message"]
    complete(world)
    assert {job["spec"]["template"]["spec"]["containers"][0]["name"] for job in of(world, JOB)} == {
        "download",
        "inspect",
    }


def test_a_forged_directory_of_an_adapter_is_no_record_of_ours() -> None:
    world = world_of(from_hub(adapters=[adapter("tone")]))
    complete(world)
    (revision,) = of(world, REVISION)
    assert len(revision["data"]["adapter_keys"]) == 1
    revision["data"]["adapter_keys"] = ["../../etc"]
    world.put(revision)
    world.restart()
    world.settle()
    condition = world.condition("WithinPolicy")
    assert condition["reason"] == "RecordRefused"
    assert "adapter_keys has ../../etc, expected 16 hex digits" in condition["message"]

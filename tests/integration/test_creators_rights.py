"""What the rights to create ModelDeployments, Secrets and ControllerRevisions are worth, on a real API server."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.operator import hub_model, model_deployment
from tests.integration.testbed.world import World

from conclave.modeldeployment.records.record import read_records

Json = dict[str, Any]
SELECTOR = "conclave.dev/model-deployment=mixtral"
RUNTIMES: dict[str, tuple[Json, str, str]] = {
    "an image of their own": ({"image": "registry.evil/serving:1"}, "ImageNotAllowed", "serving.allowedImages"),
    "an account of the namespace": (
        {"serviceAccountName": "default"},
        "ServiceAccountNotAllowed",
        "serving.allowedServiceAccounts",
    ),
}


def test_whoever_creates_a_model_sends_no_token_to_an_endpoint_of_their_own(world: World) -> None:
    world.apply(model_deployment("mixtral", model=hub_model(secretName="hub", endpoint="https://collector.evil")))
    refused = world.becomes("mixtral", "PlanReady", "HubNotAllowed")
    assert "serving.allowedHubEndpoints" in refused["message"]
    assert world.kube.list("batch/v1", "Job", world.namespace) == []


@pytest.mark.parametrize(("runtime", "reason", "remedy"), RUNTIMES.values(), ids=RUNTIMES)
def test_whoever_creates_a_model_runs_no_pod_with(world: World, runtime: Json, reason: str, remedy: str) -> None:
    world.apply(model_deployment("mixtral", runtime=runtime))
    refused = world.becomes("mixtral", "PlanReady", reason)
    assert refused["status"] == "False"
    assert remedy in refused["message"]
    assert world.becomes("mixtral", "WithinPolicy", reason)["status"] == "False"
    assert world.rayservice("mixtral") == {}
    assert world.pods("mixtral") == []
    world.edit("mixtral", runtime=None)
    world.has_rayservice("mixtral")
    assert world.becomes("mixtral", "WithinPolicy", "AsWanted")["status"] == "True"


def test_a_secret_that_waits_for_the_model_is_not_taken_for_its_token(world: World) -> None:
    planted = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mixtral-token"},
        "stringData": {"token": "x"},
    }
    world.kube.create(planted, world.namespace)
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    name = world.status("mixtral")["endpoint"]["tokenSecret"]
    assert name.startswith("mixtral-token-")
    secret = world.kube.get("v1", "Secret", name, world.namespace)
    assert secret is not None
    owner = world.deployment("mixtral")["metadata"]["uid"]
    assert [reference["uid"] for reference in secret["metadata"]["ownerReferences"]] == [owner]
    for pod in world.pods("mixtral"):
        mounted = {volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume}
        assert "mixtral-token" not in mounted
        assert name in mounted


def test_a_forged_record_is_named_and_nothing_of_it_is_applied(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    (real,) = revisions(world)
    spec, mark = world.rayservice_spec("mixtral"), world.kube.audit.mark()
    forge(world, real, "forged-binding", 7, to_another_kind)
    refused = world.becomes("mixtral", "WithinPolicy", "RecordRefused")
    assert f"ControllerRevision {world.namespace}/forged-binding" in refused["message"]
    assert "in its RayService, apiVersion: Input should be 'ray.io/v1'" in refused["message"]
    forge(world, real, "forged-host", 8, onto_the_host)
    eventually(lambda: "hostPath" in world.condition("mixtral", "WithinPolicy")["message"])
    assert world.kube.get("rbac.authorization.k8s.io/v1", "RoleBinding", "forged", "kube-system") is None
    assert world.condition("mixtral", "PlanReady")["status"] == "True"
    assert world.rayservice_spec("mixtral") == spec
    assert {written[1] for written in world.writes(mark)} <= {"modeldeployments", "modeldeployments/status", "events"}
    for name in ("forged-binding", "forged-host"):
        world.kube.delete("apps/v1", "ControllerRevision", name, world.namespace)
    assert world.becomes("mixtral", "WithinPolicy", "AsWanted")["status"] == "True"


def test_a_forged_record_in_place_of_the_real_ones_leaves_the_model_as_it_runs(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    before, endpoint = world.rayservice("mixtral"), world.status("mixtral")["endpoint"]
    world.operator.stop()
    (real,) = revisions(world)
    forge(world, real, "forged", 7, onto_the_host)
    world.kube.delete("apps/v1", "ControllerRevision", real["metadata"]["name"], world.namespace)
    world.operator.ensure("--resync-seconds=5")
    refused = world.becomes("mixtral", "PlanReady", "RecordRefused", timeout=60)
    assert f"ControllerRevision {world.namespace}/forged" in refused["message"]
    assert "the operator leaves the running model unchanged" in refused["message"]
    assert world.status("mixtral")["endpoint"] == endpoint
    world.kube.delete("apps/v1", "ControllerRevision", "forged", world.namespace)
    world.becomes("mixtral", "PlanReady", "Planned")
    assert world.rayservice("mixtral")["metadata"]["uid"] == before["metadata"]["uid"]
    assert read_records(revisions(world))


@pytest.mark.parametrize("role", ["view", "edit", "admin"])
def test_no_role_for_users_writes_controllerrevisions(role: str, kube: Kube) -> None:
    """Who forges a record holds a right of its own, such as `apps/*` (docs/adr/0014)."""
    found = kube.get("rbac.authorization.k8s.io/v1", "ClusterRole", role)
    assert found is not None
    verbs = {
        verb
        for rule in found["rules"]
        if "apps" in rule.get("apiGroups", []) and "controllerrevisions" in rule.get("resources", [])
        for verb in rule["verbs"]
    }
    assert verbs == {"get", "list", "watch"}


def to_another_kind(data: Json) -> None:
    data["rayservice"] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "forged", "namespace": "kube-system"},
    }


def onto_the_host(data: Json) -> None:
    worker = data["rayservice"]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    worker["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


def forge(world: World, real: Json, name: str, number: int, change: Callable[[Json], None]) -> None:
    """A record like a real one, but for the change and its number."""
    metadata = {key: real["metadata"][key] for key in ("labels", "ownerReferences")} | {"name": name}
    data = copy.deepcopy(real["data"])
    change(data)
    forged = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata, "data": data}
    world.kube.create(forged | {"revision": number}, world.namespace)


def revisions(world: World) -> list[Json]:
    return world.kube.list("apps/v1", "ControllerRevision", world.namespace, label_selector=SELECTOR)

"""The operator as a process against a real API server, garbage collector and KubeRay: what a user sees of it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.testbed.helm import OperatorAccount
from tests.integration.testbed.kuberay import KubeRay
from tests.integration.testbed.operator import API, KIND, model_deployment, volume_for
from tests.integration.testbed.world import RAY, World, filled

Json = dict[str, Any]
H100 = "NVIDIA-H100-80GB-HBM3"
RESYNC_S = 5
QUIET_S = 2.5 * RESYNC_S


def test_apply_leads_to_a_plan_a_rayservice_and_hardened_pods_of_it(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    waited = ["wait", "--for=condition=PlanReady", "--timeout=40s", "modeldeployment/mixtral", "-n", world.namespace]
    world.kube.kubectl(*waited)
    plan = world.status("mixtral")["plan"]
    assert (plan["accelerator"], plan["tensor"], plan["pipeline"], plan["gpusPerReplica"]) == (H100, 2, 1, 2)
    assert plan["because"]
    arguments = world.has_rayservice("mixtral") and world.serve_arguments("mixtral")
    assert arguments["engine"]["tensor_parallel_size"] == 2

    pods = eventually(lambda: len(world.pods("mixtral")) == 2 and world.pods("mixtral"), timeout=60)
    by_type = {pod["metadata"]["labels"]["ray.io/node-type"]: pod["spec"] for pod in pods}
    worker, head = by_type["worker"], by_type["head"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    affinity = worker["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    expressions = affinity["nodeSelectorTerms"][0]["matchExpressions"]
    assert {"key": "nvidia.com/gpu.product", "operator": "In", "values": [H100]} in expressions
    for spec in (worker, head):
        environment = {variable["name"]: variable.get("value") for variable in spec["containers"][0]["env"]}
        assert environment["RAY_AUTH_MODE"] == "token"
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    owner = world.deployment("mixtral")["metadata"]["uid"]
    for api, kind in ((RAY, "RayService"), ("v1", "Secret"), ("apps/v1", "ControllerRevision")):
        selector = "conclave.dev/model-deployment=mixtral"
        (owned,) = world.kube.list(api, kind, world.namespace, label_selector=selector)
        assert [reference["uid"] for reference in owned["metadata"]["ownerReferences"]] == [owner]
    assert "finalizers" not in world.deployment("mixtral")["metadata"]
    assert "annotations" not in world.deployment("mixtral")["metadata"]


def test_ready_is_false_for_the_true_reason_and_follows_it(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    ready = world.becomes("mixtral", "Ready", "ClaimPending")
    assert ready["status"] == "False"
    assert f"PersistentVolumeClaim {world.namespace}/weights" in ready["message"]
    world.kube.create(volume_for("weights", world.namespace))
    try:
        eventually(lambda: world.condition("mixtral", "Ready")["reason"] not in ("ClaimPending", ""), timeout=60)
        assert world.condition("mixtral", "Ready")["status"] == "False"
        assert world.condition("mixtral", "WeightsReady")["reason"] != "ClaimPending"
    finally:
        world.kube.delete("v1", "PersistentVolume", f"{world.namespace}-weights")


def test_nothing_is_written_over_a_quiet_stretch_and_events_tell_transitions_only(world: World) -> None:
    world.apply(model_deployment("mixtral"), model_deployment("other"))
    world.settle("mixtral", "other")
    events = world.kube.list("v1", "Event", world.namespace)
    mark = world.kube.audit.mark()
    reconciles = world.operator.metric("conclave_reconciles_total")
    time.sleep(QUIET_S)
    assert world.writes(mark) == []
    assert world.operator.metric("conclave_reconciles_total") >= reconciles + 2 * 2
    ours = [event for event in events if event["involvedObject"]["kind"] == KIND]
    told = [(event["involvedObject"]["name"], event["reason"]) for event in ours]
    assert len(told) == len(set(told))
    assert ("mixtral", "Planned") in told


def test_the_token_is_made_once_never_read_and_never_logged(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    name = world.status("mixtral")["endpoint"]["tokenSecret"]
    secret = world.kube.get("v1", "Secret", name, world.namespace)
    assert secret is not None
    assert secret["data"]["token"]
    requests = world.kube.audit.requests(user=world.user)
    assert {request.verb for request in requests if request.resource == "secrets"} == {"create"}
    created = [r for r in requests if r.resource == "secrets" and r.namespace == world.namespace]
    assert len(created) == 1
    assert base64.b64decode(secret["data"]["token"]).decode() not in world.operator.log.read_text()


def test_an_edit_converges_and_a_b_a_returns_to_a(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    first, uid = world.rayservice_spec("mixtral"), world.rayservice("mixtral")["metadata"]["uid"]
    world.edit("mixtral", engine={"maxModelLen": 8192})
    eventually(lambda: world.serve_arguments("mixtral")["engine"]["max_model_len"] == 8192)
    world.edit("mixtral", engine={"maxModelLen": None})
    eventually(lambda: world.serve_arguments("mixtral")["engine"]["max_model_len"] == 32768)
    eventually(lambda: world.rayservice_spec("mixtral") == first)
    world.edit("mixtral", engine={"maxModelLen": 4096})
    world.edit("mixtral", engine={"maxModelLen": None})
    world.settle("mixtral")
    assert world.rayservice_spec("mixtral") == first
    assert world.rayservice("mixtral")["metadata"]["uid"] == uid
    assert world.status("mixtral")["observedGeneration"] == world.deployment("mixtral")["metadata"]["generation"]


EDITS_BY_OTHERS: dict[str, Json] = {
    "a value": {"serveConfigV2": "applications: []"},
    "a value deep down": {"rayClusterConfig": {"headGroupSpec": {"rayStartParams": {"num-gpus": "4"}}}},
    "a key added to a map": {"rayClusterConfig": {"headGroupSpec": {"rayStartParams": {"block": "false"}}}},
    "a field that we do not set": {"serveService": {"metadata": {"name": "theirs"}}},
    "a list emptied": {"rayClusterConfig": {"workerGroupSpecs": []}},
}


def test_an_edited_rayservice_is_repaired(world: World, subtests: pytest.Subtests) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    wanted = world.rayservice_spec("mixtral")
    for name, change in EDITS_BY_OTHERS.items():
        with subtests.test(name):
            edited = world.kube.patch(RAY, "RayService", "mixtral", {"spec": change}, world.namespace)
            assert filled(edited["spec"]) != wanted
            eventually(lambda: world.rayservice_spec("mixtral") == wanted)
    world.settle("mixtral")


def test_deleted_children_come_back(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    before, spec = world.rayservice("mixtral"), world.rayservice_spec("mixtral")
    world.kube.delete("networking.k8s.io/v1", "NetworkPolicy", "mixtral", world.namespace)
    world.kube.kubectl("delete", "rayservice", "mixtral", "-n", world.namespace, "--timeout=60s")
    after = world.has_rayservice("mixtral")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    eventually(lambda: world.rayservice_spec("mixtral") == spec)
    assert eventually(lambda: world.kube.get("networking.k8s.io/v1", "NetworkPolicy", "mixtral", world.namespace))


def test_suspend_stops_the_pods_and_keeps_the_plan(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    plan = world.status("mixtral")["plan"]
    world.edit("mixtral", suspend=True)
    eventually(lambda: world.rayservice("mixtral")["spec"]["rayClusterConfig"]["suspend"] is True)
    eventually(lambda: not world.pods("mixtral"), timeout=60)
    assert world.status("mixtral")["plan"] == plan
    world.edit("mixtral", suspend=False)
    eventually(lambda: world.pods("mixtral"), timeout=60)


def test_a_forged_status_is_overwritten_and_a_wiped_one_restored(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    before = world.status("mixtral")
    forge = ("patch", "mdl", "mixtral", "-n", world.namespace, "--subresource=status", "--type=merge", "-p")
    world.kube.kubectl(*forge, '{"status":{"plan":{"tensor":64},"readyReplicas":9,"endpoint":{"url":"http://evil"}}}')
    eventually(lambda: _timeless(world.status("mixtral")) == _timeless(before))
    world.kube.kubectl(*forge, '{"status":null}')
    eventually(lambda: _timeless(world.status("mixtral")) == _timeless(before))


def test_delete_while_the_operator_is_down_leaves_no_orphans(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    world.operator.stop()
    world.kube.delete(API, KIND, "mixtral", world.namespace)
    assert world.deployment("mixtral") == {}

    def orphans() -> list[str]:
        kinds = ((RAY, "RayService"), (RAY, "RayCluster"), ("v1", "Pod"), ("apps/v1", "ControllerRevision"))
        more = (("networking.k8s.io/v1", "NetworkPolicy"), ("v1", "Secret"))
        return [
            f"{kind}/{item['metadata']['name']}"
            for api, kind in (*kinds, *more)
            for item in world.kube.list(api, kind, world.namespace)
        ]

    def none_left() -> bool:
        assert orphans() == []
        return True

    eventually(none_left, timeout=90, every=1)


def test_without_kuberay_the_condition_names_the_remedy_and_recovery_needs_nobody(
    world: World, kuberay: KubeRay
) -> None:
    kuberay.remove_crds()
    world.apply(model_deployment("mixtral"))
    ready = world.becomes("mixtral", "Ready", "DependencyMissing")
    assert "KubeRay" in ready["message"]
    assert "install" in ready["message"].lower()
    assert world.operator.probe("/healthz")[0] == 200
    kuberay.ensure()
    world.has_rayservice("mixtral", timeout=60)
    eventually(lambda: world.pods("mixtral"), timeout=60)
    eventually(lambda: world.condition("mixtral", "Ready")["reason"] != "DependencyMissing")


def test_a_removed_rbac_verb_is_named_and_its_return_noticed(world: World, operator_account: OperatorAccount) -> None:
    (role,) = (
        item
        for item in operator_account.objects
        if item["kind"] == "ClusterRole" and any("rayservices" in rule["resources"] for rule in item["rules"])
    )
    rules = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if "rayservices" not in rule["resources"] or verb != "patch"]}
        for rule in role["rules"]
    ]
    world.kube.apply({**role, "rules": rules})
    try:
        world.apply(model_deployment("mixtral"))
        ready = world.becomes("mixtral", "Ready", "Forbidden")
        assert "patch" in ready["message"]
        assert "rayservices.ray.io" in ready["message"]
    finally:
        world.kube.apply(role)
    world.has_rayservice("mixtral", timeout=60)
    eventually(lambda: world.condition("mixtral", "Ready")["reason"] != "Forbidden")


def test_where_nothing_fits_the_condition_explains_and_a_new_node_is_noticed(
    world: World, fake_gpu_node: Callable[..., str]
) -> None:
    wanted = {"accelerators": ["NVIDIA-A100-SXM4-80GB"], "maxGpusPerReplica": 8}
    fake_gpu_node("a100-small", "NVIDIA-A100-SXM4-80GB", 1, 81920)
    world.apply(model_deployment("mixtral", hardware=wanted))
    refused = world.becomes("mixtral", "PlanReady", "NothingFits")
    assert refused["status"] == "False"
    assert "TP=1 on NVIDIA-A100-SXM4-80GB" in refused["message"]
    assert "free" in refused["message"]
    assert world.rayservice("mixtral") == {}
    fake_gpu_node("a100-large", "NVIDIA-A100-SXM4-80GB", 4, 81920)
    world.becomes("mixtral", "PlanReady", "Planned")
    world.has_rayservice("mixtral")


def test_a_rayservice_of_somebody_else_is_never_adopted(world: World) -> None:
    container = {"name": "ray", "image": "ray:theirs", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    head = {"rayStartParams": {}, "template": {"spec": {"containers": [container]}}}
    theirs = {
        "apiVersion": RAY,
        "kind": "RayService",
        "metadata": {"name": "mixtral"},
        "spec": {"serveConfigV2": "applications: []", "rayClusterConfig": {"headGroupSpec": head}},
    }
    world.kube.create(theirs, world.namespace)
    world.apply(model_deployment("mixtral"))
    ready = world.becomes("mixtral", "Ready", "ForeignOwner")
    assert "RayService" in ready["message"] or "rayservices" in ready["message"]
    assert world.rayservice("mixtral")["spec"]["serveConfigV2"] == "applications: []"
    assert "ownerReferences" not in world.rayservice("mixtral")["metadata"]
    world.kube.kubectl("delete", "rayservice", "mixtral", "-n", world.namespace, "--timeout=60s")
    eventually(lambda: world.rayservice("mixtral").get("metadata", {}).get("ownerReferences"), timeout=60)


def test_probes_and_metrics_tell_of_the_watches(world: World) -> None:
    world.apply(model_deployment("mixtral"))
    world.settle("mixtral")
    assert world.operator.probe("/healthz") == (200, "ok\n")
    assert world.operator.probe("/readyz") == (200, "ok\n")
    text = world.operator.probe("/metrics")[1]
    assert 'conclave_watch_age_seconds{resource="rayservices"}' in text
    assert 'conclave_writes_total{kind="RayService",verb="create"}' in text
    assert world.operator.metric("conclave_leader") == 1


def _timeless(status: Json) -> Json:
    conditions = [{**condition, "lastTransitionTime": ""} for condition in status.get("conditions", [])]
    return {**status, "conditions": conditions}

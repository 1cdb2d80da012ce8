"""The operator's life under exactly the chart's rights: it uses none that it lacks, and lacks no use for one it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.testbed.audit import Right
from tests.integration.testbed.helm import Helm, OperatorAccount, install_operator_account
from tests.integration.testbed.kube import Kube, KubectlError
from tests.integration.testbed.kuberay import KubeRay
from tests.integration.testbed.operator import API, KIND, Operator, claim, model_deployment, stored_model
from tests.integration.testbed.rights import granted, ungranted, unused, used

from conclave.modeldeployment.records.record import HISTORY

NAME = "mixtral"
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "other-config"},
    "data": {"config.json": "{}"},
}

CHECKED_BY_ADMISSION = {Right("conclave.dev", "modeldeployments/finalizers", "update")}
"""Asked for by OwnerReferencesPermissionEnforcement, which is on here; no request of the operator's names it."""


@pytest.fixture(params=["all namespaces", "one namespace"])
def account(request: pytest.FixtureRequest, kube: Kube, helm: Helm, namespace: str) -> Iterator[OperatorAccount]:
    """A release of its own, so that its rights are its own too."""
    values = {"watchNamespaces": [namespace]} if request.param == "one namespace" else {}
    account = install_operator_account(kube, helm, values, namespace=f"{namespace}-system")
    yield account
    _remove(kube, account)


def test_a_life_uses_all_rights_of_the_chart_and_no_others(
    kube: Kube,
    kuberay: KubeRay,
    conclave_crds: None,
    account: OperatorAccount,
    namespace: str,
    fake_gpu_node: Callable[..., str],
) -> None:
    fake_gpu_node("rights-gpu", "NVIDIA-H100-80GB-HBM3", 8, 81559)
    mark = kube.audit.mark()
    operator = Operator(kube, account, name=f"operator-{namespace}")
    operator.start(*(f"--namespace={item}" for item in _watched(account)))
    try:
        operator.leads()
        _live(kube, namespace)
        requests = kube.audit.requests(user=account.user, since=mark)
    finally:
        operator.stop()
    rights = granted(account.objects)
    assert ungranted(used(requests), rights) == []
    assert [request for request in requests if request.code == 403] == []
    assert [right for right in unused(used(requests), rights) if right not in CHECKED_BY_ADMISSION] == []


def test_the_right_to_block_an_owners_deletion_is_needed(
    kube: Kube, helm: Helm, conclave_crds: None, namespace: str
) -> None:
    account = install_operator_account(kube, helm, namespace=f"{namespace}-system")
    kube.apply(model_deployment(NAME), namespace=namespace)
    model = kube.get(API, KIND, NAME, namespace)
    assert model is not None
    owner = {"apiVersion": API, "kind": KIND, "name": NAME, "uid": model["metadata"]["uid"], "blockOwnerDeletion": True}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": NAME, "ownerReferences": [owner]},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
    }
    kube.apply(policy, namespace=namespace, kubeconfig=account.kubeconfig, dry_run=True)
    (role,) = (item for item in account.objects if item["kind"] == "ClusterRole")
    rules = [rule for rule in role["rules"] if "modeldeployments/finalizers" not in rule["resources"]]
    kube.apply({**role, "rules": rules})

    def refused() -> bool:
        try:
            kube.apply(policy, namespace=namespace, kubeconfig=account.kubeconfig, dry_run=True)
        except KubectlError as error:
            return "cannot set blockOwnerDeletion" in str(error)
        return False

    eventually(refused)
    _remove(kube, account)


def _live(kube: Kube, namespace: str) -> None:
    """Created, given pods, repaired, edited past the history's length, refused, suspended."""
    kube.apply(claim(), CONFIG_MAP, namespace=namespace)
    kube.apply(model_deployment(NAME), namespace=namespace)
    eventually(lambda: kube.list("v1", "Pod", namespace, label_selector="ray.io/node-type=head"), timeout=60)
    first = _rayservice(kube, namespace)
    kube.delete("ray.io/v1", "RayService", NAME, namespace)
    eventually(lambda: _rayservice(kube, namespace).get("metadata", {}).get("uid") != first["metadata"]["uid"])
    for policy in kube.list("networking.k8s.io/v1", "NetworkPolicy", namespace):
        kube.patch(
            "networking.k8s.io/v1", "NetworkPolicy", policy["metadata"]["name"], {"spec": {"egress": [{}]}}, namespace
        )
    eventually(lambda: not _open_policies(kube, namespace))
    for length in range(1024, 1024 + HISTORY + 1):
        kube.patch(API, KIND, NAME, {"spec": {"engine": {"maxModelLen": length}}}, namespace)
        eventually(partial(_is_served_with, kube, namespace, str(length)))
    eventually(lambda: len(kube.list("apps/v1", "ControllerRevision", namespace)) == HISTORY)
    own = {"id": "example/own", "configRef": {"name": "other-config"}}
    kube.apply(model_deployment("own", model=model_deployment("own")["spec"]["model"] | own), namespace=namespace)
    eventually(lambda: _condition(kube, namespace, "own", "PlanReady") == "False")
    _download(kube, namespace)
    kube.patch(API, KIND, NAME, {"spec": {"suspend": True}}, namespace)
    eventually(lambda: _rayservice(kube, namespace)["spec"]["rayClusterConfig"]["suspend"])


def _download(kube: Kube, namespace: str) -> None:
    """A claim is made, and enlarged; a Job is made, is done, and goes when other weights are wanted."""
    kube.apply(model_deployment("stored", model=stored_model()), namespace=namespace)
    first = eventually(lambda: kube.list("batch/v1", "Job", namespace), timeout=60)[0]["metadata"]["name"]
    kube.apply(model_deployment("stored", model=stored_model("s3://models/other")), namespace=namespace)
    eventually(
        lambda: [job["metadata"]["name"] for job in kube.list("batch/v1", "Job", namespace)] not in ([], [first])
    )
    eventually(lambda: kube.get("batch/v1", "Job", first, namespace) is None)
    labelled = {"metadata": {"labels": {"app.kubernetes.io/component": "mine"}}}
    kube.patch("v1", "PersistentVolumeClaim", "stored.weights", labelled, namespace)
    eventually(lambda: _component(kube, namespace) == "weights", timeout=90)


def _component(kube: Kube, namespace: str) -> str:
    labels = (kube.get("v1", "PersistentVolumeClaim", "stored.weights", namespace) or {})["metadata"]["labels"]
    return str(labels["app.kubernetes.io/component"])


def _remove(kube: Kube, account: OperatorAccount) -> None:
    for item in account.objects:
        metadata = item["metadata"]
        kube.delete(item["apiVersion"], item["kind"], metadata["name"], metadata.get("namespace"))
    kube.delete("v1", "Namespace", account.namespace)


def _watched(account: OperatorAccount) -> list[str]:
    roles = [item["metadata"]["namespace"] for item in account.objects if item["kind"] == "Role"]
    return [namespace for namespace in roles if namespace != account.namespace]


def _rayservice(kube: Kube, namespace: str) -> dict[str, Any]:
    return kube.get("ray.io/v1", "RayService", NAME, namespace) or {}


def _is_served_with(kube: Kube, namespace: str, text: str) -> bool:
    return text in _rayservice(kube, namespace)["spec"]["serveConfigV2"]


def _open_policies(kube: Kube, namespace: str) -> list[str]:
    policies = kube.list("networking.k8s.io/v1", "NetworkPolicy", namespace)
    return [policy["metadata"]["name"] for policy in policies if {} in policy["spec"].get("egress", [])]


def _condition(kube: Kube, namespace: str, name: str, kind: str) -> str | None:
    model = kube.get(API, KIND, name, namespace) or {}
    conditions = model.get("status", {}).get("conditions", [])
    return next((condition["status"] for condition in conditions if condition["type"] == kind), None)

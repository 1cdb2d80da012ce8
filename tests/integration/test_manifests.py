"""What the builders make, held to a real API server with KubeRay's own CRDs, Pod Security and KubeRay itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.eventually import eventually
from tests.golden.differences import whole
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.kuberay import KubeRay
from tests.scenes import DIGEST, SETTINGS, make_deployment, make_plan

from conclave import names
from conclave.api.plan import Plan
from conclave.kubernetes import kuberay as requirements
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.serving.network_policy import build_network_policies
from conclave.modeldeployment.serving.rayservice import build_rayservice

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*/objects.diff"))
RAY = "ray.io/v1"


def placed(item: JsonObject, namespace: str) -> JsonObject:
    """In this test's namespace and without its owner, which is not there: the garbage collector would take it."""
    metadata = {key: value for key, value in item["metadata"].items() if key != "ownerReferences"}
    return {**item, "metadata": {**metadata, "namespace": namespace}}


def applied(kube: Kube, namespace: str, spec: dict[str, Any] | None = None, plan: Plan | None = None) -> JsonObject:
    rayservice = placed(build_rayservice(make_deployment(spec), plan or make_plan(), SETTINGS), namespace)
    kube.apply(rayservice, namespace=namespace)
    live = kube.get(RAY, "RayService", "mixtral", namespace)
    assert live is not None
    return live


def pending_cluster(kube: Kube, namespace: str) -> JsonObject | None:
    """The RayCluster that KubeRay prepares for the RayService."""
    status = (kube.get(RAY, "RayService", "mixtral", namespace) or {}).get("status", {})
    name = status.get("pendingServiceStatus", {}).get("rayClusterName", "")
    return kube.get(RAY, "RayCluster", name, namespace) if name else None


def pods(kube: Kube, namespace: str) -> list[JsonObject]:
    return kube.list("v1", "Pod", namespace, label_selector=names.selector_string(names.pod_selector("mixtral")))


@pytest.mark.parametrize("path", GOLDEN, ids=[path.parent.name for path in GOLDEN])
def test_the_api_server_accepts_every_golden_object(path: Path, kube: Kube, kuberay: KubeRay) -> None:
    made = whole(path.parent, "objects")
    objects = [placed(item, "default") for item in (*made["create"], *made["apply"])]
    for item in objects:
        if item["kind"] == "ControllerRevision":
            item["data"]["rayservice"] = {}
    kube.apply(*objects, dry_run=True)


def test_kuberay_has_every_field_that_the_builder_needs(kube: Kube, kuberay: KubeRay) -> None:
    crd = kube.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "rayservices.ray.io")
    assert crd is not None
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in crd["spec"]["versions"] if version["name"] == "v1")
    assert requirements.missing_fields(schema) == ()
    del schema["properties"]["spec"]["properties"]["rayClusterConfig"]["properties"]["authOptions"]
    assert requirements.missing_fields(schema) == ("spec.rayClusterConfig.authOptions.mode",)


def test_kuberay_makes_the_pods_of_a_replica_under_restricted_pod_security(
    kube: Kube, kuberay: KubeRay, namespace: str
) -> None:
    kube.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    plan = make_plan(tensor=8, pipeline=2, nodes=2)
    applied(kube, namespace, {"model": {"digest": DIGEST}, "access": {"regions": ["eu-west-1"]}}, plan)
    made = eventually(lambda: found if len(found := pods(kube, namespace)) == 3 else None, timeout=60)
    (head,) = (pod for pod in made if pod["metadata"]["labels"][names.RAY_NODE_TYPE] == "head")
    workers = [pod for pod in made if pod is not head]

    by_name = {container["name"]: container for container in head["spec"]["containers"]}
    assert by_name.keys() == {names.RAY_CONTAINER, "autoscaler"}
    mounted = {name: {mount["mountPath"] for mount in item["volumeMounts"]} for name, item in by_name.items()}
    assert names.API_TOKEN_DIRECTORY in mounted["autoscaler"]
    assert names.API_TOKEN_DIRECTORY not in mounted[names.RAY_CONTAINER]
    assert "/tmp/ray" in mounted[names.RAY_CONTAINER] & mounted["autoscaler"]

    for worker in workers:
        (ray,) = worker["spec"]["containers"]
        assert ray["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert "--num-gpus=8" in " ".join(ray["args"])
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in ray["env"]
        assert ray["readinessProbe"]["timeoutSeconds"] == 10
        own = [names.CANARY_CONTAINER, names.VERIFY_CONTAINER, names.AWAIT_CONTAINER]
        assert [init["name"] for init in worker["spec"]["initContainers"]] == [*own, names.HEAD_WAIT_CONTAINER]
        assert worker["spec"]["automountServiceAccountToken"] is False
        terms = worker["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        keys = [expression["key"] for term in terms["nodeSelectorTerms"] for expression in term["matchExpressions"]]
        assert keys == ["nvidia.com/gpu.product", names.REGION]

    service = eventually(lambda: kube.list("v1", "Service", namespace, label_selector="ray.io/node-type=head"))[0]
    labels = head["metadata"]["labels"]
    assert all(labels[key] == value for key, value in service["spec"]["selector"].items()), "the head's own Service"


def test_load_bounds_keep_the_cluster_and_tolerations_replace_it(kube: Kube, kuberay: KubeRay, namespace: str) -> None:
    applied(kube, namespace)
    first = eventually(lambda: pending_cluster(kube, namespace), timeout=60)["metadata"]["name"]
    applied(kube, namespace, {"scaling": {"minReplicas": 2, "maxReplicas": 4}})
    # KubeRay looks at every RayService every 2 s and leaves no trace where it finds nothing to do.
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        kept = pending_cluster(kube, namespace)
        assert kept is not None
        assert kept["metadata"]["name"] == first
        time.sleep(0.5)
    (group,) = kept["spec"]["workerGroupSpecs"]
    assert group["replicas"] == 1, (
        "KubeRay hands replica bounds to new clusters only: the autoscaler has to follow Serve"
    )
    applied(kube, namespace, {"hardware": {"tolerations": [{"key": "team", "operator": "Exists"}]}})

    def replaced() -> bool:
        cluster = pending_cluster(kube, namespace)
        return cluster is not None and cluster["metadata"]["name"] != first and "team" in str(cluster["spec"])

    eventually(replaced, timeout=60)


def test_suspension_removes_the_pods_and_keeps_the_cluster(kube: Kube, kuberay: KubeRay, namespace: str) -> None:
    applied(kube, namespace)
    eventually(lambda: len(pods(kube, namespace)) == 2, timeout=60)
    first = eventually(lambda: pending_cluster(kube, namespace))["metadata"]["name"]
    applied(kube, namespace, {"suspend": True})
    # Without kubelets a deleted pod stays until somebody says that its containers have ended.
    eventually(
        lambda: all("deletionTimestamp" in pod["metadata"] for pod in pods(kube, namespace)),
        timeout=60,
    )
    cluster = kube.get(RAY, "RayCluster", first, namespace)
    assert cluster is not None
    assert cluster["spec"]["suspend"] is True


def test_network_policies_are_accepted(kube: Kube, namespace: str) -> None:
    deployment = make_deployment({"access": {"allowedNamespaces": ["chat"]}})
    settings = SETTINGS.model_copy(update={"api_server_cidrs": ("10.0.0.1/32",), "dns_cidrs": ("169.254.20.10/32",)})
    kube.apply(*(placed(policy, namespace) for policy in build_network_policies(deployment, settings)))

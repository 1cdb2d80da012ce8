"""The cluster of `make cluster`: pods of both nodes reach each other, Services by name, and the API server.

Needs a cluster that is up; run by `python -m pytest e2e/cluster`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from e2e.bed.site import Site
from tests.eventually import eventually
from tools.build_tools import find_go
from tools.cluster.images import docker_archive, import_archive
from tools.cluster.layout import ClusterError, Layout, layout_of
from tools.cluster.up import kubectl

pytestmark = pytest.mark.usefixtures("pods")
NAMESPACE = "cluster-test"
IMAGE = "localhost/conclave/probe:1"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def layout(local_site: Site) -> Layout:  # noqa: ARG001 - it is up
    return layout_of(None)


@pytest.fixture(scope="module")
def pods(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of a probe pod on each node, in a namespace that enforces restricted Pod Security."""
    directory = tmp_path_factory.mktemp("probe")
    source = Path(__file__).with_name("probe.go")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
    go = find_go(required=(1, 26))
    subprocess.run([go, "build", "-trimpath", "-o", directory / "probe", source], check=True, env=environment)
    archive = directory / "probe.tar"
    archive.write_bytes(docker_archive(IMAGE, {"probe": (directory / "probe").read_bytes()}, ["/probe"]))
    assert import_archive(layout, archive) == (IMAGE,)

    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    _apply(layout, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    eventually(lambda: _kubectl(layout, "get", "serviceaccount", "default", "--ignore-not-found"))
    ports = [{"port": 80, "targetPort": 8080}]
    for name, cluster_ip in (("probe", None), ("headless", "None")):
        spec: dict[str, Any] = {"selector": {"app": "probe"}, "ports": ports}
        if cluster_ip:
            spec["clusterIP"] = cluster_ip
        _apply(layout, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    for node in layout.nodes:
        _apply(layout, _pod(f"on-{node.name}", node.name))
    try:
        _kubectl(layout, "wait", "pod", "--selector=app=probe", "--for=condition=Ready", "--timeout=60s")
        found = json.loads(_kubectl(layout, "get", "pods", "--selector=app=probe", "--output=json"))["items"]
        yield {pod["spec"]["nodeName"]: pod["status"]["podIP"] for pod in found}
    finally:
        kubectl(layout, "delete", "namespace", NAMESPACE, "--timeout=60s")


@pytest.mark.parametrize(("here", "there"), [("node-1", "node-2"), ("node-2", "node-1")], ids=["one", "the other"])
def test_pods_of_both_nodes_reach_each_other_and_see_each_others_address(
    layout: Layout, pods: dict[str, str], here: str, there: str
) -> None:
    assert _get(layout, here, f"http://{pods[there]}:8080") == f"200 OK\non-{there} sees {pods[here]}\n"


@pytest.mark.parametrize("here", ["node-1", "node-2"])
@pytest.mark.parametrize("host", ["probe", "probe.cluster-test.svc.cluster.local", "headless"])
def test_a_service_answers_by_name_from_every_node_with_every_pod(layout: Layout, here: str, host: str) -> None:
    port = 8080 if host == "headless" else 80
    answered = eventually(lambda: _get(layout, here, f"http://{host}:{port}"))
    assert answered.startswith("200 OK\non-node-")


@pytest.mark.parametrize("here", ["node-1", "node-2"])
def test_a_service_reaches_the_pods_of_both_nodes(layout: Layout, here: str) -> None:
    address = _kubectl(layout, "get", "service", "probe", "--output=jsonpath={.spec.clusterIP}")
    answers: set[str] = set()

    def both() -> bool:
        answers.add(_get(layout, here, f"http://{address}").split()[2])
        return answers == {"on-node-1", "on-node-2"}

    eventually(both)


@pytest.mark.parametrize("here", ["node-1", "node-2"])
@pytest.mark.parametrize("host", ["10.96.0.1", "kubernetes.default.svc"])
def test_a_pod_reaches_the_api_server_as_its_service_account(layout: Layout, here: str, host: str) -> None:
    assert _get(layout, here, f"https://{host}/version").startswith("200 OK\n")
    assert _get(layout, here, f"https://{host}/api/v1/nodes").startswith("403 Forbidden\n")


def test_what_a_pod_prints_is_read_through_the_api_server(layout: Layout) -> None:
    pod = _pod("speaker", "node-2", "get", "http://127.0.0.1:1")
    pod["spec"]["restartPolicy"] = "Never"
    pod["metadata"]["labels"] = {"app": "speaker"}
    _apply(layout, pod)
    _kubectl(layout, "wait", "pod/speaker", "--for=jsonpath={.status.phase}=Failed", "--timeout=30s")
    assert "connection refused" in _kubectl(layout, "logs", "speaker")


def test_the_scheduler_counts_the_gpus_of_each_node(layout: Layout) -> None:
    for name, gpus in (("fits", 1), ("too-large", 1000)):
        pod = _pod(name, None)
        pod["metadata"]["labels"] = {"app": name}
        pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
        _apply(layout, pod)
    _kubectl(layout, "wait", "pod/fits", "--for=condition=Ready", "--timeout=30s")
    reason = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}"
    message = eventually(lambda: _kubectl(layout, "get", "pod", "too-large", f"--output={reason}"))
    assert "2 Insufficient nvidia.com/gpu" in message


def test_kuberay_makes_the_head_pod_of_a_ray_service_and_the_scheduler_places_it(
    layout: Layout,
) -> None:
    container = {
        "name": "ray",
        "image": "no-such-image",
        "imagePullPolicy": "Never",
        "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}},
        "securityContext": RESTRICTED | {"runAsUser": 1000},
    }
    head = {"rayStartParams": {}, "template": {"spec": {"containers": [container]}}}
    cluster = {"rayVersion": "2.60.0", "headGroupSpec": head}
    service = {"rayClusterConfig": cluster, "serveConfigV2": "applications: []"}
    metadata = {"name": "asked-for"}
    _apply(layout, {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": metadata, "spec": service})
    query = ("--selector=ray.io/node-type=head", "--output=jsonpath={.items[*].spec.nodeName}")
    node = eventually(lambda: _kubectl(layout, "get", "pods", *query), timeout=60)
    assert node in {"node-1", "node-2"}
    waiting = "--output=jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}"
    eventually(lambda: _kubectl(layout, "get", "pods", query[0], waiting) == "ErrImageNeverPull")


@pytest.mark.parametrize("there", ["node-1", "node-2"])
def test_a_policy_admits_whom_it_names_and_refuses_all_others_from_every_node(
    layout: Layout, pods: dict[str, str], there: str
) -> None:
    server = _pod("guarded", there)
    server["metadata"]["labels"] = {"app": "guarded"}
    _apply(layout, server)
    _kubectl(layout, "wait", "pod/guarded", "--for=condition=Ready", "--timeout=30s")
    address = _kubectl(layout, "get", "pod", "guarded", "--output=jsonpath={.status.podIP}")
    url = f"http://{address}:8080"
    for node in pods:
        eventually(partial(_get, layout, node, url))
    try:
        _apply(layout, _policy("guarded", "guarded", "ingress", {"called": "admitted"}))
        for node in pods:
            eventually(partial(_is_refused, layout, node, url), timeout=60)
        for node in pods:
            _kubectl(layout, "label", "pod", f"on-{node}", "called=admitted")
        for node in pods:
            eventually(partial(_get, layout, node, url), timeout=60)
    finally:
        _kubectl(layout, "label", "pods", "--selector=app=probe", "called-")
        _kubectl(layout, "delete", "networkpolicy/guarded", "pod/guarded", "--wait")


def test_a_policy_of_egress_keeps_a_pod_from_what_it_does_not_name(layout: Layout, pods: dict[str, str]) -> None:
    url = f"http://{pods['node-2']}:8080"
    _apply(layout, _policy("kept-in", "probe", "egress", {"app": "nobody"}))
    try:
        eventually(lambda: _is_refused(layout, "node-1", url), timeout=60)
    finally:
        _kubectl(layout, "delete", "networkpolicy/kept-in")
    eventually(lambda: _get(layout, "node-1", url), timeout=60)


def _policy(name: str, selected: str, direction: str, others: dict[str, str]) -> dict[str, Any]:
    peers = {"from" if direction == "ingress" else "to": [{"podSelector": {"matchLabels": others}}]}
    spec = {
        "podSelector": {"matchLabels": {"app": selected}},
        "policyTypes": [direction.capitalize()],
        direction: [peers],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def _is_refused(layout: Layout, node: str, url: str) -> bool:
    try:
        _kubectl(layout, "exec", f"on-{node}", "--", "/probe", "get", url)
    except ClusterError as error:
        return any(words in str(error) for words in ("Client.Timeout", "connection refused"))
    return False


def _pod(name: str, node: str | None, *arguments: str) -> dict[str, Any]:
    container = {
        "name": "probe",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": list(arguments or ["serve"]),
        "securityContext": RESTRICTED,
    }
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 0}
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "probe"}}, "spec": spec}


def _get(layout: Layout, node: str, url: str) -> str:
    """What the probe pod on that node gets; a failure counts as not yet."""
    try:
        return _kubectl(layout, "exec", f"on-{node}", "--", "/probe", "get", url)
    except ClusterError as error:
        raise AssertionError(str(error)) from error


def _kubectl(layout: Layout, *arguments: str) -> str:
    return kubectl(layout, f"--namespace={NAMESPACE}", *arguments)


def _apply(layout: Layout, manifest: dict[str, Any]) -> None:
    scope = [] if manifest["kind"] == "Namespace" else [f"--namespace={NAMESPACE}"]
    kubectl(layout, "apply", "--server-side", *scope, "--filename=-", stdin=json.dumps(manifest))

"""The test bed itself does what its users rely on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.eventually import eventually
from tests.integration.testbed.audit import Right
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.kuberay import KubeRay

RAY = "ray.io/v1"


def test_objects_are_garbage_collected_with_their_owner(kube: Kube, namespace: str) -> None:
    owner = kube.create(_config_map("owner"), namespace)
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    kube.create(_config_map("owned", ownerReferences=[reference]), namespace)
    kube.delete("v1", "ConfigMap", "owner", namespace)
    eventually(lambda: kube.get("v1", "ConfigMap", "owned", namespace) is None)


def test_a_fake_gpu_node_is_ready_schedulable_and_keeps_its_gpus(kube: Kube, fake_gpu_node: Callable[..., str]) -> None:
    name = fake_gpu_node("testbed-gpu", "NVIDIA-H100-80GB-HBM3", 8, 81559)
    node = kube.get("v1", "Node", name)
    assert node is not None
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert "taints" not in node["spec"]
    assert [condition["status"] for condition in node["status"]["conditions"]] == ["True"]


def test_a_user_has_the_rights_that_are_bound_to_it_and_the_audit_log_names_it(kube: Kube, namespace: str) -> None:
    kubeconfig = kube.user_kubeconfig("reader", ["readers"])
    mark = kube.audit.mark()
    refused = kube.try_kubectl("get", "configmaps", "--namespace", namespace, kubeconfig=kubeconfig)
    assert 'User "reader" cannot list resource "configmaps"' in refused.stderr
    kube.kubectl("create", "rolebinding", "readers", "--clusterrole=view", "--group=readers", "--namespace", namespace)
    kube.kubectl("get", "configmaps", "--namespace", namespace, kubeconfig=kubeconfig)
    requests = [request for request in kube.audit.requests(user="reader", since=mark) if request.resource]
    assert [request.code for request in requests] == [403, 200]
    assert {right for request in requests for right in request.rights} == {Right("", "configmaps", "list", namespace)}
    assert kube.audit.requests(user="reader", since=mark, mutating=True) == []


def test_a_service_account_is_itself(kube: Kube, namespace: str) -> None:
    kubeconfig = kube.service_account_kubeconfig(namespace, "default")
    user = kube.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", kubeconfig=kubeconfig)
    assert user == f"system:serviceaccount:{namespace}:default"


def test_kuberay_makes_a_head_pod_and_its_kinds_can_go_and_come_back(
    kube: Kube, kuberay: KubeRay, namespace: str
) -> None:
    def has_head_pod(name: str) -> bool:
        return bool(kube.list("v1", "Pod", namespace, label_selector=f"ray.io/cluster={name},ray.io/node-type=head"))

    kube.apply(_ray_cluster("first"), namespace=namespace)
    eventually(lambda: has_head_pod("first"), timeout=60)
    kuberay.remove_crds()
    assert kube.get(RAY, "RayCluster", "first", namespace) is None
    kuberay.ensure()
    kube.apply(_ray_cluster("second"), namespace=namespace)
    eventually(lambda: has_head_pod("second"), timeout=60)


def test_nothing_is_left_running_when_the_test_run_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from tests.integration.testbed.processes import Process\n"
        "print(Process('sleep', ['sleep', '600'], pathlib.Path(sys.argv[1])).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        eventually(lambda: _program(pid) == "sleep")  # not setpriv any more: from here on it dies with its parent
        run.kill()
    eventually(lambda: not _is_running(pid))


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _is_running(pid: int) -> bool:
    """A zombie that nobody reaps has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _config_map(name: str, **metadata: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}


def _ray_cluster(name: str) -> dict[str, object]:
    container = {"name": "ray", "image": "ray:test", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    head = {"rayStartParams": {}, "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": RAY,
        "kind": "RayCluster",
        "metadata": {"name": name},
        "spec": {"rayVersion": "2.60.0", "headGroupSpec": head},
    }

"""A model that the catalogue does not know, on a real API server: inspection Job, its pod's words, and only then Ray.

The pod's words are those of the real command on a real tiny checkpoint; no kubelet runs here, so the test writes them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.operator import end_pod, model_deployment, patch_pod_status, stored_model, volume_for
from tests.integration.testbed.world import World
from tools.tiny_checkpoint import make_checkpoint

Json = dict[str, Any]
SELECTOR = "conclave.dev/inspection-of=own"
OWN = {"id": "acme/own-mixtral", "source": {"persistentVolumeClaim": {"claimName": "weights", "path": "own"}}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("mixtral", tmp_path_factory.mktemp("weights") / "own")


@pytest.fixture
def restricted(kube: Kube, namespace: str) -> str:
    """The test's namespace, which admits restricted pods only."""
    kube.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    return namespace


@pytest.fixture
def bind(kube: Kube, namespace: str) -> Iterator[Callable[[], None]]:
    """Gives the claim `weights` a volume."""
    volume = volume_for("weights", namespace)

    def make() -> None:
        kube.create(volume)

    yield make
    kube.delete("v1", "PersistentVolume", volume["metadata"]["name"])


def jobs(world: World, key: str = "conclave.dev/inspection-key") -> list[Json]:
    return world.kube.list("batch/v1", "Job", world.namespace, label_selector=key)


def the_pod(world: World, job: Json) -> Json:
    """Made by the real Job controller."""
    selector = f"{SELECTOR},job-name={job['metadata']['name']}"
    found = world.kube.list("v1", "Pod", world.namespace, label_selector=selector)
    assert len(found) == 1, found
    return found[0]


def inspect(job: Json, root: Path, report: Path) -> tuple[int, str]:
    """The container's own command on another directory: exit code and termination message."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    exchanged = {"python": sys.executable, "/dev/termination-log": str(report), "/models/weights": str(root)}
    command = [exchanged.get(part, part) for part in container["command"]]
    completed = subprocess.run(command, capture_output=True, text=True)
    return completed.returncode, report.read_text()


def test_an_unknown_model_is_inspected_in_a_closed_pod_and_then_served(
    restricted: str, world: World, weights: Path, tmp_path: Path, bind: Callable[[], None]
) -> None:
    without = Path(shutil.copytree(weights, tmp_path / "without"))
    (without / "config.json").unlink()
    world.apply(model_deployment("own", model=OWN))
    (job,) = eventually(lambda: jobs(world), timeout=60)
    pod = eventually(lambda: the_pod(world, job))
    world.becomes("own", "PlanReady", "ClaimPending")
    bind()
    world.becomes("own", "PlanReady", "Inspecting")
    assert world.rayservice("own") == {}
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["weights"]
    policy = world.kube.get("networking.k8s.io/v1", "NetworkPolicy", "own.inspection", restricted)
    assert policy is not None
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    assert not {"egress", "ingress"} & policy["spec"].keys()

    code, message = inspect(job, without, tmp_path / "report")
    crash = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": code, "reason": "Error", "message": message}},
    }
    container = {"name": "inspect", "image": "x", "imageID": "", "ready": False, "restartCount": 1}
    status = {"phase": "Running", "containerStatuses": [container | crash]}
    patch_pod_status(world.kube, restricted, pod["metadata"]["name"], status)
    condition = world.becomes("own", "PlanReady", "ConfigMissing")
    assert "path own: no config.json, expected one beside the weights" in condition["message"]

    code, message = inspect(job, weights, tmp_path / "report")
    assert code == 0
    end_pod(world.kube, restricted, the_pod(world, job), message)
    world.becomes("own", "PlanReady", "Planned")
    world.settle("own")
    assert "acme/own-mixtral" in world.status("own")["plan"]["because"][-1]
    assert [item["metadata"]["uid"] for item in jobs(world)] == [job["metadata"]["uid"]]
    arguments = world.serve_arguments("own")
    assert arguments["engine"]["max_model_len"] == world.status("own")["plan"]["maxModelLen"]

    mark = world.kube.audit.mark()
    world.edit("own", scaling={"maxReplicas": 2})
    eventually(lambda: world.load_bounds("own")["autoscaling_config"]["max_replicas"] == 2)
    written = {resource for _, resource, namespace, _ in world.writes(mark) if namespace == restricted}
    assert not written & {"jobs", "networkpolicies"}
    world.edit("own", model={"source": {"persistentVolumeClaim": {"path": "other"}}})
    first = job["metadata"]["uid"]
    eventually(lambda: jobs(world) and first not in [item["metadata"]["uid"] for item in jobs(world)])
    (other,) = jobs(world)
    world.becomes("own", "PlanReady", "Inspecting")
    eventually(lambda: the_pod(world, other))
    assert world.rayservice("own") != {}


def test_a_downloaded_unknown_model_is_inspected_in_its_cache(
    restricted: str, world: World, weights: Path, tmp_path: Path
) -> None:
    world.apply(model_deployment("own", model=stored_model(size="10Gi") | {"id": "acme/own-mixtral"}))
    (download,) = eventually(lambda: jobs(world, "conclave.dev/weights-key"), timeout=60)
    world.becomes("own", "PlanReady", "Inspecting")
    assert "after the download, config.json will be read" in world.condition("own", "PlanReady")["message"]
    assert world.condition("own", "Ready")["reason"] == "Downloading"
    assert jobs(world) == []
    selector = f"conclave.dev/weights-of=own,job-name={download['metadata']['name']}"
    (fetching,) = eventually(lambda: world.kube.list("v1", "Pod", restricted, label_selector=selector))
    end_pod(world.kube, restricted, fetching)
    (job,) = eventually(lambda: jobs(world), timeout=60)
    pod = eventually(lambda: the_pod(world, job))
    (volume,) = pod["spec"]["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "own.weights", "readOnly": True}
    end_pod(world.kube, restricted, pod, inspect(job, weights, tmp_path / "report")[1])
    world.becomes("own", "PlanReady", "Planned")
    world.has_rayservice("own")

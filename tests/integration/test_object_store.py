"""A deployment of a store's or a hub's weights on a real API server: claim, Job, its pod's words, and only then Ray."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.operator import end_pod, hub_model, model_deployment, patch_pod_status, stored_model
from tests.integration.testbed.world import World

Json = dict[str, Any]
DIGEST = "sha256:" + "ab" * 32
SELECTOR = "conclave.dev/weights-of=mixtral"


def jobs(world: World) -> list[Json]:
    return world.kube.list("batch/v1", "Job", world.namespace)


def the_pod(world: World, job: str) -> Json:
    """Made by the real Job controller."""
    found = world.kube.list("v1", "Pod", world.namespace, label_selector=f"{SELECTOR},job-name={job}")
    assert len(found) == 1, found
    return found[0]


def claim_of(world: World) -> Json:
    found = world.kube.get("v1", "PersistentVolumeClaim", "mixtral.weights", world.namespace)
    assert found is not None
    return found


@pytest.fixture
def restricted(kube: Kube, namespace: str) -> str:
    """The test's namespace, which admits restricted pods only."""
    kube.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    return namespace


def test_weights_are_fetched_once_and_then_served(restricted: str, world: World) -> None:
    world.apply(model_deployment("mixtral", model=stored_model(size="1024Gi")))
    (job,) = eventually(lambda: jobs(world), timeout=60)
    name = job["metadata"]["name"]
    eventually(lambda: the_pod(world, name))
    assert claim_of(world)["spec"]["resources"]["requests"]["storage"] == "1Ti"
    assert claim_of(world)["metadata"]["ownerReferences"][0]["name"] == "mixtral"
    world.becomes("mixtral", "WeightsReady", "Downloading")
    assert world.rayservice("mixtral") == {}

    pod = the_pod(world, name)["metadata"]["name"]
    step = {"name": "download-10", "image": "x", "imageID": "", "ready": False, "restartCount": 1}
    failed = json.dumps({"error": "DownloadFailed", "message": "there is no bucket models"})
    crash = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 4, "reason": "Error", "message": failed}},
    }
    patch_pod_status(world.kube, restricted, pod, {"phase": "Pending", "initContainerStatuses": [step | crash]})
    condition = world.becomes("mixtral", "WeightsReady", "DownloadFailed")
    assert "there is no bucket models" in condition["message"]

    report = json.dumps({"doneBytes": 10 * 2**30, "totalBytes": 100 * 2**30})
    ended = {"state": {"terminated": {"exitCode": 0, "reason": "Completed", "message": report}}}
    patch_pod_status(world.kube, restricted, pod, {"initContainerStatuses": [step | ended]})
    world.becomes("mixtral", "WeightsReady", "Downloading")
    assert "10.0 of 100.0 GiB (10 %)" in world.condition("mixtral", "WeightsReady")["message"]

    end_pod(world.kube, restricted, the_pod(world, name))
    world.becomes("mixtral", "WeightsReady", "Downloaded")
    world.settle("mixtral")
    worker = world.rayservice("mixtral")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    claims = [volume["persistentVolumeClaim"] for volume in worker["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": "mixtral.weights", "readOnly": True}]
    mark = world.kube.audit.mark()
    world.edit("mixtral", scaling={"maxReplicas": 2})
    eventually(lambda: world.load_bounds("mixtral")["autoscaling_config"]["max_replicas"] == 2)
    written = {resource for _, resource, namespace, _ in world.writes(mark) if namespace == restricted}
    assert not written & {"jobs", "persistentvolumeclaims"}


def the_worker(world: World) -> Json:
    """Made by the real KubeRay."""
    found = [pod for pod in world.pods("mixtral") if pod["metadata"]["labels"]["ray.io/node-type"] == "worker"]
    assert len(found) == 1, found
    return found[0]


def report(world: World, worker: Json, verified: Json, awaited: Json, **status: Any) -> None:
    """How the init containers of a worker are, as its kubelet would write it."""
    shape = {"image": "x", "imageID": "", "ready": False, "restartCount": 0}
    init = [
        shape | {"name": name, "state": state}
        for name, state in (("verify-weights", verified), ("await-weights", awaited))
    ]
    told = {"phase": "Pending", "initContainerStatuses": init} | status
    patch_pod_status(world.kube, world.namespace, worker["metadata"]["name"], told)


def test_files_that_were_changed_in_the_cache_are_downloaded_anew_by_the_command_that_the_condition_gives(
    world: World,
) -> None:
    world.apply(model_deployment("mixtral", model=stored_model(size="10Gi") | {"digest": DIGEST}))
    (job,) = eventually(lambda: jobs(world), timeout=60)
    end_pod(world.kube, world.namespace, eventually(lambda: the_pod(world, job["metadata"]["name"])))
    world.becomes("mixtral", "WeightsReady", "Downloaded")
    worker = eventually(lambda: the_worker(world), timeout=60)
    verify = next(item for item in worker["spec"]["initContainers"] if item["name"] == "verify-weights")
    assert verify["command"][-2:] == [DIGEST, "/models/weights"]

    now = {"running": {"startedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
    message = json.dumps({"error": "DigestMismatch", "message": "weights /models/weights: digest sha256:1"})
    unfit = {"terminated": {"exitCode": 0, "reason": "Completed", "message": message}}
    report(world, worker, unfit, now)
    condition = world.becomes("mixtral", "WeightsReady", "DigestMismatch")
    command = re.search("`kubectl (.* delete job [^`]*)`", condition["message"])
    assert command is not None, condition

    uid = job["metadata"]["uid"]
    world.kube.kubectl(*command[1].split())
    world.becomes("mixtral", "WeightsReady", "Downloading")
    (again,) = eventually(lambda: [new for new in jobs(world) if new["metadata"]["uid"] != uid], timeout=60)

    def pod_of_its_own() -> Json | None:
        pod = the_pod(world, again["metadata"]["name"])
        return pod if pod["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"] else None

    end_pod(world.kube, world.namespace, eventually(pod_of_its_own, timeout=60))
    world.becomes("mixtral", "WeightsReady", "DigestMismatch")
    well = {"terminated": {"exitCode": 0, "reason": "Completed", "message": "{}"}}
    ray = {"name": "ray", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": now}
    report(world, worker, unfit, well, phase="Running", containerStatuses=[ray])
    world.becomes("mixtral", "WeightsReady", "Verified")
    assert the_worker(world)["metadata"]["uid"] == worker["metadata"]["uid"], "nothing is rolled"


def test_a_claim_that_is_bound_is_left_alone(world: World) -> None:
    """Its volume's name and its default class are the cluster's to fill in."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{world.namespace}-cache"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "10Gi"},
            "claimRef": {"name": "mixtral.weights", "namespace": world.namespace},
            "hostPath": {"path": "/nonexistent"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }
    world.kube.apply(volume)
    world.apply(model_deployment("mixtral", model=stored_model(size="10Gi")))
    eventually(lambda: claim_of(world).get("status", {}).get("phase") == "Bound", timeout=60)
    eventually(lambda: jobs(world), timeout=60)
    world.becomes("mixtral", "WeightsReady", "Downloading")
    version = claim_of(world)["metadata"]["resourceVersion"]
    mark = world.kube.audit.mark()
    world.edit("mixtral", scaling={"maxReplicas": 2})
    eventually(lambda: world.status("mixtral")["observedGeneration"] == 2)
    assert claim_of(world)["metadata"]["resourceVersion"] == version
    assert [write for write in world.writes(mark) if write[1] == "persistentvolumeclaims"] == []
    assert "expected Bound" not in world.condition("mixtral", "WeightsReady")["message"]
    world.kube.delete("v1", "PersistentVolume", volume["metadata"]["name"])


def test_a_claim_of_somebody_elses_is_told_and_left_alone(world: World) -> None:
    world.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "mixtral.weights"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )
    world.apply(model_deployment("mixtral", model=stored_model()))
    condition = world.becomes("mixtral", "Ready", "ForeignOwner")
    assert "mixtral.weights" in condition["message"]
    assert claim_of(world)["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert jobs(world) == []


def test_weights_and_an_adapter_of_a_hub_are_fetched_by_one_job_and_then_served(restricted: str, world: World) -> None:
    tone = {"name": "tone", "source": {"huggingFace": {"repository": "acme/tone", "revision": "f" * 40}}}
    world.apply(model_deployment("mixtral", model=hub_model(secretName="hub") | {"adapters": [tone]}))
    (job,) = eventually(lambda: jobs(world), timeout=60)
    pod = eventually(lambda: the_pod(world, job["metadata"]["name"]))
    first, *_, last = (*pod["spec"]["initContainers"], *pod["spec"]["containers"])
    assert (first["name"], last["name"]) == ("download-adapter-1", "download")
    assert first["command"][-2] == f"hf://acme/tone@{'f' * 40}"
    assert "env" not in first
    assert last["env"] == [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}}]

    words = "hf://acme/tone: the repository is gated and no token was sent"
    failed = json.dumps({"error": "DownloadFailed", "message": words})
    crash = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 4, "reason": "Error", "message": failed}},
    }
    step = {"name": first["name"], "image": "x", "imageID": "", "ready": False, "restartCount": 1}
    name = pod["metadata"]["name"]
    patch_pod_status(world.kube, restricted, name, {"phase": "Pending", "initContainerStatuses": [step | crash]})
    assert words in world.becomes("mixtral", "WeightsReady", "DownloadFailed")["message"]
    assert world.rayservice("mixtral") == {}

    end_pod(world.kube, restricted, the_pod(world, job["metadata"]["name"]))
    world.becomes("mixtral", "WeightsReady", "Downloaded")
    world.settle("mixtral")
    rayservice = world.rayservice("mixtral")
    assert rayservice["metadata"]["annotations"]["conclave.dev/model-revision"] == last["command"][-2].partition("@")[2]
    worker = rayservice["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    claims = [volume["persistentVolumeClaim"] for volume in worker["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": "mixtral.weights", "readOnly": True}]
    mounted = {mount["mountPath"]: mount.get("subPath") for mount in worker["containers"][0]["volumeMounts"]}
    assert len({mounted["/models/weights"], mounted["/models/adapters/tone"]} - {None}) == 2

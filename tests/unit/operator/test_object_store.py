"""Weights of an object store, pass by pass over the fake cluster: claim, Job, and only then what serves them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.operator.simulation import NAMESPACE, Simulation, model_deployment

from conclave.settings import OperatorSettings
from conclave_cluster.resources import CLAIM, EVENT, JOB, NETWORK_POLICY, POD, RAY_SERVICE, REVISION

Json = dict[str, Any]
DIGEST = "sha256:" + "ab" * 32


def stored(uri: str = "s3://models/mixtral", **model: Any) -> Json:
    return {
        "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "source": {"objectStore": {"uri": uri, "secretName": "store"}},
        "cache": {"size": "20Gi"},
        **model,
    }


@pytest.fixture
def world() -> Simulation:
    """A deployment whose download Job has just been made."""
    world = Simulation()
    world.put(model_deployment(model=stored()))
    world.settle()
    return world


def of(world: Simulation, resource: Any) -> list[Json]:
    return [item for (kind, _, _), item in world.cluster.objects.items() if kind == resource]


def the_job(world: Simulation) -> Json:
    (job,) = of(world, JOB)
    return job


def complete(world: Simulation) -> None:
    """What the Job controller writes when the pod has ended well."""
    world.put(the_job(world) | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    world.settle()


def pod(world: Simulation, init: list[Json] | None = None, main: Json | None = None) -> Json:
    """The Job's pod, with the states of its containers."""
    job = the_job(world)
    return world.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{job['metadata']['name']}-x7k2p",
                "namespace": NAMESPACE,
                "labels": job["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [
                    {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"], "controller": True}
                ],
            },
            "spec": job["spec"]["template"]["spec"],
            "status": {
                "phase": "Pending",
                "initContainerStatuses": [{"name": f"download-{n}"} | state for n, state in enumerate(init or [])],
                "containerStatuses": [
                    {"name": "download"} | (main or {"state": {"waiting": {"reason": "PodInitializing"}}})
                ],
            },
        }
    )


def ended(report: Json | str = "", exit_code: int = 0, reason: str = "Completed") -> Json:
    message = report if isinstance(report, str) else json.dumps(report)
    return {"state": {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}}


def crashed(report: Json | str, reason: str = "Error") -> Json:
    """Between two tries."""
    return {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": ended(report, exit_code=4, reason=reason)["state"],
    }


RUNNING: Json = {"state": {"running": {}}}


def test_nothing_of_the_model_runs_before_its_weights_are_there(world: Simulation) -> None:
    writes = [write.partition("/")[0] for write in world.cluster.writes if "Event" not in write]
    assert [write for write in writes if write != "patch ModelDeployment"] == [
        "create NetworkPolicy",
        "create PersistentVolumeClaim",
        "create Job",
    ]
    assert (of(world, RAY_SERVICE), of(world, REVISION)) == ([], [])
    assert world.condition("PlanReady")["status"] == "True"
    assert world.condition("WeightsReady")["reason"] == "Downloading"
    complete(world)
    assert len(of(world, RAY_SERVICE)) == 1
    assert world.condition("WeightsReady")["reason"] == "Downloaded"


def test_it_stays_quiet_while_it_downloads_and_afterwards(world: Simulation) -> None:
    for _ in range(2):
        count = len(world.cluster.writes)
        for _ in range(3):
            world.step()
        world.restart()
        world.step()
        assert len(world.cluster.writes) == count
        complete(world)


def test_what_serves_goes_on_until_other_weights_are_there(world: Simulation) -> None:
    complete(world)
    before = of(world, RAY_SERVICE)[0]["spec"]
    first = the_job(world)["metadata"]
    world.edit(model=stored("s3://models/newer", digest=DIGEST))
    world.settle()
    assert of(world, RAY_SERVICE)[0]["spec"] == before
    assert world.condition("WeightsReady")["reason"] == "Downloading"
    command = the_job(world)["spec"]["template"]["spec"]["containers"][0]["command"]
    kept = [command[place + 1] for place, part in enumerate(command) if part == "--keep"]
    assert first["labels"]["conclave.dev/weights-key"] in kept
    assert the_job(world)["metadata"]["labels"]["conclave.dev/weights-key"] in kept
    complete(world)
    assert of(world, RAY_SERVICE)[0]["spec"] != before
    assert world.condition("WeightsReady")["reason"] == "Downloaded"


def worker(world: Simulation, *, init: list[Json] | None = None, main: Json | None = None) -> Json:
    """A worker pod after the RayService's template, with the states of its containers."""
    group = of(world, RAY_SERVICE)[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    return world.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "mixtral-worker",
                "namespace": NAMESPACE,
                "labels": group["template"]["metadata"]["labels"] | {"ray.io/node-type": "worker"},
            },
            "spec": group["template"]["spec"],
            "status": {
                "phase": "Running" if main == RUNNING else "Pending",
                "initContainerStatuses": init or [],
                "containerStatuses": [
                    {"name": "ray"} | (main or {"state": {"waiting": {"reason": "PodInitializing"}}})
                ],
            },
        }
    )


def test_files_that_were_changed_in_the_cache_are_told_until_they_are_downloaded_anew(world: Simulation) -> None:
    world.edit(model=stored(digest=DIGEST))
    world.settle()
    complete(world)
    assert world.condition("WeightsReady")["reason"] == "Downloaded"
    rayservice, job = of(world, RAY_SERVICE)[0], the_job(world)
    told = ended({"error": "DigestMismatch", "message": "weights /models/weights: digest sha256:1"})
    unfit = [{"name": "verify-weights"} | told, {"name": "await-weights"} | RUNNING]
    worker(world, init=unfit)
    world.settle()
    condition = world.condition("WeightsReady")
    assert (condition["status"], condition["reason"]) == ("False", "DigestMismatch")
    assert f"`kubectl -n llm delete job {job['metadata']['name']}`" in condition["message"]
    assert world.condition("Stalled")["status"] == "True"

    world.cluster.remove(JOB, NAMESPACE, job["metadata"]["name"])
    world.settle()
    assert world.condition("WeightsReady")["reason"] == "Downloading"
    assert the_job(world)["spec"] == job["spec"]
    complete(world)
    assert world.condition("WeightsReady")["reason"] == "DigestMismatch", "until the pod has found them sound"
    worker(world, init=[unfit[0], {"name": "await-weights"} | ended({})], main=RUNNING)
    world.settle()
    assert world.condition("WeightsReady")["reason"] == "Verified"
    assert world.condition("Stalled")["status"] == "False"
    assert of(world, RAY_SERVICE)[0] == rayservice, "nothing is rolled"


def test_pods_of_a_build_that_did_not_verify_run_on_and_are_not_called_verified(world: Simulation) -> None:
    world.edit(model=stored(digest=DIGEST))
    world.settle()
    complete(world)
    for recorded in (*of(world, REVISION), *of(world, RAY_SERVICE)):
        content = recorded["data"]["rayservice"] if "data" in recorded else recorded
        template = content["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
        template["initContainers"] = [
            item for item in template["initContainers"] if not item["name"].endswith("-weights")
        ]
        world.put(recorded)
    before = of(world, RAY_SERVICE)[0]["spec"]
    worker(world, main=RUNNING)
    world.restart()
    world.settle()
    assert of(world, RAY_SERVICE)[0]["spec"] == before
    condition = world.condition("WeightsReady")
    assert (condition["status"], condition["reason"]) == ("True", "Downloaded")
    assert f"1 of 1 worker pods have not compared the weights with {DIGEST}" in condition["message"]
    assert world.condition("UpdateAvailable")["status"] == "True"


def test_a_job_that_somebody_deletes_is_made_again_and_nothing_is_rolled(world: Simulation) -> None:
    complete(world)
    before = of(world, RAY_SERVICE)[0]
    job = the_job(world)
    world.cluster.remove(JOB, NAMESPACE, job["metadata"]["name"])
    world.settle()
    assert the_job(world)["spec"] == job["spec"]
    assert of(world, RAY_SERVICE)[0] == before


def test_a_claim_that_is_made_anew_is_filled_anew(world: Simulation) -> None:
    complete(world)
    first = the_job(world)["metadata"]["name"]
    world.cluster.remove(CLAIM, NAMESPACE, "mixtral.weights")
    world.settle()
    assert the_job(world)["metadata"]["name"] != first
    assert world.condition("WeightsReady")["reason"] == "Downloading"


def test_another_secret_is_another_job_for_the_same_weights(world: Simulation) -> None:
    first = the_job(world)["metadata"]
    model = stored()
    model["source"]["objectStore"]["secretName"] = "other"
    world.edit(model=model)
    world.settle()
    assert the_job(world)["metadata"]["name"] != first["name"]
    assert the_job(world)["metadata"]["labels"] == first["labels"]


def test_a_newer_operator_repeats_no_download(world: Simulation) -> None:
    complete(world)
    job = the_job(world)
    world.settings = world.settings.model_copy(update={"image": "conclave/serving:newer"})
    world.restart()
    world.settle()
    assert the_job(world) == job
    assert world.condition("UpdateAvailable")["status"] == "True"


def test_a_suspended_download_stops_and_goes_on_later(world: Simulation) -> None:
    world.edit(suspend=True)
    world.settle()
    assert of(world, JOB) == []
    assert world.condition("Ready")["reason"] == "Suspended"
    world.edit(suspend=False)
    world.settle()
    assert world.condition("WeightsReady")["reason"] == "Downloading"
    assert the_job(world)


def test_a_claim_of_its_own_ends_the_download(world: Simulation) -> None:
    model = model_deployment()["spec"]["model"]
    world.edit(model=model)
    world.settle()
    assert of(world, JOB) == []
    assert len(of(world, RAY_SERVICE)) == 1
    assert {item["metadata"]["name"] for item in of(world, CLAIM)} == {"weights", "mixtral.weights"}


def test_weights_that_cannot_be_seen_leave_everything_as_it_is(world: Simulation) -> None:
    complete(world)
    before = of(world, RAY_SERVICE)
    world.cluster.forbidden = {("list", JOB)}
    world.settle()
    assert of(world, RAY_SERVICE) == before
    assert world.condition("Ready")["reason"] == "Forbidden"


GIB = 2**30
STATES: dict[str, tuple[list[Json], Json | None, str, str]] = {
    "a pod that has not begun": ([{"state": {"waiting": {}}}], None, "Downloading", "the download has not begun yet"),
    "the first step": ([RUNNING], None, "Downloading", "the download has begun"),
    "the second step": (
        [ended({"doneBytes": 5 * GIB, "totalBytes": 10 * GIB}), RUNNING],
        None,
        "Downloading",
        "mixtral.weights: 5.0 of 10.0 GiB (50 %) are downloaded",
    ),
    "a store that refuses": (
        [crashed({"error": "DownloadFailed", "message": "s3://models: there is no bucket models"})],
        None,
        "DownloadFailed",
        "container download-0 ended: s3://models: there is no bucket models; the Job tries again",
    ),
    "other files than the digest's": (
        [ended({"doneBytes": 1, "totalBytes": 2})],
        crashed({"error": "DigestMismatch", "message": "the objects have digest sha256:1\n  a.json: 1 bytes"}),
        "DigestMismatch",
        "the objects have digest sha256:1; the Job compares the objects again",
    ),
    "what is no model": (
        [],
        crashed({"error": "WeightsUnfit", "message": "no tokenizer"}),
        "WeightsCorrupt",
        "no tokenizer; upload complete weights",
    ),
    "an image without the library": ([], crashed("Traceback\nImportError: x"), "DownloadFailed", "ended: Traceback"),
    "words that are no report": ([crashed("[1, 2]")], None, "DownloadFailed", "ended: [1, 2]"),
    "a report of another shape": ([ended({"doneBytes": "many"}), RUNNING], None, "Downloading", "has begun"),
    "too much memory": ([crashed("", reason="OOMKilled")], None, "OutOfMemory", "more than its memory limit"),
    "a try after a failure": (
        [RUNNING | {"lastState": crashed({"error": "DownloadFailed", "message": "x"})["lastState"]}],
        None,
        "Downloading",
        "has begun",
    ),
    "a Secret that is not there": (
        [{"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "store" not found'}}}],
        None,
        "SecretMissing",
        "create the Secret store in namespace llm",
    ),
    "a Secret without a key": (
        [
            {
                "state": {
                    "waiting": {
                        "reason": "CreateContainerConfigError",
                        "message": "couldn't find key AWS_ACCESS_KEY_ID in Secret llm/store",
                    }
                }
            }
        ],
        None,
        "SecretMissing",
        "create the Secret store in namespace llm with the keys",
    ),
    "an image that is not pulled": (
        [{"state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}],
        None,
        "ImageNotPulled",
        "denied",
    ),
}


@pytest.mark.parametrize(("init", "main", "reason", "words"), STATES.values(), ids=STATES.keys())
def test_the_condition_says_how_far_it_is_or_why_not(
    world: Simulation, init: list[Json], main: Json | None, reason: str, words: str
) -> None:
    pod(world, init, main)
    world.settle()
    for kind in ("WeightsReady", "Ready"):
        condition = world.condition(kind)
        assert (condition["status"], condition["reason"]) == ("False", reason)
        assert words in condition["message"]
    is_waiting = reason == "Downloading"
    assert world.condition("Stalled")["status"] == str(not is_waiting)
    assert world.condition("Reconciling")["status"] == str(is_waiting)


def test_a_cause_that_is_gone_leaves_no_trace(world: Simulation) -> None:
    pod(world, [crashed({"error": "DownloadFailed", "message": "x"})])
    world.settle()
    assert world.condition("Stalled")["status"] == "True"
    pod(world, [ended({"doneBytes": GIB, "totalBytes": GIB})], RUNNING)
    world.settle()
    assert world.condition("WeightsReady")["reason"] == "Downloading"
    complete(world)
    assert world.condition("WeightsReady")["status"] == "True"
    assert world.condition("Stalled")["status"] == "False"


def test_a_pod_that_quota_forbids_is_told(world: Simulation) -> None:
    job = the_job(world)
    world.put(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "refused", "namespace": NAMESPACE},
            "involvedObject": {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]},
            "reason": "FailedCreate",
            "message": "pods is forbidden: exceeded quota: small",
        }
    )
    world.settle()
    assert world.condition("WeightsReady")["reason"] == "QuotaExceeded"
    assert EVENT in {kind for kind, _, _ in world.cluster.objects}


def test_the_download_has_a_policy_of_its_own(world: Simulation) -> None:
    assert [item["metadata"]["name"] for item in of(world, NETWORK_POLICY)] == ["mixtral.weights"]
    complete(world)
    assert {item["metadata"]["name"] for item in of(world, NETWORK_POLICY)} == {
        "mixtral",
        "mixtral.head",
        "mixtral.weights",
    }
    assert of(world, POD) == []


def test_no_job_begins_with_an_image_that_has_left_the_lists() -> None:
    """Its pod would be given the Secret's keys. What serves goes on from the claim that it has mounted."""
    world = Simulation(settings=OperatorSettings(image="conclave/serving:test", allowed_images=("own/serving:1",)))
    world.put(model_deployment(model=stored(), runtime={"image": "own/serving:1"}))
    world.settle()
    complete(world)
    serving = world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"]
    world.settings = world.settings.model_copy(update={"allowed_images": ()})
    world.restart()
    world.settle()
    assert world.condition("WithinPolicy")["reason"] == "ImageNotAllowed"
    assert world.condition("PlanReady")["status"] == "True"
    world.cluster.remove(JOB, NAMESPACE, the_job(world)["metadata"]["name"])
    world.settle()
    assert of(world, JOB) == []
    assert world.condition("PlanReady")["reason"] == "ImageNotAllowed"
    assert world.cluster.objects[RAY_SERVICE, NAMESPACE, "mixtral"]["spec"] == serving


NEWER_IMAGE = {"image": "conclave/serving:newer"}


def test_a_newer_operator_interrupts_no_download_that_makes_progress(world: Simulation) -> None:
    """Also not one whose pod has been made and has not begun."""
    world.settings = world.settings.model_copy(update=NEWER_IMAGE)
    job = the_job(world)
    for states in ([], [ended({"doneBytes": 5, "totalBytes": 9})]):
        pod(world, states, RUNNING if states else None)
        world.restart()
        world.settle()
        assert the_job(world) == job
    complete(world)
    assert world.condition("WeightsReady")["reason"] == "Downloaded"
    assert the_job(world)["metadata"]["uid"] == job["metadata"]["uid"]


FAILING: dict[str, Json] = {
    "an image that cannot be pulled": {"state": {"waiting": {"reason": "ImagePullBackOff"}}},
    "a container that crashes again and again": crashed({"error": "DownloadFailed", "message": "no object"}),
    "a container that has just ended badly": ended("", exit_code=4, reason="Error"),
}


@pytest.mark.parametrize("main", FAILING.values(), ids=FAILING)
def test_a_newer_operator_makes_a_download_anew_that_fails(world: Simulation, main: Json) -> None:
    """The newer image may be the remedy."""
    pod(world, main=main)
    world.settings = world.settings.model_copy(update=NEWER_IMAGE)
    first = the_job(world)["metadata"]["name"]
    world.restart()
    world.settle()
    assert the_job(world)["metadata"]["name"] != first
    assert the_job(world)["spec"]["template"]["spec"]["containers"][0]["image"] == NEWER_IMAGE["image"]


def test_an_edit_replaces_a_download_that_makes_progress(world: Simulation) -> None:
    pod(world, main=RUNNING)
    first = the_job(world)["metadata"]["name"]
    model = stored()
    model["source"]["objectStore"]["secretName"] = "other"
    world.edit(model=model)
    world.settle()
    assert the_job(world)["metadata"]["name"] != first


def test_a_pod_of_another_job_speaks_for_none(world: Simulation) -> None:
    made = pod(world, main=RUNNING)
    made["metadata"]["ownerReferences"][0]["uid"] = "uid-of-another"
    world.put(made)
    first = the_job(world)["metadata"]["name"]
    world.settings = world.settings.model_copy(update=NEWER_IMAGE)
    world.restart()
    world.settle()
    assert the_job(world)["metadata"]["name"] != first

"""The derived status: complete, stable, honest about what is not known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scenes import dead, make_deployment, make_plan, make_pod, make_rayservice, waiting
from tests.scenes import refusal as refused

from conclave import names
from conclave.api.modeldeployment import Endpoint, ModelDeployment, ModelDeploymentStatus
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import reported
from conclave.kubernetes.failures import ApiFailure, Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import KubeRay, Observed, Work
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.weights.keys import weights_key

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LATER = datetime(2026, 11, 23, 13, tzinfo=UTC)
ENDPOINT = Endpoint(
    url="http://mixtral-serve-svc.llm.svc.cluster.local:8000/v1", model="mixtral", token_secret="mixtral-token"
)
SERVING: dict[str, Any] = {
    "kuberay": KubeRay(installed=True),
    "rayservice": make_rayservice(serving=True),
    "pods": (make_pod("head"), make_pod("worker")),
    "claims": {"weights": "Bound"},
}


def status_of(
    deployment: Any = None,
    decision: Decision | None = None,
    outcome: Outcome | None = None,
    now: datetime = NOW,
    **seen: Any,
) -> ModelDeploymentStatus:
    return derive_status(
        deployment or make_deployment(),
        Observed(**(SERVING | seen)),
        decision or Decision(plan=make_plan(), endpoint=ENDPOINT),
        outcome or Outcome(),
        now,
    )


def conditions(status: ModelDeploymentStatus) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


def test_a_model_that_serves_is_ready() -> None:
    status = status_of()
    assert conditions(status) == {
        "Ready": ("True", "AsWanted"),
        "Scaled": ("True", "AsWanted"),
        "PlanReady": ("True", "Planned"),
        "WeightsReady": ("True", "Mounted"),
        "Provisioned": ("True", "PodsReady"),
        "Serving": ("True", "Serving"),
        "EgressEnforced": ("Unknown", "EgressUntested"),
        "WithinPolicy": ("True", "AsWanted"),
        "UpdateAvailable": ("False", "UpToDate"),
        "Reconciling": ("False", "AsWanted"),
        "Stalled": ("False", "AsWanted"),
    }
    assert status.endpoint == ENDPOINT
    assert (status.replicas, status.ready_replicas) == (1, 1)
    assert status.selector == "conclave.dev/model-deployment=mixtral,ray.io/node-type=worker"


def test_an_older_generation_serves_while_the_newer_one_starts() -> None:
    found = conditions(status_of(rayservice=make_rayservice(serving=True, upgrading=True)))
    assert found["Serving"] == ("True", "Serving")
    assert found["Ready"] == ("False", "RollingOut")
    assert found["Reconciling"] == ("True", "RollingOut")
    assert found["Stalled"] == ("False", "AsWanted")


def test_ready_is_never_true_before_kuberay_has_seen_the_newest_spec() -> None:
    rayservice = make_rayservice(serving=True)
    rayservice["metadata"]["generation"] = 2
    assert conditions(status_of(rayservice=rayservice))["Ready"] == ("False", "RollingOut")
    written = Outcome(written=("patch RayService/mixtral",))
    assert conditions(status_of(outcome=written))["Ready"] == ("True", "AsWanted"), (
        "KubeRay has nothing to do for labels"
    )


def test_a_refused_edit_is_not_ready_although_the_old_spec_serves() -> None:
    refusal = refused("8 GPUs are needed, 2 are free")
    found = conditions(status_of(decision=Decision(plan=make_plan(), refusal=refusal)))
    assert found["Ready"] == ("False", "NothingFits")
    assert found["PlanReady"] == ("False", "NothingFits")
    assert found["Serving"] == ("True", "Serving")
    assert found["Stalled"] == ("True", "NothingFits")


def test_a_suspended_deployment_is_neither_ready_nor_stalled() -> None:
    gone = status_of(make_deployment({"suspend": True}), pods=(), rayservice=make_rayservice())
    assert conditions(gone)["Ready"] == ("False", "Suspended")
    assert conditions(gone)["Stalled"] == ("False", "AsWanted")
    assert conditions(gone)["Reconciling"] == ("False", "AsWanted")
    assert conditions(status_of(make_deployment({"suspend": True})))["Reconciling"][0] == "True"


def test_a_deployment_scaled_to_zero_is_ready_without_workers() -> None:
    deployment = make_deployment({"scaling": {"minReplicas": 0}})
    status = status_of(deployment, pods=(make_pod("head"),))
    assert conditions(status)["Ready"] == ("True", "AsWanted")
    assert conditions(status)["Provisioned"] == ("True", "PodsReady")
    assert status.replicas == 0


def test_a_worker_that_is_not_there_is_waited_for() -> None:
    found = conditions(status_of(pods=(make_pod("head"),)))
    assert found["Ready"] == found["Provisioned"] == ("False", "EngineStarting")
    assert found["Reconciling"] == ("True", "EngineStarting")


def test_a_replica_beyond_the_least_that_finds_no_node_is_no_trouble() -> None:
    deployment = make_deployment({"scaling": {"minReplicas": 1, "maxReplicas": 2}})
    more = make_pod("worker", name="w2", phase="Pending", conditions=[])
    status = status_of(deployment, pods=(make_pod("head"), make_pod("worker"), more))
    assert conditions(status)["Ready"] == ("True", "AsWanted")
    assert conditions(status)["Stalled"] == ("False", "AsWanted")
    assert "1 more pods are starting" in next(c.message for c in status.conditions if c.type == "Provisioned")
    assert (status.replicas, status.ready_replicas) == (2, 1)


DIGEST, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
STORED = {
    "source": {"persistentVolumeClaim": None, "objectStore": {"uri": "s3://models/mixtral", "secretName": "store"}},
    "cache": {"size": "20Gi"},
}


def comparing(digest: str, *, container: str = "verify-weights", name: str = "w1") -> JsonObject:
    """A worker that runs, behind an init container that compared files with a digest."""
    pod = make_pod("worker", name=name)
    command = ["python", "-m", "conclave_weights", "verify", "--digest", digest, "/models/weights"]
    pod["spec"]["initContainers"] = [{"name": container, "command": command}, {"name": "await-weights"}]
    return pod


WEIGHTS: dict[str, tuple[dict[str, Any], tuple[JsonObject, ...], tuple[str, str], str]] = {
    "pods that compared them": (
        {"digest": DIGEST},
        (comparing(DIGEST), comparing(DIGEST, name="w2")),
        ("True", "Verified"),
        f"the pods mount the weights read-only; each worker pod has compared the weights with {DIGEST} before its "
        "engine started",
    ),
    "pods that compared what was downloaded": (
        STORED | {"digest": DIGEST},
        (comparing(DIGEST),),
        ("True", "Verified"),
        "the weights are downloaded into PersistentVolumeClaim llm/mixtral.weights; each worker pod has compared "
        "the weights with",
    ),
    "a download that no pod has compared yet": (
        STORED | {"digest": DIGEST},
        (),
        ("True", "Downloaded"),
        f"each pod will compare the weights with {DIGEST} before its engine starts",
    ),
    "a download that the pods of an older version serve uncompared": (
        STORED | {"digest": DIGEST},
        (comparing(DIGEST), make_pod("worker", name="w2")),
        ("True", "Downloaded"),
        f"1 of 2 worker pods have not compared the weights with {DIGEST}: they belong to an earlier spec",
    ),
    "pods that compared them with the digest of an earlier spec": (
        {"digest": DIGEST},
        (comparing(OTHER),),
        ("True", "Mounted"),
        f"1 of 1 worker pods have not compared the weights with {DIGEST}",
    ),
    "pods that compared an adapter only": (
        {"digest": DIGEST},
        (comparing(DIGEST, container="verify-weights-1"),),
        ("True", "Mounted"),
        f"have not compared the weights with {DIGEST}",
    ),
    "no digest to compare with": (
        {},
        (make_pod("worker"),),
        ("True", "Mounted"),
        "the pods mount the weights read-only; nothing was compared, since spec.model.digest is not set",
    ),
    "a download without a digest": (
        STORED,
        (make_pod("worker"),),
        ("True", "Downloaded"),
        "nothing was compared, since spec.model.digest is not set",
    ),
    "no pod of a claim": ({"digest": DIGEST}, (), ("Unknown", "EngineStarting"), "no worker pod has mounted"),
}


def downloaded(deployment: ModelDeployment) -> dict[str, Any]:
    """The cache and the Job that has filled it, where the deployment has a cache."""
    if deployment.spec.model.cache is None:
        return {}
    job = {
        "metadata": {
            "name": "mixtral-weights-0123456789",
            "labels": {names.WEIGHTS_KEY: weights_key(deployment)},
            "annotations": {names.CLAIM_UID: "uid-of-claim"},
        },
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},
    }
    return {"cache": {"metadata": {"name": "mixtral.weights", "uid": "uid-of-claim"}}, "weights": Work(jobs=(job,))}


@pytest.mark.parametrize(("model", "workers", "expected", "words"), WEIGHTS.values(), ids=WEIGHTS)
def test_verified_is_said_of_files_that_every_pod_compared_itself(
    model: dict[str, Any], workers: tuple[JsonObject, ...], expected: tuple[str, str], words: str
) -> None:
    deployment = make_deployment({"model": model})
    decision = Decision(plan=make_plan(), endpoint=ENDPOINT)
    status = status_of(deployment, decision, pods=(make_pod("head"), *workers), **downloaded(deployment))
    assert conditions(status)["WeightsReady"] == expected
    assert words in next(found.message for found in status.conditions if found.type == "WeightsReady")


def test_time_moves_only_when_a_condition_flips() -> None:
    first = status_of()
    deployment = make_deployment().model_copy(update={"status": first})
    failing = status_of(deployment, now=LATER, rayservice=make_rayservice())
    times = {condition.type: condition.last_transition_time for condition in failing.conditions}
    assert times["Ready"] == times["Serving"] == "2026-11-23T13:00:00Z"
    assert times["PlanReady"] == times["Stalled"] == "2026-11-23T12:00:00Z"


def test_a_forged_status_is_not_believed() -> None:
    forged = ModelDeploymentStatus(
        replicas=99, selector="a=b", endpoint=ENDPOINT.model_copy(update={"url": "http://evil"})
    )
    deployment = make_deployment().model_copy(update={"status": forged})
    assert status_of(deployment) == status_of()


def test_a_long_message_is_cut() -> None:
    refusal = refused("x" * 9000)
    status = status_of(decision=Decision(refusal=refusal))
    assert max(len(condition.message) for condition in status.conditions) == 4096


failures = st.builds(
    ApiFailure,
    verb=st.sampled_from(["list", "patch"]),
    resource=st.sampled_from(["pods", "events", "rayservices"]),
    code=st.sampled_from([0, 403, 409, 422, 503]),
    reason=st.sampled_from(["Forbidden", "ForeignOwner", "Invalid", "Unreachable"]),
)
pods = st.sampled_from(
    [
        make_pod("head"),
        make_pod("worker"),
        make_pod("worker", name="w2", ready=False),
        make_pod("worker", name="w3", **waiting("ImagePullBackOff", "no")),
        make_pod("worker", name="w4", **dead("OOMKilled")),
        make_pod("head", name="h2", phase="Pending"),
    ]
)


def test_what_the_operators_lists_do_not_hold_leaves_ready_as_it_is() -> None:
    objections = (
        reported(
            ConditionType.WITHIN_POLICY,
            "RecordRefused",
            "ControllerRevision llm/x",
            "ControllerRevision llm/x is no record",
        ),
        reported(ConditionType.WITHIN_POLICY, "ImageNotAllowed", "ModelDeployment llm/mixtral", "no such image"),
    )
    found = {
        condition.type: condition
        for condition in status_of(
            decision=Decision(plan=make_plan(), endpoint=ENDPOINT, objections=objections)
        ).conditions
    }
    assert found["Ready"].status == "True"
    assert (found["WithinPolicy"].status, found["WithinPolicy"].reason) == ("False", "RecordRefused")
    assert found["WithinPolicy"].message == "ControllerRevision llm/x is no record; no such image"


def test_records_that_cannot_be_read_are_no_sound_ones() -> None:
    failure = ApiFailure(verb="list", group="apps", resource="controllerrevisions", code=403, reason="Forbidden")
    assert conditions(status_of(failures=(failure,)))["WithinPolicy"] == ("Unknown", "Forbidden")


scenes = st.fixed_dictionaries(
    {},
    optional={
        "kuberay": st.sampled_from([KubeRay(installed=False), KubeRay(installed=True, missing_fields=("spec.x",))]),
        "rayservice": st.sampled_from([None, make_rayservice(), make_rayservice(serving=True, upgrading=True)]),
        "pods": st.lists(pods, unique_by=lambda pod: pod["metadata"]["name"]).map(tuple),
        "claims": st.sampled_from([{}, {"weights": "Pending"}, {"weights": "Lost"}]),
        "failures": st.lists(failures, max_size=2).map(tuple),
    },
)
decisions = st.sampled_from(
    [
        Decision(),
        Decision(plan=make_plan(), endpoint=ENDPOINT, update_available="newer"),
        Decision(refusal=refused("no")),
    ]
)


@settings(deadline=None)
@given(seen=scenes, decision=decisions, outcome=st.lists(failures, max_size=1), suspend=st.booleans())
def test_whatever_is_seen_every_condition_is_set_and_the_status_is_stable(
    seen: dict[str, Any], decision: Decision, outcome: list[ApiFailure], suspend: bool
) -> None:
    deployment = make_deployment({"suspend": suspend})
    applied = Outcome(failures=tuple(outcome))
    status = status_of(deployment, decision, applied, **seen)
    found = conditions(status)
    assert list(found) == list(ConditionType)
    for condition in status.conditions:
        assert condition.message
        assert condition.reason in list(Reason)
        assert condition.observed_generation == deployment.metadata.generation
    if found["Ready"][0] == "True":
        assert found["Serving"][0] == found["Provisioned"][0] == found["PlanReady"][0] == "True"
        assert found["Stalled"][0] == found["Reconciling"][0] == "False"
    elif not suspend:
        assert {found["Stalled"][0], found["Reconciling"][0]} == {"True", "False"}
    assert status.ready_replicas <= status.replicas
    again = deployment.model_copy(update={"status": status})
    assert status_of(again, decision, applied, LATER, **seen) == status
    assert ModelDeploymentStatus.model_validate(status.to_wire()) == status


def _made(pod: JsonObject, minute: int) -> JsonObject:
    pod["metadata"]["creationTimestamp"] = f"2026-11-23T11:{minute:02}:00Z"
    return pod


HEADS: dict[str, tuple[tuple[JsonObject, ...], tuple[str, str]]] = {
    "the worker is of this head's time": (
        (_made(make_pod("head"), 1), _made(make_pod("worker"), 2)),
        ("True", "AsWanted"),
    ),
    "the head is newer than the only worker": (
        (_made(make_pod("head"), 3), _made(make_pod("worker"), 2)),
        ("False", "HeadReplaced"),
    ),
    "there is no head": ((_made(make_pod("worker"), 2),), ("False", "HeadReplaced")),
    "a worker was made since and is not ready": (
        (_made(make_pod("head"), 3), _made(make_pod("worker", ready=False), 4)),
        ("False", "EngineStarting"),
    ),
    "a worker was made since and is ready": (
        (_made(make_pod("head"), 3), _made(make_pod("worker"), 4)),
        ("True", "AsWanted"),
    ),
    "of two workers one is left from before": (
        (_made(make_pod("head"), 3), _made(make_pod("worker"), 4), _made(make_pod("worker", name="old"), 2)),
        ("True", "AsWanted"),
    ),
}


@pytest.mark.parametrize(("pods", "ready"), HEADS.values(), ids=HEADS)
def test_what_a_head_took_along_does_not_serve(pods: tuple[JsonObject, ...], ready: tuple[str, str]) -> None:
    status = status_of(pods=pods)
    assert conditions(status)["Ready"] == ready
    assert status.ready_replicas == (1 if ready[0] == "True" else 0)

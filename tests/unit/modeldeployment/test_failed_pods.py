"""Pods that KubeRay deleted because they had failed: what its events tell of them, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.scenes import make_deployment, make_event, make_plan, make_pod, make_rayservice, merged

from conclave.api.reasons import Reason
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import KubeRay, Observed
from conclave.modeldeployment.root_cause import find_causes
from conclave.modeldeployment.scene import StatusScene
from conclave.modeldeployment.serving.failed_pods import failed_pods

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TEMPLATE = {"spec": {"containers": [{"name": "ray", "resources": {"limits": {"memory": "20Gi"}}}]}}
CLUSTER: JsonObject = {
    "kind": "RayCluster",
    "metadata": {"name": "mixtral-x7k2p", "namespace": "llm", "uid": "uid-of-raycluster"},
    "spec": {"headGroupSpec": {"template": TEMPLATE}, "workerGroupSpecs": [{"template": TEMPLATE}]},
}
KILLED = {"code": "137", "reason": "OOMKilled"}
CRASHED = {
    "code": "1",
    "reason": "Error",
    "message": "Traceback (most recent call last):\nModuleNotFoundError: No module named 'vllm', ,StartedAt:x,",
}


def deleted(
    end: dict[str, str],
    *,
    pod: str = "mixtral-x7k2p-gpu-worker-abcde",
    kind: str = "worker",
    at: str = "11:55:00",
    started: str = "11:54:00",
    cluster: JsonObject = CLUSTER,
    words: str = "",
) -> JsonObject:
    """As KubeRay 1.6.2 records it."""
    state = (
        f"&ContainerStateTerminated{{ExitCode:{end['code']},Signal:0,Reason:{end['reason']},"
        f"Message:{end.get('message', '')},StartedAt:2026-11-23 {started} +0000 UTC,"
        f"FinishedAt:2026-11-23 {at} +0000 UTC,ContainerID:containerd://0123,}}"
    )
    message = (
        f"{words}Deleted {kind} Pod llm/{pod}; Pod status: Failed; Pod restart policy: Never; "
        f"Ray container terminated status: {state}"
    )
    event = make_event(cluster, f"Deleted{kind.title()}Pod", message)
    return event | {"type": "Normal", "lastTimestamp": f"2026-11-23T{at}Z"}


def made(pod: JsonObject, at: str) -> JsonObject:
    return merged(pod, {"metadata": {"creationTimestamp": f"2026-11-23T{at}Z"}})


HEAD = made(make_pod("head"), "11:00:00")
STARTING = made(make_pod("worker", ready=False), "11:55:01")


def scene(*events: JsonObject, pods: tuple[JsonObject, ...] = (HEAD, STARTING), **observed: Any) -> StatusScene:
    seen = {
        "kuberay": KubeRay(installed=True),
        "rayservice": make_rayservice(),
        "rayclusters": (CLUSTER,),
        "pods": pods,
        "events": events,
        "claims": {"weights": "Bound"},
    }
    return StatusScene(
        now=NOW,
        deployment=make_deployment(),
        observed=Observed(**(seen | observed)),
        decision=Decision(plan=make_plan()),
    )


def test_a_worker_that_outgrew_its_memory_is_told_while_the_next_one_starts() -> None:
    (root, *_) = find_causes(scene(deleted(KILLED)))
    assert (root.reason, root.is_stalled) == (Reason.OUT_OF_MEMORY, True)
    assert root.message == (
        "Pod llm/mixtral-x7k2p-gpu-worker-abcde: container ray was killed: it used more than its memory limit of 20Gi; "
        "raise runtime.resources.worker.memory"
    )
    assert root.evidence == ("RayService llm/mixtral", "RayCluster llm/mixtral-x7k2p", root.subject)


def test_the_words_are_those_of_the_moment_in_which_the_pod_is_still_there() -> None:
    state = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    dead = make_pod("worker", name="w", phase="Failed", containerStatuses=[{"name": "ray", "state": state}])
    assert find_causes(scene(pods=(HEAD, dead)))[0] == find_causes(scene(deleted(KILLED, pod="w")))[0]


def test_the_cause_of_a_crash_is_found_in_the_message() -> None:
    (root, *_) = find_causes(scene(deleted(CRASHED)))
    assert (root.reason, root.is_stalled) == (Reason.IMAGE_INCOMPLETE, False)
    assert "container ray ended with exit code 1: ModuleNotFoundError: No module named 'vllm'" in root.message
    assert root.evidence[-2:] == tuple(CRASHED["message"].splitlines())


def test_a_crash_without_a_word_says_how_to_hear_the_next_one() -> None:
    (root, *_) = find_causes(scene(deleted({"code": "3", "reason": "Error"})))
    assert root.reason is Reason.CONTAINER_CRASHED
    assert (
        "`kubectl -n llm logs -f -l conclave.dev/model-deployment=mixtral,ray.io/node-type=worker -c ray`"
        in root.message
    )


LOW = "The node was low on resource: ephemeral-storage. Threshold quantity: 2705531679, available: 2545580Ki. "
FULL = 'Usage of EmptyDir volume "tmp" exceeds the limit "4Gi". '
EVICTIONS = {
    "a node that had too little": (
        LOW,
        "available: 2545580Ki; KubeRay will create a replacement pod. Free that resource on the node first",
    ),
    "a volume that was full": (
        FULL,
        'volume "tmp" exceeds the limit "4Gi"; KubeRay will create a replacement pod. `kubectl -n llm get pods -l '
        "conclave.dev/model-deployment=mixtral,ray.io/node-type=worker` names the replacement, and `du` in that pod "
        "shows what grows",
    ),
}


@pytest.mark.parametrize(("message", "told"), EVICTIONS.values(), ids=EVICTIONS)
def test_an_eviction_is_told_and_not_the_signal_that_it_sent(message: str, told: str) -> None:
    end = {"code": "137", "reason": "Error", "message": "received SIGTERM"}
    pod = {"kind": "Pod", "metadata": {"name": "w", "uid": "uid-of-w"}}
    gone = scene(make_event(pod, "Evicted", message), deleted(end, pod="w"))
    (root, *others) = find_causes(gone)
    assert (root.reason, root.subject, root.is_stalled) == (Reason.POD_EVICTED, "Pod llm/w", False)
    assert root.message.startswith("Pod llm/w: the kubelet evicted the pod: ")
    assert root.message.endswith(told)
    assert Reason.CONTAINER_CRASHED not in [other.reason for other in others]

    state = {"terminated": {"reason": "Error", "exitCode": 137}}
    containers = [{"name": "ray", "state": state}]
    there = make_pod(
        "worker", name="w", phase="Failed", reason="Evicted", message=message, containerStatuses=containers
    )
    assert find_causes(scene(pods=(HEAD, there)))[0] == root


def test_the_eviction_of_another_pod_is_none_of_this_one() -> None:
    other = {"kind": "Pod", "metadata": {"name": "v", "uid": "uid-of-v"}}
    (root, *_) = find_causes(scene(make_event(other, "Evicted", LOW), deleted(CRASHED, pod="w")))
    assert root.reason is Reason.IMAGE_INCOMPLETE


def test_a_worker_that_was_killed_comes_before_one_that_went_with_it() -> None:
    later = deleted({"code": "1", "reason": "Error"}, pod="b", at="11:56:00")
    (root, *_) = find_causes(scene(deleted(KILLED, pod="a"), later))
    assert (root.reason, root.subject) == (Reason.OUT_OF_MEMORY, "Pod llm/a")


def test_a_head_that_failed_comes_before_the_workers() -> None:
    events = (deleted(CRASHED, at="11:56:00"), deleted(CRASHED, kind="head", pod="h"))
    heads = (made(make_pod("head", ready=False), "11:55:01"),)
    assert find_causes(scene(*events, pods=heads))[0].subject == "Pod llm/h"
    assert "runtime.resources.head.memory" in find_causes(scene(deleted(KILLED, kind="head"), pods=heads))[0].message


READY = made(make_pod("worker"), "11:55:01")
TOLD: dict[str, tuple[StatusScene, bool]] = {
    "ten minutes ago": (scene(deleted(KILLED, at="11:50:00", started="11:49:00")), True),
    "longer ago": (scene(deleted(KILLED, at="11:49:59", started="11:49:00")), False),
    "longer ago, after half an hour of loading": (scene(deleted(KILLED, at="11:31:00", started="11:01:00")), True),
    "more than half an hour ago, after half an hour of loading": (
        scene(deleted(KILLED, at="11:29:00", started="11:00:00")),
        False,
    ),
    "one event that stands for many": (scene(deleted(KILLED, words="(combined from similar events): ")), True),
    "the next one is ready": (scene(deleted(KILLED), pods=(HEAD, READY)), False),
    "another one is ready since before": (
        scene(deleted(KILLED), pods=(HEAD, made(make_pod("worker"), "11:54:59"), STARTING)),
        True,
    ),
    "the next one was ready and goes": (
        scene(deleted(KILLED), pods=(HEAD, merged(READY, {"metadata": {"deletionTimestamp": "2026-11-23T12:00:00Z"}}))),
        True,
    ),
    "it was older than its head": (scene(deleted(CRASHED), pods=(made(HEAD, "11:54:30"), STARTING)), False),
    "the head is ready, which is no worker": (scene(deleted(KILLED), pods=(made(HEAD, "11:53:00"), STARTING)), True),
    "of the cluster before the one that is asked for": (
        scene(
            deleted(KILLED),
            rayservice=merged(
                make_rayservice(serving=True, upgrading=True),
                {"status": {"pendingServiceStatus": {"rayClusterName": "mixtral-other"}}},
            ),
        ),
        False,
    ),
    "no one knows since when it ran": (
        scene({**deleted(KILLED), "message": deleted(KILLED)["message"].replace("2026-11-23 ", "0001-01-01 ")}),
        True,
    ),
}


@pytest.mark.parametrize(("seen", "is_told"), TOLD.values(), ids=TOLD)
def test_it_is_told_until_its_successor_has_come_further(seen: StatusScene, is_told: bool) -> None:
    assert bool(list(failed_pods(seen))) is is_told


UNREAD = {
    "a pod that the autoscaler wanted to go": "Deleted pod llm/mixtral-x7k2p-gpu-worker-abcde",
    "a pod that failed before its Ray container": (
        "Deleted worker Pod llm/w; Pod status: Failed; Pod restart policy: Never; Ray container terminated status: nil"
    ),
    "a message that was cut": deleted(KILLED)["message"][:-9],
    "a message without end": deleted(KILLED | {"message": "Deleted worker Pod llm/w; " * 100_000})["message"],
}


@pytest.mark.parametrize("message", UNREAD.values(), ids=UNREAD)
def test_an_event_that_tells_no_end_of_a_ray_container_is_none(message: str) -> None:
    assert list(failed_pods(scene({**deleted(KILLED), "message": message}))) == []


def test_a_cluster_that_somebody_stripped_is_no_trouble() -> None:
    bare = {key: value for key, value in CLUSTER.items() if key != "spec"}
    (root, *_) = find_causes(scene(deleted(KILLED), rayclusters=(bare,)))
    assert "memory limit of unknown size" in root.message


def test_the_words_do_not_count_the_seconds() -> None:
    known = scene(deleted(KILLED))
    later = known.model_copy(update={"now": NOW + timedelta(seconds=1)})
    assert find_causes(later) == find_causes(known)

"""Root causes: what was seen in the cluster, and the one reason that comes out of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.scenes import (
    dead,
    make_deployment,
    make_event,
    make_plan,
    make_pod,
    make_rayservice,
    merged,
    waiting,
)
from tests.scenes import refusal as refused

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import ConditionType, Reason
from conclave.engine.exceptions import find_cause
from conclave.finding import Finding
from conclave.kubernetes.failures import FOREIGN_OWNER, UNREACHABLE, ApiFailure, Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import KubeRay, Observed, Work
from conclave.modeldeployment.root_cause import explain, find_causes
from conclave.modeldeployment.scene import StatusScene
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.weights.keys import weights_key

IMPORT_ERROR = (
    """The deployment failed to start 3 times in a row. Error:
ray::ServeReplica:mixtral:LLMServer:mixtral.initialize_and_get_metadata() (pid=512, ip=10.0.0.7, actor_id=01)
  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 456, in result
    return self.__get_result()
  File "/opt/venv/lib/python3.11/site-packages/ray/serve/_private/replica.py", line 1160, in initialize
    await self._user_callable_initializer()
RuntimeError: Traceback (most recent call last):
"""
    + '  File "/opt/venv/lib/python3.11/site-packages/vllm/a.py", line 1, in <module>\n    import b\n' * 15
    + """ImportError: libnuma.so.1: cannot open shared object file: No such file or directory

The above exception was the direct cause of the following exception:

  File "/opt/venv/lib/python3.11/site-packages/vllm/v1/engine/core_client.py", line 90, in __init__
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
ray.exceptions.ActorDiedError: The actor died because of an error raised in its creation task"""
)

SERVE_FAILURE = {
    "applicationStatuses": {
        "mixtral": {
            "status": "DEPLOY_FAILED",
            "message": "Failed to update the deployments ['LLMServer:mixtral'].",
            "serveDeploymentStatuses": {
                "Ingress": {"status": "HEALTHY", "message": ""},
                "LLMServer:mixtral": {"status": "DEPLOY_FAILED", "message": IMPORT_ERROR},
            },
        }
    }
}

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SCC = (
    'pods "mixtral-head" is forbidden: unable to validate against any security context constraint: [provider '
    "restricted-v2: .spec.securityContext.fsGroup: Invalid value: []int64{1000}: 1000 is not an allowed group]"
)
HEAD, WORKER = make_pod("head"), make_pod("worker")
CLUSTER: JsonObject = {
    "kind": "RayCluster",
    "metadata": {"name": "mixtral-x7k2p", "namespace": "llm", "uid": "uid-of-raycluster"},
    "status": {},
}


def scene(
    *,
    spec: dict[str, Any] | None = None,
    outcome: Outcome | None = None,
    refusal: Finding | None = None,
    **observed: Any,
) -> StatusScene:
    """All is well, but for what a case says."""
    seen = {
        "kuberay": KubeRay(installed=True),
        "rayservice": make_rayservice(serving=True),
        "rayclusters": (CLUSTER,),
        "pods": (HEAD, WORKER),
        "claims": {"weights": "Bound"},
    }
    return StatusScene(
        now=NOW,
        deployment=make_deployment(spec),
        observed=Observed(**(seen | observed)),
        decision=Decision(plan=make_plan(), refusal=refusal),
        outcome=outcome or Outcome(),
    )


def denied(verb: str, resource: str, **fields: Any) -> ApiFailure:
    answer = {"group": "ray.io", "namespace": "llm", "name": "mixtral", "code": 403, "reason": "Forbidden"}
    return ApiFailure(verb=verb, resource=resource, **(answer | fields))


def starting(worker: JsonObject, *events: JsonObject, head: JsonObject = HEAD, **more: Any) -> dict[str, Any]:
    return {"rayservice": make_rayservice(), "pods": (head, worker), "events": events, **more}


def broken_worker(status: JsonObject) -> JsonObject:
    return make_pod("worker", **status)


def verified_badly(
    error: str, message: str, *, container: str = "verify-weights", wait: JsonObject | None = None
) -> JsonObject:
    """As `conclave_weights verify --report --notes` leaves it, and `await` behind it in a state."""
    report = {"exitCode": 0, "reason": "Completed", "message": json.dumps({"error": error, "message": message})}
    statuses = [
        {"name": container, "state": {"terminated": report}},
        {"name": "await-weights", "state": wait or {"running": {}}},
    ]
    pod = make_pod("worker", phase="Pending", initContainerStatuses=statuses)
    pod["spec"]["initContainers"] = [{"name": status["name"]} for status in statuses]
    return pod


def verified_badly_by_an_older_build(error: str, message: str) -> JsonObject:
    report = json.dumps({"error": error, "message": message})
    return broken_worker(dead("Error", report, exit_code=4, container="verify-weights"))


def ready_head(since: str) -> JsonObject:
    """Since that time of NOW's day."""
    head = make_pod("head")
    head["status"]["conditions"][0]["lastTransitionTime"] = f"2026-11-23T{since}Z"
    return head


def waiting_for_head(since: str, *, cluster: str = "mixtral-x7k2p") -> JsonObject:
    """A worker that KubeRay's init container holds up."""
    running = {"name": "wait-gcs-ready", "state": {"running": {"startedAt": f"2026-11-23T{since}Z"}}}
    pod = make_pod("worker", phase="Pending", initContainerStatuses=[running])
    address = f"{cluster}-head-svc.llm.svc.cluster.local:6379"
    script = f"if ray health-check --address {address} > /dev/null; then break; fi"
    pod["spec"]["initContainers"] = [{"name": "wait-gcs-ready", "command": ["/bin/bash", "-c"], "args": [script]}]
    pod["metadata"]["labels"]["ray.io/cluster"] = cluster
    return pod


ADAPTED = {"model": {"adapters": [{"name": "tone", "source": {"persistentVolumeClaim": {"claimName": "adapters"}}}]}}
PENDING = make_pod("worker", phase="Pending", conditions=[])
CREATING = broken_worker(waiting("ContainerCreating"))


def unscheduled(component: str, words: str) -> JsonObject:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    return make_pod(component, phase="Pending", conditions=[condition])


UNSCHEDULABLE = unscheduled("worker", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")


class Case(NamedTuple):
    seen: dict[str, Any]
    reason: Reason
    condition: ConditionType
    words: tuple[str, ...]
    """Parts that the message must have."""


STORED = {
    "model": {
        "source": {"persistentVolumeClaim": None, "objectStore": {"uri": "s3://models/mixtral", "secretName": "store"}},
        "cache": {"size": "20Gi"},
        "digest": "sha256:" + "ab" * 32,
    }
}
DOWNLOADED: dict[str, Any] = {
    "spec": STORED,
    "cache": {"metadata": {"name": "mixtral.weights", "uid": "uid-of-claim"}, "status": {"phase": "Bound"}},
    "weights": Work(
        jobs=(
            {
                "metadata": {
                    "name": "mixtral-weights-0123456789",
                    "uid": "uid-of-job",
                    "labels": {"conclave.dev/weights-key": weights_key(make_deployment(STORED))},
                    "annotations": {"conclave.dev/claim-uid": "uid-of-claim"},
                },
                "status": {"conditions": [{"type": "Complete", "status": "True"}]},
            },
        )
    ),
}
PROVISIONED, WEIGHTS, SERVING = ConditionType.PROVISIONED, ConditionType.WEIGHTS_READY, ConditionType.SERVING
CASES: dict[str, Case] = {
    "a verb was taken away": Case(
        {"outcome": Outcome(failures=(denied("patch", "rayservices", message='User "conclave" cannot patch'),))},
        Reason.FORBIDDEN,
        PROVISIONED,
        ("rayservices.ray.io llm/mixtral", "patch", "grant the verb patch on rayservices.ray.io"),
    ),
    "nodes may not be listed": Case(
        {"failures": (denied("list", "nodes", group="", namespace="", name=""),)},
        Reason.FORBIDDEN,
        PROVISIONED,
        ("grant the verb list on nodes",),
    ),
    "the RayService is somebody else's": Case(
        {
            "outcome": Outcome(
                failures=(
                    denied("patch", "rayservices", code=409, reason=FOREIGN_OWNER, message="it belongs to nobody"),
                )
            )
        },
        Reason.FOREIGN_OWNER,
        PROVISIONED,
        ("an object of this name exists, and it belongs to nobody", "rename the ModelDeployment"),
    ),
    "the API server does not answer": Case(
        {"failures": (denied("list", "pods", group="", code=0, reason=UNREACHABLE),)},
        Reason.API_SERVER_UNREACHABLE,
        PROVISIONED,
        ("the API server did not answer the operator's list", "the operator tries again"),
    ),
    "the API server refuses what we built": Case(
        {
            "outcome": Outcome(
                failures=(denied("patch", "rayservices", code=422, reason="Invalid", message="spec.x: Required"),)
            )
        },
        Reason.WRITE_REJECTED,
        PROVISIONED,
        ("422 Invalid: spec.x: Required",),
    ),
    "KubeRay is not installed": Case(
        {"kuberay": KubeRay(installed=False), "rayservice": None, "pods": (), "rayclusters": ()},
        Reason.DEPENDENCY_MISSING,
        PROVISIONED,
        ("rayservices.ray.io: not installed", "install KubeRay"),
    ),
    "KubeRay is too old": Case(
        {"kuberay": KubeRay(installed=True, missing_fields=("spec.rayClusterConfig.authOptions.mode",))},
        Reason.DEPENDENCY_OUTDATED,
        PROVISIONED,
        ("authOptions.mode", "update KubeRay"),
    ),
    "the plan is refused": Case(
        {"refusal": refused("2 GPUs are free, 8 are needed")},
        Reason.NOTHING_FITS,
        ConditionType.PLAN_READY,
        ("ModelDeployment llm/mixtral", "2 GPUs are free, 8 are needed"),
    ),
    "the claim does not exist": Case(
        {"claims": {}, **starting(UNSCHEDULABLE)}, Reason.CLAIM_MISSING, WEIGHTS, ("PersistentVolumeClaim llm/weights",)
    ),
    "the claim of an adapter does not exist": Case(
        {"spec": ADAPTED, **starting(PENDING)}, Reason.CLAIM_MISSING, WEIGHTS, ("PersistentVolumeClaim llm/adapters",)
    ),
    "the claim of an adapter is still pending": Case(
        {"spec": ADAPTED, "claims": {"weights": "Bound", "adapters": "Pending"}, **starting(PENDING)},
        Reason.CLAIM_PENDING,
        WEIGHTS,
        ("PersistentVolumeClaim llm/adapters", "phase is Pending"),
    ),
    "the claim has lost its volume": Case(
        {"claims": {"weights": "Lost"}}, Reason.CLAIM_LOST, WEIGHTS, ("phase is Lost",)
    ),
    "the claim is still pending": Case(
        {"claims": {"weights": "Pending"}, **starting(PENDING)}, Reason.CLAIM_PENDING, WEIGHTS, ("phase is Pending",)
    ),
    "KubeRay finds the RayService invalid": Case(
        {
            "pods": (),
            "rayservice": {
                **make_rayservice(),
                "status": {
                    "observedGeneration": 1,
                    "conditions": [
                        {
                            "type": "Ready",
                            "status": "False",
                            "reason": "ValidationFailed",
                            "message": "headGroupSpec is bad",
                        }
                    ],
                },
            },
        },
        Reason.CLUSTER_REJECTED,
        PROVISIONED,
        ("KubeRay refuses this object: headGroupSpec is bad",),
    ),
    "the quota is used up": Case(
        {
            "pods": (),
            "rayservice": make_rayservice(),
            "events": (
                make_event(CLUSTER, "FailedToCreateHeadPod", "pods is forbidden: exceeded quota: compute, used: cpu=8"),
            ),
        },
        Reason.QUOTA_EXCEEDED,
        PROVISIONED,
        ("exceeded quota: compute", "raise the namespace's quota"),
    ),
    "Pod Security refuses the pods": Case(
        {
            "pods": (),
            "rayservice": make_rayservice(),
            "events": (make_event(CLUSTER, "FailedToCreateHeadPod", 'violates PodSecurity "restricted:latest"'),),
        },
        Reason.POD_REJECTED,
        PROVISIONED,
        ("violates PodSecurity",),
    ),
    "OpenShift refuses the users that the pods name": Case(
        {
            "pods": (),
            "rayservice": make_rayservice(),
            "events": (make_event(CLUSTER, "FailedToCreateHeadPod", SCC),),
        },
        Reason.POD_REJECTED,
        PROVISIONED,
        ("1000 is not an allowed group", "set fixedUserIds to false in the chart's values"),
    ),
    "the token Secret was deleted": Case(
        starting(
            CREATING,
            make_event(
                CREATING,
                "FailedMount",
                'MountVolume.SetUp failed for volume "endpoint-token" : secret "mixtral-token" not found',
            ),
        ),
        Reason.SECRET_MISSING,
        PROVISIONED,
        ('secret "mixtral-token" not found', "the operator creates the Secret again"),
    ),
    "the volume cannot be attached": Case(
        starting(CREATING, make_event(CREATING, "FailedAttachVolume", 'Multi-Attach error for volume "pvc-1"')),
        Reason.VOLUME_NOT_MOUNTED,
        PROVISIONED,
        ("Multi-Attach error",),
    ),
    "the node does not know the RuntimeClass": Case(
        starting(
            CREATING,
            make_event(
                CREATING,
                "FailedCreatePodSandBox",
                "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: "
                'no runtime for "nvidia" is configured',
            ),
        ),
        Reason.CONTAINER_NOT_CREATED,
        PROVISIONED,
        ('no runtime for "nvidia" is configured', "correct runtime.runtimeClassName"),
    ),
    "a sandbox waits for the network, as it does for a moment on each new node": Case(
        starting(CREATING, make_event(CREATING, "FailedCreatePodSandBox", "cni plugin not initialized")),
        Reason.PODS_STARTING,
        PROVISIONED,
        (),
    ),
    "the image does not exist": Case(
        starting(
            broken_worker(waiting("ImagePullBackOff", 'Back-off pulling image "images.test/x"')),
            make_event(WORKER, "Failed", 'Failed to pull image "images.test/x": not found'),
        ),
        Reason.IMAGE_NOT_PULLED,
        PROVISIONED,
        ("ImagePullBackOff", "not found", "imagePullSecrets"),
    ),
    "the image does not exist, and a Secret came late before that": Case(
        starting(
            broken_worker(waiting("ErrImagePull", 'Failed to pull image "images.test/x": not found')),
            make_event(WORKER, "FailedMount", "failed to sync secret cache: timed out waiting for the condition"),
        ),
        Reason.IMAGE_NOT_PULLED,
        PROVISIONED,
        ("ErrImagePull", "not found"),
    ),
    "the weights' directory does not exist": Case(
        starting(
            broken_worker(
                waiting(
                    "CreateContainerConfigError",
                    'failed to create subPath directory for volumeMount "weights" of container "ray"',
                )
            )
        ),
        Reason.WEIGHTS_MISSING,
        WEIGHTS,
        ("failed to create subPath directory", "create the directory that"),
    ),
    "a flipped byte in the weights": Case(
        starting(
            verified_badly(
                "DigestMismatch", "weights /models/weights: digest sha256:1, expected sha256:2\n  a: 1 bytes"
            )
        ),
        Reason.DIGEST_MISMATCH,
        WEIGHTS,
        (
            "container verify-weights ended: weights /models/weights: digest sha256:1, expected sha256:2; "
            "after you repair the files in place, this pod reads them again within a minute and starts the model",
            "kubectl -n llm logs mixtral-x7k2p-worker-abcde -c await-weights",
        ),
    ),
    "a flipped byte in what was downloaded": Case(
        starting(verified_badly("DigestMismatch", "weights /models/weights: digest sha256:1"), **DOWNLOADED),
        Reason.DIGEST_MISMATCH,
        WEIGHTS,
        (
            "the files were complete after the download: find out what has written to PersistentVolumeClaim "
            "mixtral.weights since then. `kubectl -n llm delete job mixtral-weights-0123456789` makes the "
            "operator download "
            "them again; after you repair the files in place, this pod reads them again within a minute and "
            "starts the model",
        ),
    ),
    "a shard that went from what was downloaded": Case(
        starting(verified_badly("WeightsUnfit", "1 of 2 files are missing: b"), **DOWNLOADED),
        Reason.WEIGHTS_CORRUPT,
        WEIGHTS,
        (
            "1 of 2 files are missing: b; the files were complete after the download",
            "delete job mixtral-weights-0123456789",
        ),
    ),
    "a download that may not be read": Case(
        starting(verified_badly("WeightsUnreadable", "cannot be read: Permission denied"), **DOWNLOADED),
        Reason.WEIGHTS_UNREADABLE,
        WEIGHTS,
        ("cannot be read: Permission denied; let the user or group that the pods run as read the files (1000",),
    ),
    "a flipped byte in an adapter beside what was downloaded": Case(
        starting(verified_badly("DigestMismatch", "digest sha256:1", container="verify-weights-1"), **DOWNLOADED),
        Reason.DIGEST_MISMATCH,
        WEIGHTS,
        ("container verify-weights-1 ended: digest sha256:1; after you repair the files in place",),
    ),
    "a flipped byte, found by a pod of an older build": Case(
        starting(verified_badly_by_an_older_build("DigestMismatch", "weights /models/weights: digest sha256:1")),
        Reason.DIGEST_MISMATCH,
        WEIGHTS,
        (
            "container verify-weights ended: weights /models/weights: digest sha256:1; then delete the pod",
            "its replacement reads the files again",
        ),
    ),
    "a flipped byte, where even the wait for its mending failed": Case(
        starting(
            verified_badly("DigestMismatch", "digest sha256:1", wait={"terminated": {"exitCode": 4, "message": "gone"}})
        ),
        Reason.DIGEST_MISMATCH,
        WEIGHTS,
        ("digest sha256:1",),
    ),
    "a flipped byte that was mended in the pod": Case(
        starting(verified_badly("DigestMismatch", "digest sha256:1", wait={"terminated": {"exitCode": 0}})),
        Reason.PODS_STARTING,
        PROVISIONED,
        ("starting",),
    ),
    "the files of an adapter are not those of its digest": Case(
        starting(verified_badly("DigestMismatch", "digest sha256:1", container="verify-weights-2")),
        Reason.DIGEST_MISMATCH,
        WEIGHTS,
        ("container verify-weights-2 ended: digest sha256:1",),
    ),
    "a shard of the weights is missing": Case(
        starting(verified_badly("WeightsUnfit", "weights /models/weights: 1 of 2 files are missing: b")),
        Reason.WEIGHTS_CORRUPT,
        WEIGHTS,
        ("1 of 2 files are missing: b", "repair the files that the message names"),
    ),
    "the weights may not be read": Case(
        starting(
            verified_badly("WeightsUnreadable", "weights file /models/weights/a: cannot be read: Permission denied")
        ),
        Reason.WEIGHTS_UNREADABLE,
        WEIGHTS,
        ("cannot be read: Permission denied", "the user or group that the pods run as read the files (1000"),
    ),
    "a verification that never looked at the weights": Case(
        starting(
            broken_worker(dead("Error", "ImportError: libz.so.1: cannot open shared", container="verify-weights"))
        ),
        Reason.IMAGE_INCOMPLETE,
        PROVISIONED,
        ("container verify-weights ended with exit code 1: ImportError: libz.so.1",),
    ),
    "a verification that outgrew its memory": Case(
        starting(broken_worker(dead("OOMKilled", exit_code=137, container="verify-weights"))),
        Reason.OUT_OF_MEMORY,
        PROVISIONED,
        ("container verify-weights was killed",),
    ),
    "a verification whose words are no report": Case(
        starting(broken_worker(dead("Error", "[" * 3000, container="verify-weights", exit_code=4))),
        Reason.CONTAINER_CRASHED,
        PROVISIONED,
        ("container verify-weights ended with exit code 4",),
    ),
    "half a character in a report": Case(
        starting(
            broken_worker(
                dead("Error", r'{"error": "DigestMismatch", "message": "\ud800"}', container="verify-weights")
            )
        ),
        Reason.DIGEST_MISMATCH,
        WEIGHTS,
        ("container verify-weights ended: ?",),
    ),
    "a worker that cannot reach its head": Case(
        starting(waiting_for_head("11:57:59"), head=ready_head("11:50:00")),
        Reason.HEAD_UNREACHABLE,
        PROVISIONED,
        (
            "Pod llm/mixtral-x7k2p-worker-abcde: container wait-gcs-ready has waited more than 2 minutes for Ray's "
            "control store at mixtral-x7k2p-head-svc.llm.svc.cluster.local:6379, although the head, Pod "
            "mixtral-x7k2p-head-abcde, is ready; ",
            "network.dnsNamespace and network.dnsCidrs",
        ),
    ),
    "a worker that waits for its head since a moment": Case(
        starting(waiting_for_head("11:58:00"), head=ready_head("11:50:00")),
        Reason.PODS_STARTING,
        PROVISIONED,
        ("is starting; 1 pods do not run yet",),
    ),
    "a worker whose head has been ready for a moment only": Case(
        starting(waiting_for_head("11:30:00"), head=ready_head("11:58:00")),
        Reason.PODS_STARTING,
        PROVISIONED,
        ("is starting; 1 pods do not run yet",),
    ),
    "a worker whose head is not ready": Case(
        starting(waiting_for_head("11:30:00"), head=make_pod("head", ready=False)),
        Reason.PODS_STARTING,
        PROVISIONED,
        ("is starting; 1 pods do not run yet",),
    ),
    "a worker of another cluster than the ready head's": Case(
        starting(waiting_for_head("11:30:00", cluster="mixtral-other"), head=ready_head("11:50:00")),
        Reason.PODS_STARTING,
        PROVISIONED,
        ("is starting; 1 pods do not run yet",),
    ),
    "a worker outgrew its memory": Case(
        starting(broken_worker(dead("OOMKilled", exit_code=137))),
        Reason.OUT_OF_MEMORY,
        PROVISIONED,
        ("memory limit of 20Gi", "raise runtime.resources.worker.memory"),
    ),
    "a container crashed and says why": Case(
        starting(broken_worker(dead("Error", "Traceback\nModuleNotFoundError: No module named 'conclave_serving'"))),
        Reason.IMAGE_INCOMPLETE,
        PROVISIONED,
        ("No module named 'conclave_serving'", "add the Python package"),
    ),
    "a container crashed and says nothing": Case(
        starting(broken_worker(dead("Error", exit_code=3))),
        Reason.CONTAINER_CRASHED,
        PROVISIONED,
        ("exit code 3", "kubectl -n llm logs"),
    ),
    "no node has enough GPUs free": Case(
        starting(UNSCHEDULABLE),
        Reason.UNSCHEDULABLE,
        PROVISIONED,
        ("3 Insufficient nvidia.com/gpu", "2 nvidia.com/gpu", "free a node or add one"),
    ),
    "the head's pool has a taint": Case(
        {
            "pods": (unscheduled("head", "0/3 nodes are available: 3 had untolerated taint {sku: gpu}"),),
            "rayservice": make_rayservice(),
        },
        Reason.UNSCHEDULABLE,
        PROVISIONED,
        ("untolerated taint", "or change runtime.head, access.regions"),
    ),
    "an engine that storage is too slow for": Case(
        {
            "rayservice": make_rayservice(
                applicationStatuses={
                    "mixtral": {
                        "status": "DEPLOY_FAILED",
                        "message": "TimeoutError: Timed out waiting for engine core processes to start. Waited 600s",
                    }
                }
            )
        },
        Reason.ENGINE_FAILED,
        SERVING,
        ("Timed out waiting for engine core", "raise runtime.startupSeconds"),
    ),
    "an ImportError 40 lines deep": Case(
        {"rayservice": make_rayservice(**SERVE_FAILURE)},
        Reason.IMAGE_INCOMPLETE,
        SERVING,
        (
            "LLMServer:mixtral is DEPLOY_FAILED: ImportError: libnuma.so.1: cannot open shared object file",
            "add the library",
        ),
    ),
    "a failure without an exception": Case(
        {
            "rayservice": make_rayservice(
                applicationStatuses={"mixtral": {"status": "DEPLOY_FAILED", "message": "no such\nimport path"}}
            )
        },
        Reason.ENGINE_FAILED,
        SERVING,
        ("no such import path", "kubectl -n llm exec mixtral-x7k2p-worker-abcde -c ray"),
    ),
    "KubeRay's operator is down": Case(
        {"rayservice": {**make_rayservice(), "status": {}}, "pods": (), "rayclusters": ()},
        Reason.PODS_MISSING,
        PROVISIONED,
        ("KubeRay has created no pods", "check that KubeRay's operator runs"),
    ),
    "the weights are being verified": Case(
        starting(
            make_pod(
                "worker", phase="Pending", initContainerStatuses=[{"name": "verify-weights", "state": {"running": {}}}]
            )
        ),
        Reason.VERIFYING,
        WEIGHTS,
        ("is comparing the weights",),
    ),
    "pods are starting": Case(starting(PENDING), Reason.PODS_STARTING, PROVISIONED, ("do not run yet",)),
    "the engine loads": Case(
        {"rayservice": make_rayservice(applicationStatuses={"mixtral": {"status": "DEPLOYING", "message": ""}})},
        Reason.ENGINE_STARTING,
        SERVING,
        ("2 of its pods run", "mixtral DEPLOYING"),
    ),
    "a new generation takes over": Case(
        {"rayservice": make_rayservice(serving=True, upgrading=True)},
        Reason.ROLLING_OUT,
        ConditionType.READY,
        ("will replace the RayCluster", "older generation"),
    ),
    "a write that KubeRay has not seen": Case(
        {"rayservice": merged(make_rayservice(serving=True), {"metadata": {"generation": 2}})},
        Reason.ROLLING_OUT,
        ConditionType.READY,
        ("has not acted on the last change",),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_first_cause_is(case: Case) -> None:
    root, *_ = find_causes(scene(**case.seen))
    assert (root.reason, root.condition) == (case.reason, case.condition)
    for words in case.words:
        assert words in root.message


def test_nothing_is_wrong_where_all_is_well() -> None:
    assert find_causes(scene()) == ()


def test_a_dead_pod_comes_before_the_pod_that_waits_for_it() -> None:
    head = make_pod("head", **dead("OOMKilled", exit_code=137))
    causes = find_causes(scene(rayservice=make_rayservice(), pods=(UNSCHEDULABLE, head)))
    assert [cause.reason for cause in causes[:2]] == [Reason.OUT_OF_MEMORY, Reason.UNSCHEDULABLE]
    assert "runtime.resources.head.memory" in causes[0].message


def test_an_event_of_a_pod_that_runs_by_now_is_no_cause() -> None:
    event = make_event(WORKER, "FailedMount", 'secret "mixtral-token" not found')
    assert find_causes(scene(events=(event,))) == ()


def test_an_event_from_before_the_first_container_ran_is_no_cause() -> None:
    pod = make_pod(
        "worker", phase="Pending", initContainerStatuses=[{"name": "wait-gcs-ready", "state": {"running": {}}}]
    )
    event = make_event(pod, "FailedMount", 'configmap "kube-root-ca.crt" not found')
    (root, *_) = find_causes(scene(rayservice=make_rayservice(), pods=(HEAD, pod), events=(event,)))
    assert root.reason is Reason.PODS_STARTING


def test_weights_that_were_mended_are_no_cause() -> None:
    """The container failed, and its next try ended well; the pod still starts."""
    pod = verified_badly_by_an_older_build("DigestMismatch", "digest sha256:1")
    (verification,) = pod["status"]["initContainerStatuses"]
    verification["lastState"] = verification["state"]
    (root, *_) = find_causes(scene(**starting(pod)))
    assert root.reason is Reason.DIGEST_MISMATCH
    verification["state"] = {"terminated": {"reason": "Completed", "message": '{"totalBytes": 9}', "exitCode": 0}}
    pod["status"]["phase"] = "Pending"
    (root, *_) = find_causes(scene(**starting(pod)))
    assert root.reason is Reason.PODS_STARTING


def test_unfit_weights_want_a_person_and_stand_until_they_are_mended() -> None:
    seen = starting(verified_badly("DigestMismatch", "digest sha256:1"))
    known = scene(**seen)
    first, later = (
        derive_status(known.deployment, known.observed, known.decision, known.outcome, now)
        for now in (NOW, NOW + timedelta(days=1))
    )
    conditions = {condition.type: condition for condition in first.conditions}
    assert (conditions["WeightsReady"].status, conditions["WeightsReady"].reason) == ("False", "DigestMismatch")
    assert (conditions["Stalled"].status, conditions["Reconciling"].status) == ("True", "False")
    assert {condition.type: condition.reason for condition in later.conditions} == {
        kind: condition.reason for kind, condition in conditions.items()
    }


def test_the_words_about_an_unreachable_head_do_not_count_the_seconds() -> None:
    seen = starting(waiting_for_head("11:30:00"), head=ready_head("11:50:00"))
    known = scene(**seen)
    (first, *_) = find_causes(known)
    assert find_causes(known.model_copy(update={"now": NOW + timedelta(seconds=1)}))[0] == first
    assert not first.is_stalled


def test_a_suspended_deployment_misses_no_pods() -> None:
    assert find_causes(scene(spec={"suspend": True}, pods=(), rayservice=make_rayservice())) == ()


def test_the_evidence_leads_from_the_object_to_the_line() -> None:
    (root, *_) = find_causes(scene(rayservice=make_rayservice(**SERVE_FAILURE)))
    assert root.evidence[:3] == (
        "RayService llm/mixtral",
        "RayCluster llm/mixtral-x7k2p",
        "Serve application mixtral, deployment LLMServer:mixtral",
    )
    assert root.evidence[-1].startswith("ImportError: libnuma.so.1")


def with_derived_status(known: StatusScene) -> ModelDeployment:
    """The deployment as the operator leaves it, which is all that `conclave explain` gets of what the operator knew."""
    status = derive_status(known.deployment, known.observed, known.decision, known.outcome, NOW)
    return known.deployment.model_copy(update={"status": status})


OF_THE_OPERATOR_ONLY = {name for name, case in CASES.items() if "outcome" in case.seen}


@pytest.mark.parametrize("name", sorted(CASES.keys() - OF_THE_OPERATOR_ONLY))
def test_explain_finds_what_the_operator_found(name: str) -> None:
    known = scene(**CASES[name].seen)
    found = explain(with_derived_status(known), known.observed, NOW)
    assert [(each.reason, each.condition, each.message) for each in found] == [
        (each.reason, each.condition, each.message) for each in find_causes(known)
    ]


@pytest.mark.parametrize("name", sorted(OF_THE_OPERATOR_ONLY))
def test_what_only_the_operator_saw_stands_in_the_status(name: str) -> None:
    known = scene(**CASES[name].seen)
    deployment = with_derived_status(known)
    assert explain(deployment, known.observed, NOW) == ()
    assert deployment.status is not None
    ready = next(condition for condition in deployment.status.conditions if condition.type == ConditionType.READY)
    assert (ready.status, ready.reason) == ("False", CASES[name].reason)


def test_a_refusal_of_a_newer_operator_is_no_reason_that_explain_knows() -> None:
    known = scene(refusal=refused("nothing fits"), rayservice=None, pods=())
    deployment = with_derived_status(known)
    assert deployment.status is not None
    newer = tuple(
        condition.model_copy(update={"reason": "SomethingOfANewerOperator"})
        if condition.type == ConditionType.PLAN_READY
        else condition
        for condition in deployment.status.conditions
    )
    status = deployment.status.model_copy(update={"conditions": newer})
    (finding, *_) = explain(deployment.model_copy(update={"status": status}), known.observed, NOW)
    assert finding.reason is Reason.ROLLING_OUT


EXCEPTIONS: dict[str, tuple[str, Reason, str]] = {
    "CUDA out of memory": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        Reason.GPU_OUT_OF_MEMORY,
        "torch.OutOfMemoryError",
    ),
    "no room for the KV cache": (
        "ValueError: To serve at least one request with the models's max seq len (32768), (4.00 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (1.50 GiB).",
        Reason.KV_CACHE_TOO_SMALL,
        "ValueError: To serve",
    ),
    "a driver that is too old": (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12040).",
        Reason.DRIVER_UNFIT,
        "RuntimeError: The NVIDIA driver",
    ),
    "a cut file": (
        "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata",
        Reason.WEIGHTS_CORRUPT,
        "safetensors_rust.SafetensorError",
    ),
    "a directory without a model, as pydantic words it": (
        "RuntimeError: Failed to create vLLM engine config: 1 validation error for ModelConfig\n"
        "  Value error, Invalid repository ID or local directory specified: '/models/weights'.\n"
        "Please verify the following requirements:",
        Reason.WEIGHTS_MISSING,
        "RuntimeError: Failed to create vLLM engine config: 1 validation error for ModelConfig: Value error, Invalid",
    ),
    "files that the pods' user may not read": (
        "PermissionError: [Errno 13] Permission denied: '/models/adapters/tone/adapter_model.safetensors'",
        Reason.WEIGHTS_UNREADABLE,
        "PermissionError: ",
    ),
    "something new": ("KeyError: 'layers.0.mlp'", Reason.ENGINE_FAILED, "KeyError"),
    "a line with a process's prefix": (
        "\x1b[36m(EngineCore pid=77)\x1b[0m ModuleNotFoundError: No module named 'x'",
        Reason.IMAGE_INCOMPLETE,
        "ModuleNotFoundError: No module",
    ),
}


@pytest.mark.parametrize(("text", "reason", "line"), EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_an_exception_is_told(text: str, reason: Reason, line: str) -> None:
    cause = find_cause(f"some words\n  File x\n{text}\nmore words")
    assert cause is not None
    assert cause.reason is reason
    assert cause.line.startswith(line)


MESSAGES = Path(__file__).parents[2] / "data" / "serve_messages"
"""As Ray Serve 2.60 reported them of failing replicas of ours; only paths were changed."""
REPORTED = {
    "missing-library": (Reason.IMAGE_INCOMPLETE, "OSError: libnothere.so.1: cannot open shared object file"),
    "missing-weights": (Reason.WEIGHTS_MISSING, "RuntimeError: Failed to create vLLM engine config: Repo id must be"),
    "memory-limit": (Reason.OUT_OF_MEMORY, "OutOfMemoryError('2 worker(s) were killed due to the node running low on"),
    "engine-core": (Reason.ENGINE_FAILED, "RuntimeError: Engine core initialization failed. See root cause above."),
}


@pytest.mark.parametrize(("name", "expected"), REPORTED.items(), ids=REPORTED)
def test_a_message_of_ray_serve_is_understood(name: str, expected: tuple[Reason, str]) -> None:
    reason, line = expected
    cause = find_cause((MESSAGES / f"{name}.txt").read_text(encoding="utf-8"))
    assert cause is not None
    assert cause.reason is reason
    assert cause.line.startswith(line)


ONLY_PASSES_ON = {
    "the engine's frontend": ("RuntimeError: Engine core initialization failed. See root cause above.", True),
    "an engine that is gone": ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.", True),
    "a process that ended": ("ray.exceptions.ActorDiedError: The actor died unexpectedly.\nSystemExit: 1", True),
    "with its cause": ("KeyError: 'gate'\nRuntimeError: Engine core initialization failed.", False),
    "a cause alone": ("KeyError: 'gate'", False),
    "Ray's own word, which names its reason": (
        "ray.exceptions.OutOfMemoryError: 2 worker(s) were killed due to the node running low on memory",
        False,
    ),
}


@pytest.mark.parametrize(("text", "is_consequence"), ONLY_PASSES_ON.values(), ids=ONLY_PASSES_ON)
def test_a_text_without_the_cause_is_told_from_one_with_it(text: str, is_consequence: bool) -> None:
    cause = find_cause(text)
    assert cause is not None
    assert cause.is_consequence is is_consequence


@pytest.mark.parametrize("text", ["", "Deploying.", "Errors are likely: none", '  File "x"\n    raise Error'])
def test_words_are_no_exception(text: str) -> None:
    assert find_cause(text) is None

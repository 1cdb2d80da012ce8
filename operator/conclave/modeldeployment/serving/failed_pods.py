"""Failed pods that KubeRay has deleted. KubeRay deletes them at once; an event says how the Ray container ended.

Called by `ended_pods`. Of a pod that failed before its Ray container ran (an init container, an early eviction) the
event says `nil`: nothing is told of it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from conclave import names
from conclave.kubernetes.events import DELETED_PODS, EVICTED
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import events_about, is_leaving, is_ready, is_worker
from conclave.kubernetes.reports import LONGEST_REPORT_BYTES
from conclave.modeldeployment.scene import StatusScene

_SUBJECT = re.compile(r"Deleted (?P<kind>head|worker) Pod [^/\s]{1,253}/(?P<pod>[^;\s]{1,253}); ")
_END = re.compile(
    r"Ray container terminated status: &ContainerStateTerminated\{"
    r"ExitCode:(?P<code>-?[0-9]{1,10}),Signal:-?[0-9]{1,10},Reason:(?P<reason>\w{0,128}),Message:"
)
_TIMES = re.compile(r"(?P<started>[^,]{0,64}),FinishedAt:(?P<finished>[^,]{0,64}),ContainerID:[^,]{0,512},\}")
"""As KubeRay 1.6.2 writes it; client-go puts words before it where one event stands for many. Three patterns, since one
would try each beginning with each end: anybody may write such an event.
"""
_GO_TIME, _GO_TIME_LENGTH = "%Y-%m-%d %H:%M:%S %z", len("2026-11-23 12:00:00 +0000")
_TOLD_AT_LEAST = timedelta(minutes=10)


class _Failure(NamedTuple):
    """What an event tells."""

    at: datetime
    pod: str
    is_worker: bool
    end: JsonObject
    started: datetime
    lived: timedelta


def failed_pods(scene: StatusScene) -> Iterator[JsonObject]:
    """The pods as they were when KubeRay deleted them: heads first, then the newest first.

    A failed pod is reported until a newer pod is ready, or for as long as the failed pod had lived (at least ten
    minutes). A worker that is older than its head ended with the previous head: such a worker is not a cause.
    """
    cluster = _wanted_cluster(scene)
    if cluster is None:
        return
    pods = [
        pod
        for pod in scene.observed.pods
        if pod["metadata"]["labels"].get(names.RAY_CLUSTER) == cluster["metadata"]["name"] and not is_leaving(pod)
    ]
    failures = filter(None, map(_read, events_about(scene.observed.events, cluster, *DELETED_PODS)))
    for failure in sorted(failures, key=lambda failure: failure.is_worker):
        is_old = scene.now - failure.at > max(failure.lived, _TOLD_AT_LEAST)
        is_replaced = any(
            is_ready(pod) and is_worker(pod) == failure.is_worker and _made(pod) >= failure.at for pod in pods
        )
        outlived_its_head = failure.is_worker and any(
            not is_worker(pod) and _made(pod) > failure.started for pod in pods
        )
        if not (is_old or is_replaced or outlived_its_head):
            yield _as_it_was(scene, failure, cluster)


def _wanted_cluster(scene: StatusScene) -> JsonObject | None:
    """The RayCluster of the latest generation."""
    status = (scene.observed.rayservice or {}).get("status", {})
    parts = (status.get(part, {}) for part in ("pendingServiceStatus", "activeServiceStatus"))
    name = next((part["rayClusterName"] for part in parts if part.get("rayClusterName")), None)
    return scene.observed.raycluster(name)


def _read(event: JsonObject) -> _Failure | None:
    text = event.get("message", "")[: 2 * LONGEST_REPORT_BYTES]
    subject = _SUBJECT.search(text)
    end = _END.search(text, subject.end()) if subject else None
    message, _, rest = text[end.end() :].rpartition(",StartedAt:") if end else ("", "", "")
    times = _TIMES.match(rest)
    at = event.get("lastTimestamp") or event.get("eventTime")
    if subject is None or end is None or times is None or not at:
        return None
    told_at = datetime.fromisoformat(at)
    started, finished = (_time(times[name]) or told_at for name in ("started", "finished"))
    return _Failure(
        at=told_at,
        pod=subject["pod"],
        is_worker=subject["kind"] == "worker",
        end={
            "exitCode": int(end["code"]),
            "reason": end["reason"],
            "message": message[:LONGEST_REPORT_BYTES],
        },
        started=started,
        lived=finished - started,
    )


def _time(text: str) -> datetime | None:
    """As Go prints it, with the zone's name behind; the year 1 where the kubelet knew none."""
    try:
        time = datetime.strptime(text[:_GO_TIME_LENGTH], _GO_TIME)
    except ValueError:
        return None
    return time if time.year > 1 else None


def _made(pod: JsonObject) -> datetime:
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def _as_it_was(scene: StatusScene, failure: _Failure, cluster: JsonObject) -> JsonObject:
    spec = cluster.get("spec", {})
    groups: list[JsonObject] = (
        spec.get("workerGroupSpecs", []) if failure.is_worker else [spec.get("headGroupSpec", {})]
    )
    labels = {
        names.MODEL_DEPLOYMENT: scene.name,
        names.RAY_CLUSTER: cluster["metadata"]["name"],
        names.RAY_NODE_TYPE: "worker" if failure.is_worker else "head",
    }
    container = {"name": names.RAY_CONTAINER, "state": {"terminated": failure.end}}
    eviction = next(
        (
            {"reason": EVICTED, "message": event.get("message", "")}
            for event in scene.observed.events
            if event.get("reason") == EVICTED and event.get("involvedObject", {}).get("name") == failure.pod
        ),
        {},
    )
    return {
        "metadata": {"name": failure.pod, "labels": labels},
        "spec": {**(groups[0].get("template", {}).get("spec", {}) if groups else {}), "restartPolicy": "Never"},
        "status": {"phase": "Failed", "containerStatuses": [container], **eviction},
    }

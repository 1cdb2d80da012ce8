"""Reads pod objects: what a pod waits for, how its containers ended, which events are about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import NamedTuple, TypeVar

from conclave import names
from conclave.kubernetes.events import MOST_OF_AN_OBJECT, told_at
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.quantities import parse_quantity

AmountT = TypeVar("AmountT", int, Decimal)

_BEFORE_MOUNTED = ("", "ContainerCreating", "PodInitializing")
"""Why a container waits whose pod's volumes may not be mounted yet."""


class ContainerState(NamedTuple):
    """A container that waits or has ended."""

    name: str
    reason: str
    message: str
    exit_code: int | None
    """None where it waits."""


def is_worker(pod: JsonObject) -> bool:
    """Whether the pod holds GPUs."""
    return bool(pod["metadata"].get("labels", {}).get(names.RAY_NODE_TYPE) == "worker")


def is_head(pod: JsonObject) -> bool:
    """Whether the pod is a Ray head."""
    return bool(pod["metadata"].get("labels", {}).get(names.RAY_NODE_TYPE) == "head")


def is_leaving(pod: JsonObject) -> bool:
    """Whether the pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def is_running(pod: JsonObject) -> bool:
    """Whether all its containers run; ready or not, since a pod without a Serve replica is never ready."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return bool(statuses) and not is_leaving(pod) and all("running" in status.get("state", {}) for status in statuses)


def has_begun(pod: JsonObject) -> bool:
    """Whether some container has run."""
    return any({"running", "terminated"} & status.get("state", {}).keys() for status in container_statuses(pod))


def is_mounted(pod: JsonObject) -> bool:
    """Whether all volumes are mounted, whatever older events say: kubelets mount them before they pull an image."""
    return has_begun(pod) or is_kept_from_starting(pod)


def is_kept_from_starting(pod: JsonObject) -> bool:
    """Whether some container waits for another reason than that its pod has just been placed."""
    return any(container.reason not in _BEFORE_MOUNTED for container in waiting_containers(pod))


def count_running(pods: Iterable[JsonObject]) -> tuple[int, int]:
    """Heads and workers that run."""
    running = [is_worker(pod) for pod in pods if is_running(pod)]
    return len(running) - sum(running), sum(running)


def is_ready(pod: JsonObject) -> bool:
    """Whether it may get requests."""
    return any(_ready_conditions(pod))


def ready_since(pod: JsonObject) -> datetime | None:
    """Since when the pod is ready; None if it is not ready or the time is unknown."""
    times = [condition.get("lastTransitionTime") for condition in _ready_conditions(pod)]
    return datetime.fromisoformat(times[0]) if times and times[0] else None


def _ready_conditions(pod: JsonObject) -> Iterator[JsonObject]:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition.get("type") == "Ready" and condition.get("status") == "True":
            yield condition


def in_trouble(pods: Iterable[JsonObject]) -> Iterator[JsonObject]:
    """Pods that do not run, the heads first, since workers need their head."""
    waiting = [pod for pod in pods if not is_running(pod) and not is_leaving(pod)]
    yield from sorted(waiting, key=lambda pod: (is_worker(pod), pod["metadata"]["name"]))


def waiting_containers(pod: JsonObject) -> Iterator[ContainerState]:
    """Containers that wait, init containers first."""
    for status in container_statuses(pod):
        waiting = status.get("state", {}).get("waiting")
        if waiting:
            yield ContainerState(status["name"], waiting.get("reason", ""), waiting.get("message", ""), None)


def ended_containers(pod: JsonObject) -> Iterator[ContainerState]:
    """Containers that have ended, well or badly, now or before their last restart; how each ended last."""
    for status in container_statuses(pod):
        ends = (status.get(state, {}).get("terminated") for state in ("state", "lastState"))
        end = next(filter(None, ends), None)
        if end:
            yield ContainerState(status["name"], end.get("reason", ""), end.get("message", ""), end.get("exitCode", 0))


def dead_containers(pod: JsonObject) -> Iterator[ContainerState]:
    """Those of them that ended badly."""
    return (container for container in ended_containers(pod) if container.exit_code)


def running_since(pod: JsonObject, container: str) -> datetime | None:
    """Since when the container runs; None if it does not run."""
    for status in container_statuses(pod):
        started = status.get("state", {}).get("running", {}).get("startedAt")
        if status["name"] == container and started:
            return datetime.fromisoformat(started)
    return None


def is_verifying(pod: JsonObject) -> bool:
    """Whether the init container is reading the weights."""
    return any(
        names.is_verification(status["name"]) and "running" in status.get("state", {})
        for status in container_statuses(pod)
    )


def has_verified(pod: JsonObject, digest: str) -> bool:
    """Whether it compared the model's files with this digest: its engine's container runs after that one only."""
    return is_running(pod) and any(
        container.get("name") == names.VERIFY_CONTAINER and digest in (container.get("command") or ())
        for container in pod.get("spec", {}).get("initContainers", [])
    )


def scheduled_requests(pod: JsonObject) -> dict[str, Decimal]:
    """What a node must have free for the pod, by resource."""
    return scheduled(pod, _requests)


def scheduled(pod: JsonObject, amounts: Callable[[JsonObject], Iterable[tuple[str, AmountT]]]) -> dict[str, AmountT]:
    """What the scheduler counts of the containers' amounts: the sum of containers, or the largest init container.

    It counts an init container for the pod's whole life, also after it has ended. A sidecar (an init container that is
    restarted) counts as a container. Source:
    https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers.
    """
    spec: JsonObject = pod.get("spec", {})
    wanted: dict[str, AmountT] = {}
    first: list[JsonObject] = spec.get("initContainers", [])
    sidecars = (container for container in first if container.get("restartPolicy") == "Always")
    for container in chain(spec.get("containers", []), sidecars):
        for resource, amount in amounts(container):
            wanted[resource] = wanted[resource] + amount if resource in wanted else amount
    for container in first:
        for resource, amount in amounts(container):
            wanted[resource] = max(wanted.get(resource, amount), amount)
    return dict(sorted(wanted.items()))


def _requests(container: JsonObject) -> Iterator[tuple[str, Decimal]]:
    for resource, text in container.get("resources", {}).get("requests", {}).items():
        amount = parse_quantity(text)
        if amount is not None:
            yield resource, amount


def unschedulable_message(pod: JsonObject) -> str:
    """The scheduler's own message; empty if the pod has a node."""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message", condition.get("reason", "")))
    return ""


def events_about(events: Iterable[JsonObject], item: JsonObject, *reasons: str) -> list[JsonObject]:
    """Events of these reasons about an object, the newest first, and no more of them than are worth a look."""
    metadata = item["metadata"]
    found = [
        event
        for event in events
        if event.get("reason") in reasons
        and event.get("involvedObject", {}).get("name") == metadata["name"]
        and event["involvedObject"].get("uid", metadata.get("uid")) == metadata.get("uid")
    ]
    found.sort(key=told_at, reverse=True)
    return found[:MOST_OF_AN_OBJECT]


def container_statuses(pod: JsonObject) -> Iterator[JsonObject]:
    """Of all containers, init containers first."""
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", [])
    yield from status.get("containerStatuses", [])

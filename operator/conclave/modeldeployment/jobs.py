"""Which Job a part needs: as it is built now, or as it was built for an earlier serving image while its pod works."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from conclave.kubernetes.objects import JsonObject, is_owned_by
from conclave.kubernetes.pods import container_statuses, is_kept_from_starting, is_leaving
from conclave.settings import OperatorSettings


def keep_working(
    jobs: Iterable[JsonObject],
    pods: Iterable[JsonObject],
    build: Callable[[OperatorSettings], JsonObject],
    settings: OperatorSettings,
) -> JsonObject:
    """Keeps a Job of an earlier serving image while its pod makes progress, so that an upgrade does not interrupt it.

    A Job whose pod fails is replaced: the newer image may be the remedy.
    """
    found = list(pods)
    for job in jobs:
        for image in _working_images(job, found):
            made = build(settings.model_copy(update={"image": image}))
            if made["metadata"]["name"] == job["metadata"]["name"]:
                return made
    return build(settings)


def _working_images(job: JsonObject, pods: list[JsonObject]) -> Iterator[str]:
    """Images of the Job's pods that neither leave nor fail."""
    for pod in pods:
        if is_owned_by(pod, job["metadata"].get("uid")) and not is_leaving(pod) and not _is_failing(pod):
            containers = pod.get("spec", {}).get("containers", [])
            yield from (container["image"] for container in containers if "image" in container)


def _is_failing(pod: JsonObject) -> bool:
    has_ended_badly = any(
        status.get("state", {}).get("terminated", {}).get("exitCode", 0) != 0 for status in container_statuses(pod)
    )
    return pod.get("status", {}).get("phase") == "Failed" or has_ended_badly or is_kept_from_starting(pod)

"""The events that say why something does not run: their reasons, and how many of them are kept and looked at.

Anybody may write events, in any number, about any object. Of those that are of no reason named here nothing is kept.
"""

from __future__ import annotations

from typing import Any

EVICTED = "Evicted"
"""Reason of a pod's status, and of an event about it: its node's kubelet has ended it."""
MOUNT_FAILED = "FailedMount"
VOLUME_FAILURES = (MOUNT_FAILED, "FailedAttachVolume", "FailedMapVolume")
CONTAINER_FAILURE = "Failed"
"""An image that cannot be pulled, among others."""
SANDBOX_FAILURE = "FailedCreatePodSandBox"
JOB_FAILURE = "FailedCreate"
INVALID_OBJECTS = ("InvalidRayServiceSpec", "InvalidRayServiceMetadata", "InvalidRayClusterSpec")
POD_REFUSALS = ("FailedToCreateHeadPod", "FailedToCreateWorkerPod", "AutoscalerServiceAccountNotFound")
DELETED_PODS = ("DeletedHeadPod", "DeletedWorkerPod")
"""Normal events about a RayCluster: KubeRay tells there how a pod ended that it deleted because it had failed."""
READ = frozenset(
    (
        *(EVICTED, *VOLUME_FAILURES, CONTAINER_FAILURE, SANDBOX_FAILURE, JOB_FAILURE),
        *(*INVALID_OBJECTS, *POD_REFUSALS, *DELETED_PODS),
    )
)

MOST_OF_AN_OBJECT = 20
"""Events about one object that are kept and looked at, the newest."""
MOST_OF_A_PASS = 500
"""Events about a deployment's objects that one pass looks at, the newest."""
MOST_OF_A_NAMESPACE = 2000
"""Events of one namespace that are kept, the newest: a flood harms explanations in the namespace that it comes from."""


def told_at(event: dict[str, Any]) -> str:
    """When an event was told last; both spellings are of the same form, so that they sort."""
    return event.get("lastTimestamp") or event.get("eventTime") or ""

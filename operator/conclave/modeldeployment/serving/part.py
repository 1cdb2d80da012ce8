"""The part that serves: a record, network policies, the RayService, and the Secret of the endpoint's token."""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import Endpoint
from conclave.kubernetes.events import MOUNT_FAILED
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.part import PartResult, PartScene
from conclave.modeldeployment.records.check import find_token_secret
from conclave.modeldeployment.records.record import build_revision, superseded
from conclave.modeldeployment.serving.network_policy import build_network_policies
from conclave.modeldeployment.serving.token import build_token_secret, new_token_secret


def needs(scene: PartScene) -> PartResult:
    """The objects of the record that is to be served; none where there is no record.

    The ControllerRevision is applied first, so that no RayService exists without its record.
    """
    deployment, settings, record = scene.deployment, scene.settings, scene.record
    if record is None:
        return PartResult()
    revision = build_revision(deployment, record)
    has_token = bool(scene.history.records) and not _is_missing(scene, record.token_secret)
    refused = {found.name for found in scene.history.refused}
    ours = [item for item in scene.observed.revisions if item["metadata"]["name"] not in refused]
    return PartResult(
        create=() if has_token else (build_token_secret(deployment, record.token_secret, scene.token),),
        apply=(revision, *build_network_policies(deployment, settings), record.rayservice),
        delete=superseded(ours, current=revision),
    )


def endpoint(scene: PartScene, token_secret: str) -> Endpoint:
    """Where the model answers, and which Secret has its token."""
    url = names.endpoint_url(scene.name, scene.deployment.metadata.namespace, scene.settings.cluster_domain)
    return Endpoint(url=url, model=scene.deployment.served_name, token_secret=token_secret)


def mounted_token_secret(scene: PartScene, rayservice: JsonObject) -> str:
    """The Secret that a live RayService mounts, or the one that a new RayService would mount."""
    return find_token_secret(rayservice) or new_token_secret(scene.deployment)


def _is_missing(scene: PartScene, token_secret: str) -> bool:
    """The operator reads no Secret: a deleted Secret shows in the events of pods that wait for it.

    True also where the Secret came back after the event: the API server then answers `AlreadyExists`, which changes
    nothing.
    """
    pending = {
        pod["metadata"]["name"] for pod in scene.observed.pods if pod.get("status", {}).get("phase") == "Pending"
    }
    words = f'secret "{token_secret}" not found'
    return any(
        event.get("reason") == MOUNT_FAILED
        and event.get("involvedObject", {}).get("name") in pending
        and words in event.get("message", "")
        for event in scene.observed.events
    )

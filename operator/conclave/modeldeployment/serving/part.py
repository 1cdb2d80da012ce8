"""The part that serves: a record, network policies, the RayService, and the Secret of the endpoint's token."""

from __future__ import annotations

from typing import NamedTuple

from conclave import names
from conclave.api.modeldeployment import Endpoint
from conclave.kubernetes.events import MOUNT_FAILED
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.part import PartResult, PartScene
from conclave.modeldeployment.records.check import find_token_secret
from conclave.modeldeployment.records.record import Record, build_revision, superseded
from conclave.modeldeployment.serving.network_policy import build_network_policies
from conclave.modeldeployment.serving.token import build_token_secret, new_token_secret


class Serving(NamedTuple):
    """What the serving part needs, and where the model answers."""

    result: PartResult = PartResult()
    endpoint: Endpoint | None = None


def needs(scene: PartScene, record: Record, token: str) -> Serving:
    """The objects of a record. `token` is a fresh random value, used only where the endpoint has no token yet.

    The ControllerRevision is applied first, so that no RayService exists without its record.
    """
    deployment, settings = scene.deployment, scene.settings
    revision = build_revision(deployment, record)
    has_token = bool(scene.history.records) and not _is_missing(scene, record.token_secret)
    refused = {found.name for found in scene.history.refused}
    ours = [item for item in scene.observed.revisions if item["metadata"]["name"] not in refused]
    return Serving(
        PartResult(
            create=() if has_token else (build_token_secret(deployment, record.token_secret, token),),
            apply=(revision, *build_network_policies(deployment, settings), record.rayservice),
            delete=superseded(ours, current=revision),
        ),
        _endpoint(scene, record.token_secret),
    )


def left_alone(scene: PartScene, running: JsonObject) -> Serving:
    """The RayService unchanged, behind its network policies."""
    mounted = find_token_secret(running) or new_token_secret(scene.deployment)
    policies = build_network_policies(scene.deployment, scene.settings)
    return Serving(PartResult(apply=policies), _endpoint(scene, mounted))


def _endpoint(scene: PartScene, token_secret: str) -> Endpoint:
    url = names.endpoint_url(scene.name, scene.deployment.metadata.namespace, scene.settings.cluster_domain)
    return Endpoint(url=url, model=scene.deployment.served_name, token_secret=token_secret)


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

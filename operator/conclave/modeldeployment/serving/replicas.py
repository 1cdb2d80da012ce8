"""Reads which pods answer: the active cluster, its head and workers, and whether the least replicas are there."""

from __future__ import annotations

from conclave import names
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import count_running, is_leaving, is_ready, is_worker
from conclave.modeldeployment.scene import StatusScene


def is_serving(scene: StatusScene) -> bool:
    """Whether KubeRay found healthy endpoints, be they of an older generation, and an engine is behind them.

    KubeRay leaves its condition true while a pod is ready, be it only a head that has just been replaced.
    """
    condition = serve_condition(scene, "Ready")
    if condition is None or condition.get("status") != "True":
        return False
    return scene.least_workers == 0 or count_engines(scene) > 0


def count_engines(scene: StatusScene) -> int:
    """Worker pods with an engine that answers; one that is older than its head went down with the head before."""
    heads, workers = active_pods(scene)
    return sum(is_ready(pod) and not outlived_its_head(pod, heads) for pod in workers)


def active_cluster(scene: StatusScene) -> str:
    """Name of the RayCluster that KubeRay sends requests to; empty before there is one."""
    status = (scene.observed.rayservice or {}).get("status", {})
    return str(status.get("activeServiceStatus", {}).get("rayClusterName", ""))


def active_pods(scene: StatusScene) -> tuple[list[JsonObject], list[JsonObject]]:
    """Heads and workers of that cluster."""
    active = active_cluster(scene)
    pods = [
        pod
        for pod in scene.observed.pods
        if pod["metadata"]["labels"].get(names.RAY_CLUSTER) == active and not is_leaving(pod)
    ]
    return [pod for pod in pods if not is_worker(pod)], [pod for pod in pods if is_worker(pod)]


def outlived_its_head(worker: JsonObject, heads: list[JsonObject]) -> bool:
    """Whether the worker is older than every head, or there is no head."""
    made = max((head["metadata"].get("creationTimestamp", "") for head in heads), default=None)
    return made is None or bool(worker["metadata"].get("creationTimestamp", "") < made)


def has_enough(scene: StatusScene) -> bool:
    """Whether the least replicas answer: a pod beyond them that cannot be had is no trouble of the deployment."""
    upgrade = serve_condition(scene, "UpgradeInProgress")
    is_upgrading = upgrade is not None and upgrade.get("status") == "True"
    return (
        is_serving(scene) and not is_upgrading and count_running(scene.observed.pods)[0] > 0 and answers_enough(scene)
    )


def answers_enough(scene: StatusScene) -> bool:
    """Whether as many engines answer as `scaling.minReplicas` wants."""
    return count_engines(scene) >= scene.deployment.spec.scaling.min_replicas


def serve_condition(scene: StatusScene, kind: str) -> JsonObject | None:
    """A condition of the RayService."""
    conditions: list[JsonObject] = (scene.observed.rayservice or {}).get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition.get("type") == kind), None)

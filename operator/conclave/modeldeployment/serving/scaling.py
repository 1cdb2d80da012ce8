"""Condition Scaled: how many replicas are wanted, how many are ready, and why the others are not. Not a part of Ready.

Called by `status`. While the least replicas answer, a pod beyond them is no trouble of the deployment.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from conclave import names
from conclave.api.reasons import Reason
from conclave.engine.load_bounds import IDLE_TIMEOUT_S
from conclave.finding import Finding, Verdict
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import is_leaving, is_running, is_worker
from conclave.modeldeployment.root_cause import find_pod_causes
from conclave.modeldeployment.scene import StatusScene
from conclave.modeldeployment.serving.replicas import active_cluster, count_engines, has_enough, is_serving

_STORED_ZERO = (
    "scaling.minReplicas 0 was stored before admission refused it, and is served as before. Scaling to zero comes with "
    "a later version: set scaling.minReplicas to 1 or more"
)
"""Not known to work: no test covers a model without replicas."""


class Replicas(NamedTuple):
    """Counts of whole replicas."""

    wanted: int
    answering: int


def count_replicas(scene: StatusScene) -> Replicas:
    """Wanted: the replicas for which Ray Serve's autoscaler asks for worker pods, at least scaling.minReplicas.

    Of the pods of one replica, only the pod with the engine's own process becomes ready.
    """
    if scene.deployment.spec.suspend:
        return Replicas(0, 0)
    nodes = scene.decision.plan.nodes_per_replica if scene.decision.plan else 1
    active = active_cluster(scene)  # while another cluster takes over, its pods are no further replicas
    workers = [
        pod
        for pod in scene.observed.pods
        if is_worker(pod) and not is_leaving(pod) and active in ("", pod["metadata"]["labels"].get(names.RAY_CLUSTER))
    ]
    running = sum(is_running(pod) for pod in workers) // nodes
    answering = min(running, count_engines(scene)) if is_serving(scene) else 0
    pods = max(len(workers), _asked_of_kuberay(scene, active))
    return Replicas(max(ceil(pods / nodes), scene.deployment.spec.scaling.min_replicas), answering)


def _asked_of_kuberay(scene: StatusScene, cluster: str) -> int:
    """Worker pods that Ray's autoscaler wants, which a quota may have kept KubeRay from making.

    It writes them into the RayCluster; the RayService's copy of that object's status was seen minutes behind.
    """
    found = scene.observed.raycluster(cluster) or {}
    groups: list[JsonObject] = found.get("spec", {}).get("workerGroupSpecs", [])
    return sum(int(group.get("replicas", 0)) for group in groups)


def scaled(scene: StatusScene, replicas: Replicas, causes: tuple[Finding, ...]) -> Verdict:
    """True if all wanted replicas are ready; otherwise, what the first missing pod waits for."""
    verdict = _scaled(scene, replicas, causes)
    if scene.deployment.spec.scaling.min_replicas:
        return verdict
    return verdict._replace(message=f"{verdict.message}. {_STORED_ZERO}")


def _scaled(scene: StatusScene, replicas: Replicas, causes: tuple[Finding, ...]) -> Verdict:
    scaling = scene.deployment.spec.scaling
    if scene.deployment.spec.suspend:
        return Verdict("Unknown", Reason.SUSPENDED, "spec.suspend is true: no replica is wanted")
    counted = f"{replicas.answering} of {replicas.wanted} replicas are ready"
    if replicas.answering >= replicas.wanted:
        return Verdict("True", Reason.AS_WANTED, f"{counted}; {_why(scene, replicas)}")
    if not has_enough(scene):
        reason = causes[0].reason if causes else Reason.PODS_STARTING
        return Verdict("False", reason, f"{counted}; condition Ready has the reason")
    pod_causes = find_pod_causes(scene)
    found = next((cause for cause in pod_causes if cause.is_stalled), next(iter(pod_causes), None))
    words = found.message if found else _without_trouble(scaling.max_replicas)
    reason = found.reason if found else Reason.ENGINE_STARTING
    kept = " The ready replicas keep serving." if replicas.answering else ""
    return Verdict("False", reason, f"{counted}; {_why(scene, replicas)}.{kept} The missing replicas: {words}")


def _without_trouble(most: int) -> str:
    """The two possible states of a pod without an engine. Ray does not report which of them it is."""
    starts = f"an engine is starting (scaling.maxReplicas is {most})"
    return f"{starts}, or an engine has ended, and its pod will end after {IDLE_TIMEOUT_S} s without work"


def _why(scene: StatusScene, replicas: Replicas) -> str:
    scaling = scene.deployment.spec.scaling
    if replicas.wanted == scaling.min_replicas:
        return f"scaling.minReplicas is {scaling.min_replicas}"
    target = scaling.target_concurrency
    load = f"{target} requests in flight" if isinstance(target, int) else "the plan's number of requests in flight"
    return (
        f"the load, now or in the last {scaling.idle_seconds} s, needs more than scaling.minReplicas "
        f"{scaling.min_replicas}: one replica should carry {load}"
    )

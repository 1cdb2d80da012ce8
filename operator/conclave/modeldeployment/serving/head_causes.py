"""Checks of the Ray head: a head that was replaced, and a head that its workers cannot reach."""

from __future__ import annotations

import re
from datetime import timedelta

from conclave import names
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import in_trouble, is_ready, is_worker, ready_since, running_since
from conclave.modeldeployment.pod_causes import on_pod
from conclave.modeldeployment.scene import StatusScene
from conclave.modeldeployment.serving.replicas import active_pods, outlived_its_head

_AWAITED_ADDRESS = re.compile(r"--address (\S+)")
_LONGEST_WAIT_FOR_HEAD = timedelta(minutes=2)


def head_replaced(scene: StatusScene) -> Finding | None:
    """The Ray head was replaced. A Ray cluster ends with its head: KubeRay creates a new head and new workers."""
    heads, workers = active_pods(scene)
    left = [pod for pod in workers if outlived_its_head(pod, heads)]
    if not left:
        return None
    now = scene.name_of("Pod", heads[0]["metadata"]["name"]) if heads else "not created yet"
    return Finding(
        condition=ConditionType.SERVING,
        reason=Reason.HEAD_REPLACED,
        subject=scene.name_of("RayService", names.rayservice(scene.deployment.metadata.name)),
        seen=(
            "the Ray head pod was replaced. Ray Serve and all engines ended with the old head. The new head pod "
            f"is {now}; the model starts again on new worker pods"
        ),
        remedy="if nobody wanted this, `kubectl get events` shows what ended the old head pod",
        evidence=tuple(scene.name_of("Pod", pod["metadata"]["name"]) for pod in left),
        is_stalled=False,
    )


def head_unreachable(scene: StatusScene) -> Finding | None:
    """A worker cannot reach its ready head. KubeRay's init container waits without a limit and without a log."""
    ready_heads = {
        pod["metadata"]["labels"].get(names.RAY_CLUSTER): pod
        for pod in scene.pods
        if not is_worker(pod) and is_ready(pod)
    }
    for pod in in_trouble(scene.pods):
        head = ready_heads.get(pod["metadata"]["labels"].get(names.RAY_CLUSTER))
        waits_since = running_since(pod, names.HEAD_WAIT_CONTAINER)
        if head is None or waits_since is None:
            continue
        in_vain_since = max(waits_since, ready_since(head) or waits_since)
        if scene.now - in_vain_since <= _LONGEST_WAIT_FOR_HEAD:
            continue
        return on_pod(
            scene,
            pod,
            reason=Reason.HEAD_UNREACHABLE,
            seen=(
                f"container {names.HEAD_WAIT_CONTAINER} has waited more than 2 minutes for Ray's control store "
                f"{_awaited_address(pod)}, although the head, Pod {head['metadata']['name']}, is ready"
            ),
            remedy=(
                "check that the pod can resolve names and reach the head. The chart's network.dnsNamespace and "
                "network.dnsCidrs name the DNS servers that model pods may call; another NetworkPolicy of the "
                "namespace may forbid more"
            ),
            is_stalled=False,
        )
    return None


def _awaited_address(pod: JsonObject) -> str:
    for container in pod.get("spec", {}).get("initContainers", []):
        if container.get("name") == names.HEAD_WAIT_CONTAINER:
            found = _AWAITED_ADDRESS.search(" ".join((*container.get("command", []), *container.get("args", []))))
            return f"at {found[1]}" if found else "of its head"
    return "of its head"

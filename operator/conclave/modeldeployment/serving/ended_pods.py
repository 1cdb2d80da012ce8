"""Checks of how pods ended: weights that do not fit their digest, eviction, memory, a crash."""

from __future__ import annotations

from conclave import names
from conclave.api.reasons import ConditionType, Reason
from conclave.engine.exceptions import find_cause
from conclave.finding import Finding
from conclave.kubernetes.events import EVICTED
from conclave.kubernetes.hardening import USER_ID
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import (
    ContainerState,
    dead_containers,
    ended_containers,
    in_trouble,
    is_worker,
)
from conclave.kubernetes.reports import read_report
from conclave.modeldeployment.pod_causes import on_pod
from conclave.modeldeployment.scene import StatusScene
from conclave.modeldeployment.serving.failed_pods import failed_pods
from conclave.modeldeployment.weights.reasons import REASONS_OF_WEIGHTS

_REMEDIES_OF_WEIGHTS = {
    Reason.DIGEST_MISMATCH: "",
    Reason.WEIGHTS_CORRUPT: "repair the files that the message names; ",
    Reason.WEIGHTS_UNREADABLE: f"let the user or group that the pods run as read the files ({USER_ID}, unless the "
    "platform assigns another one), or check the volume; ",
}


def weights_unfit(scene: StatusScene) -> Finding | None:
    """The init container that verifies the weights found files that differ from the digest or that cannot be read.

    The init container exits 0 so that the pod stays. Its report counts until the next container succeeds.
    """
    for pod in in_trouble(scene.pods):
        ended = list(ended_containers(pod))
        if any(container.name == names.AWAIT_CONTAINER and not container.exit_code for container in ended):
            continue
        for container in ended:
            found = _verdict_on_weights(container)
            if found is None:
                continue
            reason, words = found
            first, *rest = words.splitlines() or [""]
            return on_pod(
                scene,
                pod,
                condition=ConditionType.WEIGHTS_READY,
                reason=reason,
                seen=f"container {container.name} ended: {first}",
                remedy=_mending(scene, container, reason) + _what_follows_mending(scene, pod),
                evidence=tuple(rest),
            )
    return None


def _mending(scene: StatusScene, container: ContainerState, reason: Reason) -> str:
    """How to repair the files. Only a download Job can write to the cache, so only a new Job repairs files there."""
    job = scene.download if container.name == names.VERIFY_CONTAINER else None
    if job is None or reason is Reason.WEIGHTS_UNREADABLE:
        return _REMEDIES_OF_WEIGHTS[reason]
    return (
        "the files were complete after the download: find out what has written to PersistentVolumeClaim "
        f"{names.cache_claim(scene.name)} since then. `kubectl -n {scene.deployment.metadata.namespace} delete job "
        f"{job['metadata']['name']}` makes the operator download them again; "
    )


def _what_follows_mending(scene: StatusScene, pod: JsonObject) -> str:
    if all(item.get("name") != names.AWAIT_CONTAINER for item in pod.get("spec", {}).get("initContainers", [])):
        return "then delete the pod: its replacement reads the files again"  # of an older build
    command = f"kubectl -n {scene.deployment.metadata.namespace} logs {pod['metadata']['name']}"
    return (
        "after you repair the files in place, this pod reads them again within a minute and starts the model "
        f"(`{command} -c {names.AWAIT_CONTAINER}` shows the progress)"
    )


def _verdict_on_weights(container: ContainerState) -> tuple[Reason, str] | None:
    """What `conclave_weights verify --report` told; None of what ended otherwise, as by the kernel or a traceback."""
    if not names.is_verification(container.name):
        return None
    report = read_report(container.message)
    reason = REASONS_OF_WEIGHTS.get(str(report.get("error")))
    return None if reason is None else (reason, str(report.get("message", "")))


def evicted(scene: StatusScene) -> Finding | None:
    """The kubelet ended the pod: a volume of the pod was full, or its node had too little of a resource."""
    for pod in (*in_trouble(scene.pods), *failed_pods(scene)):
        if not _was_evicted(pod):
            continue
        words = pod["status"].get("message", "").strip().rstrip(".")
        is_of_node = words.startswith("The node")
        return on_pod(
            scene,
            pod,
            reason=Reason.POD_EVICTED,
            seen=f"the kubelet evicted the pod: {words}",
            remedy="KubeRay will create a replacement pod. "
            + ("Free that resource on the node first" if is_of_node else _growth_of(scene, pod)),
            is_stalled=False,
        )
    return None


def _growth_of(scene: StatusScene, pod: JsonObject) -> str:
    command = f"kubectl -n {scene.deployment.metadata.namespace} get pods -l {_selector_of(scene, pod)}"
    return f"`{command}` names the replacement, and `du` in that pod shows what grows"


def out_of_memory(scene: StatusScene) -> Finding | None:
    for pod in (*in_trouble(scene.pods), *failed_pods(scene)):
        for container in dead_containers(pod):
            if not _ran_out_of_memory(container):
                continue
            limit = _memory_limit(pod, container.name)
            part = "worker" if is_worker(pod) else "head"
            return on_pod(
                scene,
                pod,
                reason=Reason.OUT_OF_MEMORY,
                seen=f"container {container.name} was killed: it used more than its memory limit of {limit}",
                remedy=f"raise runtime.resources.{part}.memory",
            )
    return None


def container_crashed(scene: StatusScene) -> Finding | None:
    for pod in (*in_trouble(scene.pods), *failed_pods(scene)):
        for container in dead_containers(pod):
            if _was_evicted(pod) or _ran_out_of_memory(container) or _verdict_on_weights(container):
                continue
            cause = find_cause(container.message)
            words = cause.line if cause else _last_line(container.message) or container.reason
            return on_pod(
                scene,
                pod,
                reason=cause.reason if cause else Reason.CONTAINER_CRASHED,
                seen=f"container {container.name} ended with exit code {container.exit_code}: {words}",
                remedy=(cause.remedy if cause else "") or _output_of(scene, pod, container.name),
                evidence=tuple(container.message.splitlines()[-8:]),
                is_stalled=False,
            )
    return None


def _output_of(scene: StatusScene, pod: JsonObject, container: str) -> str:
    command = f"kubectl -n {scene.deployment.metadata.namespace} logs"
    if pod.get("spec", {}).get("restartPolicy") != "Never":
        return f"`{command} {pod['metadata']['name']} -c {container}` shows the container's output"
    selector = _selector_of(scene, pod)
    return f"KubeRay will create a replacement pod; `{command} -f -l {selector} -c {container}` follows its output"


def _selector_of(scene: StatusScene, pod: JsonObject) -> str:
    """Selects the pod and its replacements."""
    kind = names.worker_selector if is_worker(pod) else names.head_selector
    return names.selector_string(kind(scene.deployment.metadata.name))


def _was_evicted(pod: JsonObject) -> bool:
    return bool(pod.get("status", {}).get("reason") == EVICTED)


def _ran_out_of_memory(container: ContainerState) -> bool:
    return container.reason == "OOMKilled"


def _memory_limit(pod: JsonObject, name: str) -> str:
    spec = pod.get("spec", {})
    for container in (*spec.get("initContainers", []), *spec.get("containers", [])):
        if container.get("name") == name:
            return str(container.get("resources", {}).get("limits", {}).get("memory", "unknown size"))
    return "unknown size"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""

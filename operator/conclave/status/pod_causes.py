"""Checks of the pods: each is one fact about the first pod that shows it."""

from __future__ import annotations

import re
from datetime import timedelta

from conclave.api.reasons import ConditionType, Reason
from conclave.kubernetes.events import CONTAINER_FAILURE, EVICTED, VOLUME_FAILURES
from conclave.manifests import names
from conclave.manifests.pods import USER_ID
from conclave.manifests.weights import find_download
from conclave.observation import JsonObject
from conclave.status.exceptions import find_cause
from conclave.status.failed_pods import failed_pods
from conclave.status.finding import Finding, Scene
from conclave.status.pods import (
    ContainerState,
    dead_containers,
    ended_containers,
    events_about,
    in_trouble,
    is_mounted,
    is_ready,
    is_worker,
    read_report,
    ready_since,
    running_since,
    unschedulable_message,
    waiting_containers,
)

_PULL_FAILURES = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_CREATE_FAILURES = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError")
_MISSING_SECRET = re.compile(r"""secret "([^"]+)" not found|couldn't find key \S+ in Secret [^/ ]+/(\S+)""")
_AWAITED_ADDRESS = re.compile(r"--address (\S+)")
_LONGEST_WAIT_FOR_HEAD = timedelta(minutes=2)
_MISSING_OBJECT = re.compile(r'(secret|configmap|persistentvolumeclaim) "([^"]+)" not found', re.IGNORECASE)

REASONS_OF_WEIGHTS = {
    "DigestMismatch": Reason.DIGEST_MISMATCH,
    "WeightsUnfit": Reason.WEIGHTS_CORRUPT,
    "WeightsUnreadable": Reason.WEIGHTS_UNREADABLE,
}
"""By the error that `conclave_weights` reports."""
_REMEDIES_OF_WEIGHTS = {
    Reason.DIGEST_MISMATCH: "",
    Reason.WEIGHTS_CORRUPT: "mend what it names; ",
    Reason.WEIGHTS_UNREADABLE: f"the pods run as user and group {USER_ID}: let these read the files, or look at the "
    "volume; ",
}


def volume_not_mounted(scene: Scene) -> Finding | None:
    """A Secret, claim or volume that a pod waits for."""
    for pod in in_trouble(scene.observed):
        events = [] if is_mounted(pod) else events_about(scene.observed, pod, *VOLUME_FAILURES)
        for event in events[:1]:
            return _unmounted(scene, pod, event.get("message", ""))
    return None


def _unmounted(scene: Scene, pod: JsonObject, words: str) -> Finding:
    missing = _MISSING_OBJECT.search(words)
    kind, name = missing.groups() if missing else ("", "")
    is_secret = kind.lower() == "secret"
    is_weights = f'volume "{names.WEIGHTS_VOLUME}' in words
    own_token = is_secret and name in names.token_secrets(scene.name, scene.deployment.metadata.uid)
    remedy = f"create the {kind} {name} in namespace {scene.deployment.metadata.namespace}" if missing else ""
    return _on_pod(
        scene,
        pod,
        condition=ConditionType.WEIGHTS_READY if is_weights else ConditionType.PROVISIONED,
        reason=Reason.SECRET_MISSING if is_secret else Reason.VOLUME_NOT_MOUNTED,
        seen=f"a volume cannot be mounted: {words}",
        remedy="the operator creates it again" if own_token else remedy or "check the volume and its driver",
        is_stalled=not own_token,
    )


def image_not_pulled(scene: Scene) -> Finding | None:
    for pod in in_trouble(scene.observed):
        for container in waiting_containers(pod):
            if container.reason not in _PULL_FAILURES:
                continue
            words = container.message
            if container.reason == "ImagePullBackOff":  # the first failure says why, the back-off only that it waits
                failed = events_about(scene.observed, pod, CONTAINER_FAILURE)
                words = next((event["message"] for event in failed if "pull" in event.get("message", "")), words)
            return _on_pod(
                scene,
                pod,
                reason=Reason.IMAGE_NOT_PULLED,
                seen=f"{container.reason} for container {container.name}: {words}",
                remedy="correct runtime.image, or name a Secret that may pull it in runtime.imagePullSecrets",
            )
    return None


def container_not_created(scene: Scene) -> Finding | None:
    for pod in in_trouble(scene.observed):
        for container in waiting_containers(pod):
            if container.reason not in _CREATE_FAILURES:
                continue
            if missing := _MISSING_SECRET.search(container.message):
                return _on_pod(
                    scene,
                    pod,
                    reason=Reason.SECRET_MISSING,
                    seen=f"container {container.name} cannot be created: {container.message}",
                    remedy=f"create the Secret {missing[1] or missing[2]} in namespace "
                    f"{scene.deployment.metadata.namespace} with the keys that the spec asks for",
                )
            is_weights = "subPath" in container.message and names.WEIGHTS_VOLUME in container.message
            return _on_pod(
                scene,
                pod,
                condition=ConditionType.WEIGHTS_READY if is_weights else ConditionType.PROVISIONED,
                reason=Reason.WEIGHTS_MISSING if is_weights else Reason.CONTAINER_NOT_CREATED,
                seen=f"{container.reason} for container {container.name}: {container.message}",
                remedy="the directory that the source's path in spec.model names must exist on the volume"
                if is_weights
                else "correct what the message names",
            )
    return None


def weights_unfit(scene: Scene) -> Finding | None:
    """Verification found other files than the digest's, or some that it could not read or no engine could.

    It ends well so that the pod stays, and what it told stands until the container behind it has found all sound.
    """
    for pod in in_trouble(scene.observed):
        ended = list(ended_containers(pod))
        if any(container.name == names.AWAIT_CONTAINER and not container.exit_code for container in ended):
            continue
        for container in ended:
            found = _verdict_on_weights(container)
            if found is None:
                continue
            reason, words = found
            first, *rest = words.splitlines() or [""]
            return _on_pod(
                scene,
                pod,
                condition=ConditionType.WEIGHTS_READY,
                reason=reason,
                seen=f"container {container.name} ended: {first}",
                remedy=_mending(scene, container, reason) + _what_follows_mending(scene, pod),
                evidence=tuple(rest),
            )
    return None


def _mending(scene: Scene, container: ContainerState, reason: Reason) -> str:
    """Files of the cache are mended by the Job that put them there: nobody else has it mounted for writing."""
    job = find_download(scene.deployment, scene.observed) if container.name == names.VERIFY_CONTAINER else None
    if job is None or reason is Reason.WEIGHTS_UNREADABLE:
        return _REMEDIES_OF_WEIGHTS[reason]
    return (
        f"they were whole when they were downloaded: find out what has written to PersistentVolumeClaim "
        f"{names.cache_claim(scene.name)} since; `kubectl -n {scene.deployment.metadata.namespace} delete job "
        f"{job['metadata']['name']}` has the operator download them anew; "
    )


def _what_follows_mending(scene: Scene, pod: JsonObject) -> str:
    if all(item.get("name") != names.AWAIT_CONTAINER for item in pod.get("spec", {}).get("initContainers", [])):
        return "they are looked at again whenever the pod is made anew"  # of an older build
    command = f"kubectl -n {scene.deployment.metadata.namespace} logs {pod['metadata']['name']}"
    return (
        "mended in place, they are read again within a minute and the model starts in this pod "
        f"(`{command} -c {names.AWAIT_CONTAINER}` shows how far it is)"
    )


def _verdict_on_weights(container: ContainerState) -> tuple[Reason, str] | None:
    """What `conclave_weights verify --report` told; None of what ended otherwise, as by the kernel or a traceback."""
    if not names.is_verification(container.name):
        return None
    report = read_report(container.message)
    reason = REASONS_OF_WEIGHTS.get(str(report.get("error")))
    return None if reason is None else (reason, str(report.get("message", "")))


def evicted(scene: Scene) -> Finding | None:
    """Ended by the kubelet: a volume of the pod was full, or its node had too little of something, whoever used it."""
    for pod in (*in_trouble(scene.observed), *failed_pods(scene)):
        if not _was_evicted(pod):
            continue
        words = pod["status"].get("message", "").strip().rstrip(".")
        is_of_node = words.startswith("The node")
        return _on_pod(
            scene,
            pod,
            reason=Reason.POD_EVICTED,
            seen=f"its kubelet evicted it: {words}",
            remedy=f"KubeRay makes another one; {'free that on the node' if is_of_node else _growth_of(scene, pod)}",
            is_stalled=False,
        )
    return None


def _growth_of(scene: Scene, pod: JsonObject) -> str:
    command = f"kubectl -n {scene.deployment.metadata.namespace} get pods -l {_selector_of(scene, pod)}"
    return f"`{command}` names it, and `du` in it shows what grows"


def out_of_memory(scene: Scene) -> Finding | None:
    for pod in (*in_trouble(scene.observed), *failed_pods(scene)):
        for container in dead_containers(pod):
            if not _ran_out_of_memory(container):
                continue
            limit = _memory_limit(pod, container.name)
            part = "worker" if is_worker(pod) else "head"
            return _on_pod(
                scene,
                pod,
                reason=Reason.OUT_OF_MEMORY,
                seen=f"container {container.name} was killed: it used more than its memory limit of {limit}",
                remedy=f"raise runtime.resources.{part}.memory",
            )
    return None


def container_crashed(scene: Scene) -> Finding | None:
    for pod in (*in_trouble(scene.observed), *failed_pods(scene)):
        for container in dead_containers(pod):
            if _was_evicted(pod) or _ran_out_of_memory(container) or _verdict_on_weights(container):
                continue
            cause = find_cause(container.message)
            words = cause.line if cause else _last_line(container.message) or container.reason
            return _on_pod(
                scene,
                pod,
                reason=cause.reason if cause else Reason.CONTAINER_CRASHED,
                seen=f"container {container.name} ended with exit code {container.exit_code}: {words}",
                remedy=(cause.remedy if cause else "") or _output_of(scene, pod, container.name),
                evidence=tuple(container.message.splitlines()[-8:]),
                is_stalled=False,
            )
    return None


def _output_of(scene: Scene, pod: JsonObject, container: str) -> str:
    command = f"kubectl -n {scene.deployment.metadata.namespace} logs"
    if pod.get("spec", {}).get("restartPolicy") != "Never":
        return f"`{command} {pod['metadata']['name']} -c {container}` shows its output"
    selector = _selector_of(scene, pod)
    return f"KubeRay makes another one; `{command} -f -l {selector} -c {container}` follows its output"


def _selector_of(scene: Scene, pod: JsonObject) -> str:
    """Finds the pod and those that are made in its place."""
    kind = names.worker_selector if is_worker(pod) else names.head_selector
    return names.selector_string(kind(scene.deployment.metadata.name))


def unschedulable(scene: Scene) -> Finding | None:
    for pod in in_trouble(scene.observed):
        words = unschedulable_message(pod)
        if words:
            return _on_pod(
                scene,
                pod,
                reason=Reason.UNSCHEDULABLE,
                seen=f"no node takes it: {words}; it wants {_wants(pod)}",
                remedy="free or add such nodes, or change hardware, access.regions or runtime.resources",
            )
    return None


def head_unreachable(scene: Scene) -> Finding | None:
    """KubeRay's init container of a worker asks for the head's control store, without an end and without a word."""
    ready_heads = {
        pod["metadata"]["labels"].get(names.RAY_CLUSTER): pod
        for pod in scene.observed.pods
        if not is_worker(pod) and is_ready(pod)
    }
    for pod in in_trouble(scene.observed):
        head = ready_heads.get(pod["metadata"]["labels"].get(names.RAY_CLUSTER))
        waits_since = running_since(pod, names.HEAD_WAIT_CONTAINER)
        if head is None or waits_since is None:
            continue
        in_vain_since = max(waits_since, ready_since(head) or waits_since)
        if scene.now - in_vain_since <= _LONGEST_WAIT_FOR_HEAD:
            continue
        return _on_pod(
            scene,
            pod,
            reason=Reason.HEAD_UNREACHABLE,
            seen=f"container {names.HEAD_WAIT_CONTAINER} has waited for more than 2 minutes for the control store "
            f"{_awaited_address(pod)}, and the head, Pod {head['metadata']['name']}, is ready",
            remedy="check that the pod can resolve names and reach the head: the chart's network.dnsNamespace and "
            "network.dnsCidrs name the DNS servers that model pods may call, and other NetworkPolicies of the "
            "namespace may forbid more",
            is_stalled=False,
        )
    return None


def _awaited_address(pod: JsonObject) -> str:
    for container in pod.get("spec", {}).get("initContainers", []):
        if container.get("name") == names.HEAD_WAIT_CONTAINER:
            found = _AWAITED_ADDRESS.search(" ".join((*container.get("command", []), *container.get("args", []))))
            return f"at {found[1]}" if found else "of its head"
    return "of its head"


def _on_pod(
    scene: Scene,
    pod: JsonObject,
    *,
    reason: Reason,
    seen: str,
    remedy: str,
    condition: ConditionType = ConditionType.PROVISIONED,
    evidence: tuple[str, ...] = (),
    is_stalled: bool = True,
) -> Finding:
    chain = (*_owners(scene, pod), scene.name_of("Pod", pod["metadata"]["name"]))
    return Finding(
        condition=condition,
        reason=reason,
        subject=chain[-1],
        seen=seen,
        remedy=remedy,
        evidence=(*chain, *evidence),
        is_stalled=is_stalled,
    )


def _owners(scene: Scene, pod: JsonObject) -> tuple[str, ...]:
    labels = pod["metadata"].get("labels", {})
    if names.MODEL_DEPLOYMENT not in labels:
        return tuple(
            scene.name_of(owner["kind"], owner["name"]) for owner in pod["metadata"].get("ownerReferences", [])
        )
    return (
        scene.name_of("RayService", names.rayservice(scene.deployment.metadata.name)),
        scene.name_of("RayCluster", labels.get(names.RAY_CLUSTER, "")),
    )


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


def _wants(pod: JsonObject) -> str:
    """What the scheduler has to find: amounts, and the terms of the required node affinity."""
    spec = pod.get("spec", {})
    amounts = [
        f"{amount} {resource}"
        for container in spec.get("containers", [])
        for resource, amount in sorted(container.get("resources", {}).get("requests", {}).items())
        if container.get("name") == names.RAY_CONTAINER
    ]
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = [
        f"{expression['key']} {expression['operator']} {','.join(expression.get('values', []))}"
        for term in (required or {}).get("nodeSelectorTerms", [])
        for expression in term.get("matchExpressions", [])
    ]
    selectors = [f"{key}={value}" for key, value in sorted(spec.get("nodeSelector", {}).items())]
    return ", ".join([*amounts, *terms, *selectors]) or "nothing that it says"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""

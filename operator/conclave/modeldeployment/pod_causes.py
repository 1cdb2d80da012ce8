"""Checks of pods that have not started. Each check reports one fact about the first pod that shows it.

`Scene.pods` are the pods to check: those of the model, or those of a Job.
"""

from __future__ import annotations

import re

from conclave import names
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding
from conclave.kubernetes.events import CONTAINER_FAILURE, SANDBOX_FAILURE, VOLUME_FAILURES
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import (
    events_about,
    in_trouble,
    is_head,
    is_mounted,
    scheduled_requests,
    unschedulable_message,
    waiting_containers,
)
from conclave.kubernetes.quantities import write_quantity
from conclave.modeldeployment.scene import Scene

_PULL_FAILURES = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_CREATE_FAILURES = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError")
_OTHER_USERS_WANTED = "unable to validate against any security context constraint"
"""OpenShift's words for a pod that names users outside of its namespace's range."""
_NO_RUNTIME = re.compile('no runtime for "|failed to find runtime handler')
"""How containerd and CRI-O say that they do not know a RuntimeClass's handler."""
_MISSING_SECRET = re.compile(r"""secret "([^"]+)" not found|couldn't find key \S+ in Secret [^/ ]+/(\S+)""")
_MISSING_OBJECT = re.compile(r'(secret|configmap|persistentvolumeclaim) "([^"]+)" not found', re.IGNORECASE)


def rejection(words: str, *, quota: str, other: str) -> tuple[Reason, str]:
    """Reason and remedy where the API server refused a pod with these words: over a quota, or otherwise."""
    if "exceeded quota" in words:
        return Reason.QUOTA_EXCEEDED, quota
    if _OTHER_USERS_WANTED in words:
        return (
            Reason.POD_REJECTED,
            "on OpenShift, set fixedUserIds to false in the chart's values: pods then name no users",
        )
    return Reason.POD_REJECTED, other


def volume_not_mounted(scene: Scene) -> Finding | None:
    """A pod waits for a Secret, a claim or a volume."""
    for pod in in_trouble(scene.pods):
        events = [] if is_mounted(pod) else events_about(scene.observed.events, pod, *VOLUME_FAILURES)
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
    return on_pod(
        scene,
        pod,
        condition=ConditionType.WEIGHTS_READY if is_weights else ConditionType.PROVISIONED,
        reason=Reason.SECRET_MISSING if is_secret else Reason.VOLUME_NOT_MOUNTED,
        seen=f"the kubelet cannot mount a volume: {words}",
        remedy="the operator creates the Secret again" if own_token else remedy or "check the volume and its driver",
        is_stalled=not own_token,
    )


def runtime_missing(scene: Scene) -> Finding | None:
    """The node's container runtime does not have what the pod's RuntimeClass names, and so never starts the pod."""
    for pod in in_trouble(scene.pods):
        events = [] if is_mounted(pod) else events_about(scene.observed.events, pod, SANDBOX_FAILURE)
        words = next((text for text in (event.get("message", "") for event in events) if _NO_RUNTIME.search(text)), "")
        if words:
            return on_pod(
                scene,
                pod,
                reason=Reason.CONTAINER_NOT_CREATED,
                seen=f"the node's container runtime does not have the handler of the pod's RuntimeClass: {words}",
                remedy="correct runtime.runtimeClassName, or choose nodes that have this runtime with hardware",
            )
    return None


def image_not_pulled(scene: Scene) -> Finding | None:
    for pod in in_trouble(scene.pods):
        for container in waiting_containers(pod):
            if container.reason not in _PULL_FAILURES:
                continue
            words = container.message
            if container.reason == "ImagePullBackOff":  # the first failure says why, the back-off only that it waits
                failed = events_about(scene.observed.events, pod, CONTAINER_FAILURE)
                words = next((event["message"] for event in failed if "pull" in event.get("message", "")), words)
            return on_pod(
                scene,
                pod,
                reason=Reason.IMAGE_NOT_PULLED,
                seen=f"{container.reason} for container {container.name}: {words}",
                remedy="correct runtime.image, or name a Secret for its registry in runtime.imagePullSecrets",
            )
    return None


def container_not_created(scene: Scene) -> Finding | None:
    for pod in in_trouble(scene.pods):
        for container in waiting_containers(pod):
            if container.reason not in _CREATE_FAILURES:
                continue
            if missing := _MISSING_SECRET.search(container.message):
                return on_pod(
                    scene,
                    pod,
                    reason=Reason.SECRET_MISSING,
                    seen=f"the kubelet cannot create container {container.name}: {container.message}",
                    remedy=(
                        f"create the Secret {missing[1] or missing[2]} in namespace "
                        f"{scene.deployment.metadata.namespace} with the keys that the spec names"
                    ),
                )
            is_weights = "subPath" in container.message and names.WEIGHTS_VOLUME in container.message
            return on_pod(
                scene,
                pod,
                condition=ConditionType.WEIGHTS_READY if is_weights else ConditionType.PROVISIONED,
                reason=Reason.WEIGHTS_MISSING if is_weights else Reason.CONTAINER_NOT_CREATED,
                seen=f"{container.reason} for container {container.name}: {container.message}",
                remedy="create the directory that the source's path in spec.model names, or correct the path"
                if is_weights
                else "correct the setting that the message names",
            )
    return None


def unschedulable(scene: Scene) -> Finding | None:
    for pod in in_trouble(scene.pods):
        words = unschedulable_message(pod)
        if words:
            return on_pod(
                scene,
                pod,
                reason=Reason.UNSCHEDULABLE,
                seen=f"no node can take the pod: {words}. The pod needs {_wants(pod)}",
                remedy=(
                    f"free a node or add one, or change {'runtime.head' if is_head(pod) else 'hardware'}, "
                    "access.regions or runtime.resources"
                ),
            )
    return None


def on_pod(
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
    """A finding on a pod, with the objects that own the pod as evidence."""
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


def _wants(pod: JsonObject) -> str:
    """What the scheduler has to find: amounts, and the terms of the required node affinity."""
    spec = pod.get("spec", {})
    amounts = [f"{write_quantity(amount)} {resource}" for resource, amount in scheduled_requests(pod).items()]
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = [
        f"{expression['key']} {expression['operator']} {','.join(expression.get('values', []))}"
        for term in (required or {}).get("nodeSelectorTerms", [])
        for expression in term.get("matchExpressions", [])
    ]
    selectors = [f"{key}={value}" for key, value in sorted(spec.get("nodeSelector", {}).items())]
    return ", ".join([*amounts, *terms, *selectors]) or "no special resources or labels"

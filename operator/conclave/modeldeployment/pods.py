"""What the pods of every part share: image, nodes, pull secrets, scratch volumes, volumes of the model's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from conclave import names
from conclave.api.modeldeployment import (
    AdapterSource,
    DraftSource,
    ImageSource,
    ModelDeployment,
    PersistentVolumeClaimSource,
)
from conclave.errors import InvalidInput
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.modeldeployment.weights.keys import cached_source
from conclave.names import GpuVendor
from conclave.planning.roles import Role
from conclave.settings import OperatorSettings

HOME = "/home/conclave"
SCRATCH_MOUNTS: list[JsonObject] = [
    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
    {"name": "ray", "mountPath": "/tmp/ray"},  # noqa: S108
    {"name": "home", "mountPath": HOME},
]
"""The root is read-only. Ray's directory is apart, since KubeRay's autoscaler shares it with the head."""


def placement(deployment: ModelDeployment, roles: Sequence[Role] = ()) -> JsonObject:
    """Which nodes a pod may go to: those of the deployment, and those with the accelerators of these roles."""
    hardware = deployment.spec.hardware
    tolerations: list[JsonObject] = [toleration.to_wire() for toleration in hardware.tolerations]
    terms = region_terms(deployment)
    if roles:
        vendor = names.gpu_vendor(roles[0].accelerator)
        terms = [*_accelerator_terms(roles, vendor), *terms]
        tolerations = [vendor.toleration, *tolerations]
    return {"affinity": affinity(terms), "nodeSelector": hardware.node_selector, "tolerations": tolerations}


def _accelerator_terms(roles: Sequence[Role], vendor: GpuVendor) -> list[JsonObject]:
    """Node affinity terms by the labels that tell of the accelerators: the vendor's product label, or the plan's."""
    values: dict[str, dict[str, None]] = {}
    for role in roles:
        for key, found in (role.node_labels or {vendor.product_label: (role.accelerator,)}).items():
            values.setdefault(key, {}).update(dict.fromkeys(found))
    return [{"key": key, "operator": "In", "values": list(found)} for key, found in sorted(values.items())]


def job_placement(deployment: ModelDeployment, roles: Sequence[Role] = ()) -> JsonObject:
    """Which nodes a pod without an accelerator may go to: the workers' where some are named or selected, for the image
    and the volume are needed there, and else the Ray head's. It tolerates what either tolerates."""
    placed, head = placement(deployment, roles), deployment.spec.runtime.head_placement
    tolerations: list[JsonObject] = [toleration.to_wire() for toleration in head.tolerations]
    placed["tolerations"] = [
        *placed["tolerations"],
        *(each for each in tolerations if each not in placed["tolerations"]),
    ]
    if not (roles or placed["nodeSelector"]):
        placed["nodeSelector"] = head.node_selector
    return placed


def for_job(deployment: ModelDeployment, spec: JsonObject) -> JsonObject:
    """The Job's spec with labels, annotations against service meshes, and a toleration of GPU nodes.

    The Job's name is the hash of the spec without them: a new operator version or a new label replaces no Job that
    runs. A mesh would add a sidecar; the pod's NetworkPolicy keeps that sidecar from its control plane, and the Job
    would not end. Where the deployment selects nodes, these may be GPU nodes, which GKE and others taint.
    """
    template, hardware = spec["template"], deployment.spec.hardware
    labels = {**deployment.spec.runtime.pod_labels, **names.NO_MESH_LABELS, **template["metadata"]["labels"]}
    pod = template["spec"]
    if hardware.node_selector:
        given = pod.get("tolerations", [])
        gpus = [vendor.toleration for vendor in (names.NVIDIA, names.AMD)]
        pod = pod | {"tolerations": [*given, *(each for each in gpus if each not in given)]}
    return spec | {
        "template": {"metadata": {"labels": labels, "annotations": dict(names.NO_MESH_ANNOTATIONS)}, "spec": pod}
    }


def pull_secrets(deployment: ModelDeployment, settings: OperatorSettings) -> list[JsonObject]:
    """The Secrets for pulling the image."""
    wanted = dict.fromkeys((*deployment.spec.runtime.image_pull_secrets, *settings.image_pull_secrets))
    return [{"name": name} for name in wanted]


def model_files(deployment: ModelDeployment) -> tuple[JsonObject, JsonObject]:
    """Volume and read-only mount of the model's files. For a downloaded model, the volume is the cache."""
    return weights_volumes(deployment)[0], weights_mounts(deployment)[0]


def image(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """The serving image of all containers, and when it is pulled."""
    return {"image": deployment.spec.runtime.image or settings.image, "imagePullPolicy": settings.image_pull_policy}


def _directories(deployment: ModelDeployment) -> Iterator[tuple[PersistentVolumeClaimSource | ImageSource, str]]:
    """Where the model's files, then each adapter's, then the draft's come from, and where they are mounted."""
    model, draft = deployment.spec.model, deployment.spec.draft
    yield cached_source(deployment, model.source, model.digest) or _chosen(model.source), names.MODEL_PATH
    for adapter in model.adapters:
        mounted = cached_source(deployment, adapter.source, adapter.digest) or _chosen(adapter.source)
        yield mounted, names.adapter_path(adapter.name)
    if draft is not None:
        yield _chosen(draft.source), names.DRAFT_PATH


def _chosen(source: AdapterSource | DraftSource) -> PersistentVolumeClaimSource | ImageSource:
    chosen = source.persistent_volume_claim or source.image
    if chosen is None:
        raise InvalidInput("a source of the spec is empty; expected persistentVolumeClaim or image: name one of them")
    return chosen


def _volume_names(deployment: ModelDeployment) -> dict[PersistentVolumeClaimSource | ImageSource, str]:
    """By the source without its path: what two of them name is one volume, mounted twice."""
    whole = dict.fromkeys(source.model_copy(update={"path": ""}) for source, _ in _directories(deployment))
    return {source: numbered(names.WEIGHTS_VOLUME, number) for number, source in enumerate(whole)}


def numbered(name: str, number: int) -> str:
    """`name`, `name-1`, `name-2`: the first object has no number."""
    return f"{name}-{number}" if number else name


def weights_volumes(deployment: ModelDeployment) -> list[JsonObject]:
    """Volumes of the model's files, of the adapters' and of the draft's."""
    return [_weights_volume(name, source) for source, name in _volume_names(deployment).items()]


def _weights_volume(name: str, source: PersistentVolumeClaimSource | ImageSource) -> JsonObject:
    if isinstance(source, ImageSource):
        return {"name": name, "image": {"reference": source.reference, "pullPolicy": "IfNotPresent"}}
    return {"name": name, "persistentVolumeClaim": {"claimName": source.claim_name, "readOnly": True}}


def weights_mounts(deployment: ModelDeployment) -> list[JsonObject]:
    """Read-only mounts of these volumes: the model's first, then one for each adapter, then the draft's."""
    volumes = _volume_names(deployment)
    return [
        without_empty(
            {
                "name": volumes[source.model_copy(update={"path": ""})],
                "mountPath": mount_path,
                "readOnly": True,
                "subPath": source.path,
            }
        )
        for source, mount_path in _directories(deployment)
    ]


def region_terms(deployment: ModelDeployment) -> list[JsonObject]:
    """The node affinity terms that keep a pod in the regions of `spec.access.regions`."""
    regions = deployment.spec.access.regions
    return [{"key": names.REGION, "operator": "In", "values": list(regions)}] if regions else []


def affinity(terms: list[JsonObject]) -> JsonObject | None:
    """A required node affinity of these terms; None without terms."""
    if not terms:
        return None
    required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}

"""What the operator saw and did, as data: filled by `conclave_cluster`, read by `manifests` and `status`.

Objects of others (pods, events, RayServices) stay plain JSON, as the API server gave them. Nothing here does I/O.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.modeldeployment import Endpoint
from conclave.api.plan import Plan
from conclave.planning.inventory import Inventory

JsonObject = dict[str, Any]
"""An object as the Kubernetes API gives it."""


class _Observation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiFailure(_Observation):
    """One request that the API server refused, or that never reached it."""

    verb: str
    """RBAC verb: get, list, watch, create, patch, delete."""
    group: str = ""
    """API group of the resource; empty for the core group."""
    resource: str
    """Plural of the resource, for instance rayservices."""
    namespace: str = ""
    name: str = ""
    code: int
    """HTTP status; 0 where no answer came."""
    reason: str
    """Kubernetes' reason (Forbidden, NotFound, Conflict, Invalid ...), or one of the two below."""
    message: str = ""


FOREIGN_OWNER = "ForeignOwner"
"""`ApiFailure.reason`: an object of that name exists and belongs to somebody else; it was left alone."""
UNREACHABLE = "Unreachable"
"""`ApiFailure.reason`: no answer from the API server."""


class KubeRay(_Observation):
    """KubeRay's RayService CRD, as the cluster has it."""

    installed: bool
    missing_fields: tuple[str, ...] = ()
    """Of `conclave.manifests.kuberay.REQUIRED_FIELDS`, those that the installed CRD's schema lacks."""


class Observed(_Observation):
    """Everything about one ModelDeployment's surroundings that a decision or its status needs."""

    inventory: Inventory = Inventory()
    kuberay: KubeRay
    rayservice: JsonObject | None = None
    """The RayService of the deployment's name, whoever owns it."""
    rayclusters: tuple[JsonObject, ...] = ()
    """RayClusters that this RayService owns."""
    pods: tuple[JsonObject, ...] = ()
    """Pods with the deployment's labels, head and workers."""
    events: tuple[JsonObject, ...] = ()
    """Warnings (v1 Event) about the deployment's RayService, RayClusters, Jobs, cache and pods, and all about pods that
    KubeRay deleted."""
    revisions: tuple[JsonObject, ...] = ()
    """ControllerRevisions that the deployment owns, in any order."""
    network_policies: tuple[JsonObject, ...] = ()
    """NetworkPolicies that the deployment owns."""
    jobs: tuple[JsonObject, ...] = ()
    """Jobs that the deployment owns: they fetch its weights."""
    weights_pods: tuple[JsonObject, ...] = ()
    """Pods of those Jobs."""
    inspection_jobs: tuple[JsonObject, ...] = ()
    """Jobs that the deployment owns: they read the config.json of its weights."""
    inspection_pods: tuple[JsonObject, ...] = ()
    """Pods of those Jobs."""
    cache: JsonObject | None = None
    """The PersistentVolumeClaim of the cache, where the deployment owns it."""
    claims: dict[str, str] = Field(default_factory=dict)
    """Phase by name of those PersistentVolumeClaims that the spec names and that exist."""
    config_maps: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Data by name of those ConfigMaps that the spec names and that exist."""
    failures: tuple[ApiFailure, ...] = ()
    """Reads that failed; what they would have shown is unknown, not absent."""


class Outcome(_Observation):
    """What applying a decision did."""

    written: tuple[str, ...] = ()
    """`verb Kind/name` of each write, in order; empty when nothing had to change."""
    failures: tuple[ApiFailure, ...] = ()


class Refusal(_Observation):
    """Why a spec cannot be planned: a reason of `conclave.api.reasons` and a whole message."""

    reason: str
    message: str


class Decision(_Observation):
    """What should exist, made by `conclave.manifests.decision.decide` and carried out in the order of its fields."""

    plan: Plan | None = None
    """The recorded plan, or a fresh one where nothing was recorded for this spec."""
    refusal: Refusal | None = None
    """Why there is no plan for this spec; what already runs is then left as it is."""
    objections: tuple[Refusal, ...] = ()
    """What the operator's own lists and rules do not allow, of what runs (it goes on) and of what is recorded."""
    endpoint: Endpoint | None = None
    """Where the model answers once it runs."""
    is_inspecting: bool = False
    """Whether there is no plan for this spec because the model's config.json has not been read yet."""
    is_downloaded: bool | None = None
    """Whether an object store's weights are in the cache; None where none are wanted, or nothing can be done yet."""
    update_available: str = ""
    """What a refresh would change; empty where the recorded build is what would be built now."""
    create: tuple[JsonObject, ...] = ()
    """Created once and never patched or read; 409 means that it is there. A failure stops what follows."""
    apply: tuple[JsonObject, ...] = ()
    """Compared with what was observed, then server-side applied, in this order."""
    delete: tuple[JsonObject, ...] = ()
    """Owned objects (apiVersion, kind, metadata.name) that nothing needs any more."""

"""What surrounds one ModelDeployment, as data: `conclave_cluster` fills it, the parts and the status read it.

Objects of others (pods, events, RayServices) stay plain JSON, as the API server gave them. Nothing here does I/O.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from conclave.kubernetes.failures import ApiFailure
from conclave.kubernetes.objects import JsonObject, controller_uid
from conclave.planning.inventory import Inventory


class _Observation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KubeRay(_Observation):
    """KubeRay's RayService CRD, as the cluster has it."""

    installed: bool
    missing_fields: tuple[str, ...] = ()
    """Of `conclave.kubernetes.kuberay.REQUIRED_FIELDS`, those that the installed CRD's schema lacks."""


class Work(_Observation):
    """The Jobs of one part of a deployment, with their pods."""

    jobs: tuple[JsonObject, ...] = ()
    """Jobs that the deployment owns."""
    pods: tuple[JsonObject, ...] = ()
    """Pods of those Jobs, and of earlier ones of the same names."""

    def others(self, wanted: JsonObject) -> tuple[JsonObject, ...]:
        """The Jobs whose name is not that of the wanted one."""
        return tuple(job for job in self.jobs if job["metadata"]["name"] != wanted["metadata"]["name"])


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
    weights: Work = Work()
    """What downloads the deployment's weights."""
    inspection: Work = Work()
    """What reads the config.json of the deployment's weights."""
    cache: JsonObject | None = None
    """The PersistentVolumeClaim of the cache, where the deployment owns it."""
    claims: dict[str, str] = Field(default_factory=dict)
    """Phase by name of those PersistentVolumeClaims that the spec names and that exist."""
    config_maps: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Data by name of those ConfigMaps that the spec names and that exist."""
    failures: tuple[ApiFailure, ...] = ()
    """Reads that failed; what they would have shown is unknown, not absent."""

    def raycluster(self, name: str | None) -> JsonObject | None:
        """The RayCluster of this name, if the RayService owns it."""
        return next((cluster for cluster in self.rayclusters if cluster["metadata"]["name"] == name), None)

    def own_rayservice(self, uid: str) -> JsonObject | None:
        """The RayService, if the ModelDeployment of this UID controls it."""
        return self.rayservice if self.rayservice and controller_uid(self.rayservice) == uid else None

    def has_kuberay(self) -> bool:
        """Whether the cluster's RayService CRD knows each field that the builders write."""
        return self.kuberay.installed and not self.kuberay.missing_fields

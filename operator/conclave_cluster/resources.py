"""The kinds that Conclave reads or writes and their REST paths: the one table of them.

Read by everything in this room; what RBAC grants follows from it.
"""

from __future__ import annotations

from typing import NamedTuple

from conclave.api.modeldeployment import GROUP, PLURAL, VERSION


class Resource(NamedTuple):
    """One REST resource."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of a collection, an object or its subresource."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


MODEL_DEPLOYMENT = Resource(GROUP, VERSION, "ModelDeployment", PLURAL)
RAY_SERVICE = Resource("ray.io", "v1", "RayService", "rayservices")
RAY_CLUSTER = Resource("ray.io", "v1", "RayCluster", "rayclusters")
POD = Resource("", "v1", "Pod", "pods")
NODE = Resource("", "v1", "Node", "nodes", namespaced=False)
EVENT = Resource("", "v1", "Event", "events")
SECRET = Resource("", "v1", "Secret", "secrets")
CONFIG_MAP = Resource("", "v1", "ConfigMap", "configmaps")
CLAIM = Resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
REVISION = Resource("apps", "v1", "ControllerRevision", "controllerrevisions")
NETWORK_POLICY = Resource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
JOB = Resource("batch", "v1", "Job", "jobs")
RESOURCE_SLICE = Resource("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", namespaced=False)
LEASE = Resource("coordination.k8s.io", "v1", "Lease", "leases")

_ALL = (
    MODEL_DEPLOYMENT,
    RAY_SERVICE,
    RAY_CLUSTER,
    POD,
    NODE,
    EVENT,
    SECRET,
    CONFIG_MAP,
    CLAIM,
    REVISION,
    NETWORK_POLICY,
    JOB,
    RESOURCE_SLICE,
    LEASE,
)
_BY_KIND = {(resource.api_version, resource.kind): resource for resource in _ALL}


def resource_of(manifest: dict[str, object]) -> Resource:
    """The resource of an object that Conclave itself built; KeyError where a builder makes an unknown kind."""
    return _BY_KIND[(str(manifest["apiVersion"]), str(manifest["kind"]))]

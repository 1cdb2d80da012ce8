"""The operator's own configuration as far as it shapes objects; `conclave_operator` loads it, the builders read it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.formats import ImagePattern, ServiceAccountPattern
from conclave.api.pod_formats import DevicePattern, PodKeyPattern
from conclave.policy.data_classes import DEFAULT_DATA_CLASSES, DataClassOrder
from conclave.policy.runtime_lists import DEFAULT_DEVICES, RuntimeLists


class OperatorSettings(BaseModel):
    """Chosen once for a cluster by whoever installs the operator."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: str
    """Serving image where `runtime.image` is left out."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """Added to `runtime.imagePullSecrets`; the Secrets must exist in the deployments' namespaces."""
    allowed_images: tuple[ImagePattern, ...] = ()
    """What `runtime.image` may be besides `image`: references, or a repository with `:*` or `@sha256:*`."""
    allowed_service_accounts: tuple[ServiceAccountPattern, ...] = ()
    """What `runtime.serviceAccountName` may be: a name, of any namespace, or NAMESPACE/NAME; none where empty."""
    allowed_pod_keys: tuple[PodKeyPattern, ...] = ()
    """Keys of `runtime.podLabels` and `runtime.podAnnotations` that other components act upon: a key, or PREFIX/*."""
    allowed_devices: tuple[DevicePattern, ...] = DEFAULT_DEVICES
    """What `runtime.resources.worker.devices` may name: an extended resource, or PREFIX/*."""
    kuberay_namespace: str = "kuberay-system"
    """KubeRay's operator; it calls the Ray heads of every deployment."""
    gateway_namespace: str = "conclave-system"
    """Its pods may reach every endpoint."""
    dns_namespace: str = "kube-system"
    """Where the cluster's DNS runs: besides each other and a collector of traces, all that model pods may call."""
    dns_cidrs: tuple[str, ...] = ()
    """Addresses of DNS servers that are no pods of that namespace: a NodeLocal DNSCache, or one outside the cluster."""
    api_server_cidrs: tuple[str, ...] = ()
    """Addresses of the API server, for the NetworkPolicy of the head; any address on 443 and 6443 where empty."""
    metrics_from: tuple[dict[str, Any], ...] = ()
    """NetworkPolicy peers that may scrape the metrics of model pods; nobody where empty."""
    connections_per_address: int = Field(default=1024, ge=1)
    """Open connections that one client address may have to one pod of a model."""
    connections_exempt_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses that stand for many clients, as a gateway's, and have no such bound."""
    ray_version: str = "2.60.0"
    """Ray of the serving image; KubeRay chooses probes and token authentication by it."""
    cluster_domain: str = "cluster.local"
    data_classes: DataClassOrder = DEFAULT_DATA_CLASSES.names
    """In ascending order; `access.dataClass` must be one of them."""

    @property
    def runtime_lists(self) -> RuntimeLists:
        """What a ModelDeployment may name in `spec.runtime`."""
        return RuntimeLists(
            default_image=self.image,
            images=self.allowed_images,
            service_accounts=self.allowed_service_accounts,
            pod_keys=self.allowed_pod_keys,
            devices=self.allowed_devices,
        )

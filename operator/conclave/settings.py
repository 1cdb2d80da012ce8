"""The operator's own configuration as far as it shapes objects; `conclave_operator` loads it, the builders read it."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from conclave import names
from conclave.api.formats import HubEndpointPattern, ImagePattern, ProxyUrl, ServiceAccountPattern
from conclave.api.pod_formats import DevicePattern, PodKeyPattern
from conclave.policy.data_classes import DEFAULT_DATA_CLASSES, DataClassOrder
from conclave.policy.runtime_lists import DEFAULT_DEVICES, DEFAULT_HUBS, RuntimeLists

Port = Annotated[int, Field(ge=1, le=65535)]


class OperatorSettings(BaseModel):
    """Chosen once for a cluster by whoever installs the operator."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: str
    """Serving image where `runtime.image` is left out."""
    image_pull_policy: str = "IfNotPresent"
    fixed_user_ids: bool = True
    """Whether pods name the users and groups that they run as; false where the platform assigns them (OpenShift)."""
    image_pull_secrets: tuple[str, ...] = ()
    """Added to `runtime.imagePullSecrets`; the Secrets must exist in the deployments' namespaces."""
    allowed_images: tuple[ImagePattern, ...] = ()
    """What `runtime.image` may be besides `image`: references, or a repository with `:*` or `@sha256:*`."""
    allowed_service_accounts: tuple[ServiceAccountPattern, ...] = ()
    """What `runtime.serviceAccountName` may be: a name, of any namespace, or NAMESPACE/NAME; none where empty."""
    allowed_hub_endpoints: tuple[HubEndpointPattern, ...] = DEFAULT_HUBS
    """Hubs that `huggingFace` sources may be fetched from: base URLs; or `*` for every hub, without a Secret; none
    where empty."""
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
    dns_ports: tuple[Port, ...] = Field(default=(53,), min_length=1)
    """Ports that the DNS servers listen on, behind their Service's 53: OpenShift's listen on 5353."""
    api_server_cidrs: tuple[str, ...] = ()
    """Addresses of the API server, for the NetworkPolicy of the head; any address on these ports where empty."""
    api_server_ports: tuple[Port, ...] = Field(default=names.API_SERVER_PORTS, min_length=1)
    """The port of the API server's Service, and the one that it listens on itself."""
    ip_family: Literal["IPv4", "IPv6"] = "IPv4"
    """Family of the first address of pods."""
    http_proxy: ProxyUrl = ""
    """Through which downloads reach http:// outside of the cluster."""
    https_proxy: ProxyUrl = ""
    """The same for https://."""
    no_proxy: str = Field(default="", max_length=4096)
    """Hosts and networks that downloads reach without a proxy, besides the cluster's own; separated by commas."""
    ca_bundle: str = ""
    """ConfigMap with the certificates that downloads trust instead of the image's; one of this name must exist in each
    deployment's namespace."""
    ca_bundle_key: str = "ca.crt"
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
    def any_address(self) -> str:
        """What a server binds that is to be reached from other pods."""
        return "::" if self.ip_family == "IPv6" else "0.0.0.0"  # noqa: S104 - behind tokens and NetworkPolicies

    @property
    def runtime_lists(self) -> RuntimeLists:
        """What a ModelDeployment may name in `spec.runtime`."""
        return RuntimeLists(
            default_image=self.image,
            images=self.allowed_images,
            service_accounts=self.allowed_service_accounts,
            hub_endpoints=self.allowed_hub_endpoints,
            pod_keys=self.allowed_pod_keys,
            devices=self.allowed_devices,
        )

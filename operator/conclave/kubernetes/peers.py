"""NetworkPolicies: one builder, and one way to name whom a pod may reach, or who may reach it.

A policy names no host and no Service. What a URL names becomes a namespace, an address, or every address on its port.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from conclave.kubernetes.objects import JsonObject, without_empty

NAMESPACE_NAME = "kubernetes.io/metadata.name"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def namespace_peer(name: str) -> JsonObject:
    """All pods of a namespace."""
    return {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: name}}}


def address_peers(cidrs: Iterable[str]) -> list[JsonObject]:
    """Addresses outside the cluster's pod network."""
    return [{"ipBlock": {"cidr": cidr}} for cidr in cidrs]


def tcp(port: int | None = None) -> JsonObject:
    """A TCP port; every port if `port` is left out."""
    return {"protocol": "TCP"} if port is None else {"protocol": "TCP", "port": port}


def dns_rule(namespace: str, cidrs: Iterable[str], ports: Iterable[int]) -> JsonObject:
    """Egress to DNS servers: pods of a namespace, and addresses. `ports` are those that the servers listen on."""
    return {
        "to": [namespace_peer(namespace), *address_peers(cidrs)],
        "ports": [{"protocol": protocol, "port": port} for port in ports for protocol in ("UDP", "TCP")],
    }


def build_policy(
    metadata: JsonObject,
    selector: dict[str, str],
    *,
    ingress: list[JsonObject] | None = None,
    egress: list[JsonObject],
    is_closed: bool = False,
) -> JsonObject:
    """A NetworkPolicy of the pods that the selector finds.

    Without `ingress` the policy says nothing of who may call the pods; with `is_closed` nobody may.
    """
    spec: JsonObject = {"podSelector": {"matchLabels": selector}, "policyTypes": ["Egress"]}
    if ingress is not None or is_closed:
        spec["policyTypes"] = ["Ingress", "Egress"]
    rules = without_empty({"ingress": ingress, "egress": egress})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {**spec, **rules},
    }


class Target(NamedTuple):
    """Host and port of a URL."""

    host: str
    port: int

    def namespace(self, own: str, cluster_domain: str) -> str | None:
        """The namespace of the Service that the host means to a pod in namespace `own`; None for any other host."""
        if self.address is not None:
            return None
        match self.host.removesuffix(f".{cluster_domain}").split("."):
            case ["localhost"]:
                return None
            case [_service]:
                return own
            case [_service, namespace, "svc"]:
                return namespace
        return None

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The host if it is an address, else None."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def peers(self, own: str, cluster_domain: str) -> list[JsonObject]:
        """Whom the host means to a pod in namespace `own`. Empty for any other host: no policy can name it."""
        if namespace := self.namespace(own, cluster_domain):
            return [namespace_peer(namespace)]
        if self.address is not None:
            return address_peers([f"{self.address}/{self.address.max_prefixlen}"])
        return []


def target_of(url: str) -> Target:
    """Host and port of an http or https URL. An IPv6 address is in brackets."""
    parts = urlsplit(url)
    return Target(parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])

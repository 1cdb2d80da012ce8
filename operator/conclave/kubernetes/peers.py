"""NetworkPolicies: one builder, and one way to name whom a pod may reach, or who may reach it.

A policy names no host and no Service. What a URL names becomes a namespace, an address, or every address on its port.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address
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


def dns_rule(namespace: str, cidrs: Iterable[str]) -> JsonObject:
    """Egress to DNS servers: pods of a namespace, and addresses."""
    return {
        "to": [namespace_peer(namespace), *address_peers(cidrs)],
        "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
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
        match self.host.removesuffix(f".{cluster_domain}").split("."):
            case ["localhost"]:
                return None
            case [_service]:
                return own
            case [_service, namespace, "svc"]:
                return namespace
        return None

    @property
    def address(self) -> IPv4Address | None:
        """The host if it is an address, else None."""
        try:
            return IPv4Address(self.host)
        except AddressValueError:
            return None


def target_of(url: str) -> Target:
    """Host and port of an http or https URL."""
    parts = urlsplit(url)
    return Target(parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])

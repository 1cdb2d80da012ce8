"""Where downloaded weights are kept: the deployment's cache claim, a directory for each source, and who may fetch.

The directory's name is a hash of what was asked for, so that another address or digest never meets the old files.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from urllib.parse import urlsplit

from conclave.api.modeldeployment import Cache, ModelDeployment, ObjectStoreSource, PersistentVolumeClaimSource
from conclave.kubernetes.quantities import BINARY, DECIMAL, parse_quantity
from conclave.manifests import names
from conclave.manifests.network_policy import dns_rule
from conclave.manifests.objects import content_hash, metadata, without_empty
from conclave.manifests.settings import OperatorSettings
from conclave.observation import JsonObject

_DEFAULT_PORTS = {"http": 80, "https": 443}


def weights_key(deployment: ModelDeployment) -> str:
    """Of what the store is asked for; credentials and region are no part of it. Empty where nothing is downloaded."""
    store = deployment.spec.model.source.object_store
    if store is None:
        return ""
    return content_hash([store.uri, store.endpoint, deployment.spec.model.digest])[:16]


def cached_source(deployment: ModelDeployment) -> PersistentVolumeClaimSource | None:
    """The weights as the model's pods mount them, None where they are not downloaded."""
    key = weights_key(deployment)
    if not key:
        return None
    return PersistentVolumeClaimSource(claim_name=names.cache_claim(deployment.metadata.name), path=key)


def build_cache_claim(deployment: ModelDeployment, cache: Cache) -> JsonObject:
    """One for the deployment's life: what it holds is dear."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(deployment, names.cache_claim(deployment.metadata.name), "weights"),
        "spec": without_empty(
            {
                "accessModes": [cache.access_mode],
                "resources": {"requests": {"storage": canonical(cache.size)}},
                "storageClassName": cache.storage_class_name,
            }
        ),
    }


def canonical(quantity: str) -> str:
    """As the API server writes it, so that a claim of 1024Gi, which it calls 1Ti, is not taken for a changed one."""
    amount = parse_quantity(quantity)
    if amount is None:
        return quantity
    step, suffixes = (1024, BINARY) if quantity.endswith("i") and amount >= 1024 else (1000, DECIMAL)
    if amount % 1:
        return f"{amount * 1000:f}".partition(".")[0] + "m"
    power = 0
    while power + 1 < len(suffixes) and amount and amount % step == 0:
        amount, power = amount / step, power + 1
    return f"{amount:f}".partition(".")[0] + suffixes[power]


def size_gib(quantity: str) -> float:
    """A quantity of bytes in GiB; 0 where it is none."""
    return float((parse_quantity(quantity) or 0) / 2**30)


def build_download_policy(
    deployment: ModelDeployment, store: ObjectStoreSource, settings: OperatorSettings
) -> JsonObject:
    """DNS and the store, nothing else; nobody calls these pods."""
    name = deployment.metadata.name
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(deployment, names.download_network_policy(name), "weights"),
        "spec": {
            "podSelector": {"matchLabels": names.weights_selector(name)},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [dns_rule(settings), _store_rule(store, deployment.metadata.namespace, settings.cluster_domain)],
        },
    }


def _store_rule(store: ObjectStoreSource, own_namespace: str, cluster_domain: str) -> JsonObject:
    """A policy names no host: a Service's namespace (on any port, since its pods may listen on another one), an
    address, or else every address on the store's port.
    """
    if store.endpoint is None:
        return {"ports": [{"protocol": "TCP", "port": 443}]}
    url = urlsplit(store.endpoint)
    host = url.hostname or ""
    port = {"protocol": "TCP", "port": url.port or _DEFAULT_PORTS[url.scheme]}
    match host.removesuffix(f".{cluster_domain}").split("."):
        case [_service]:
            return {"to": [_namespace(own_namespace)], "ports": [{"protocol": "TCP"}]}
        case [_service, namespace, "svc"]:
            return {"to": [_namespace(namespace)], "ports": [{"protocol": "TCP"}]}
    try:
        return {"to": [{"ipBlock": {"cidr": f"{IPv4Address(host)}/32"}}], "ports": [port]}
    except AddressValueError:
        return {"ports": [port]}


def _namespace(name: str) -> JsonObject:
    return {"namespaceSelector": {"matchLabels": {names.NAMESPACE_NAME: name}}}

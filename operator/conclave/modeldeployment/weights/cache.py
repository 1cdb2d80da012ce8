"""What keeps downloaded weights, and who may fetch them: the deployment's cache claim and a NetworkPolicy."""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import Cache, ModelDeployment, ObjectStoreSource
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.kubernetes.peers import build_policy, dns_rule
from conclave.kubernetes.quantities import BINARY, DECIMAL, parse_quantity
from conclave.modeldeployment.objects import metadata
from conclave.modeldeployment.outside import rules_to
from conclave.settings import OperatorSettings


def build_cache_claim(deployment: ModelDeployment, cache: Cache) -> JsonObject:
    """One claim for the life of the deployment, since a download is expensive."""
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
    """A quantity as the API server writes it: 1024Gi becomes 1Ti, and the claim does not count as changed."""
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
    """A quantity of bytes in GiB; 0 if the text is not a quantity."""
    return float((parse_quantity(quantity) or 0) / 2**30)


def build_download_policy(
    deployment: ModelDeployment, store: ObjectStoreSource, settings: OperatorSettings
) -> JsonObject:
    """Download pods reach DNS, the store, and the proxy that leads to it, nothing else. Nobody reaches them."""
    name = deployment.metadata.name
    dns = dns_rule(settings.dns_namespace, settings.dns_cidrs, settings.dns_ports)
    return build_policy(
        metadata(deployment, names.download_network_policy(name), "weights"),
        names.weights_selector(name),
        egress=[dns, *rules_to(store_url(store), deployment.metadata.namespace, settings)],
        is_closed=True,
    )


def store_url(store: ObjectStoreSource) -> str:
    """Where the store answers; without an endpoint it is Amazon's, whose host the bucket and the region decide."""
    return store.endpoint or "https://amazonaws.com"

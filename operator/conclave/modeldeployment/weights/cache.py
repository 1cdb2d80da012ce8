"""What keeps downloaded weights, and who may fetch them: the deployment's cache claim and a NetworkPolicy."""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import Cache, ModelDeployment, ObjectStoreSource
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.kubernetes.peers import address_peers, build_policy, dns_rule, namespace_peer, target_of, tcp
from conclave.kubernetes.quantities import canonical, parse_quantity
from conclave.modeldeployment.objects import metadata
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


def size_gib(quantity: str) -> float:
    """A quantity of bytes in GiB; 0 if the text is not a quantity."""
    return float((parse_quantity(quantity) or 0) / 2**30)


def build_download_policy(
    deployment: ModelDeployment, store: ObjectStoreSource, settings: OperatorSettings
) -> JsonObject:
    """Download pods reach DNS and the store, nothing else. Nobody reaches download pods."""
    name = deployment.metadata.name
    dns = dns_rule(settings.dns_namespace, settings.dns_cidrs)
    store_rule = _store_rule(store, deployment.metadata.namespace, settings.cluster_domain)
    return build_policy(
        metadata(deployment, names.download_network_policy(name), "weights"),
        names.weights_selector(name),
        egress=[dns, store_rule],
        is_closed=True,
    )


def _store_rule(store: ObjectStoreSource, own_namespace: str, cluster_domain: str) -> JsonObject:
    """The pods of a Service may listen on another port than the Service: any port of its namespace."""
    if store.endpoint is None:
        return {"ports": [tcp(443)]}
    target = target_of(store.endpoint)
    if namespace := target.namespace(own_namespace, cluster_domain):
        return {"to": [namespace_peer(namespace)], "ports": [tcp()]}
    if target.address is not None:
        return {"to": address_peers([f"{target.address}/32"]), "ports": [tcp(target.port)]}
    return {"ports": [tcp(target.port)]}

"""What keeps downloaded weights, and who may fetch them: the deployment's cache claim and a NetworkPolicy."""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import Cache, Downloaded, HuggingFaceSource, ModelDeployment
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.kubernetes.peers import address_peers, build_policy, dns_rule, namespace_peer, target_of, tcp
from conclave.kubernetes.quantities import BINARY, DECIMAL, parse_quantity
from conclave.modeldeployment.objects import metadata
from conclave.modeldeployment.weights.keys import cached_files
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


def build_download_policy(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """Download pods reach DNS and the stores and hubs of the spec, nothing else. Nobody reaches download pods."""
    name, namespace = deployment.metadata.name, deployment.metadata.namespace
    rules = [_rule(files.source, namespace, settings.cluster_domain) for files in reversed(cached_files(deployment))]
    return build_policy(
        metadata(deployment, names.download_network_policy(name), "weights"),
        names.weights_selector(name),
        egress=[
            dns_rule(settings.dns_namespace, settings.dns_cidrs),
            *(rule for place, rule in enumerate(rules) if rule not in rules[:place]),
        ],
        is_closed=True,
    )


def _rule(source: Downloaded, own_namespace: str, cluster_domain: str) -> JsonObject:
    """The pods of a Service may listen on another port than the Service: any port of its namespace.

    A hub of a public name sends its files from other hosts, on the port of https.
    """
    if source.endpoint is None:
        return {"ports": [tcp(443)]}
    target = target_of(source.endpoint)
    if namespace := target.namespace(own_namespace, cluster_domain):
        return {"to": [namespace_peer(namespace)], "ports": [tcp()]}
    if target.address is not None:
        return {"to": address_peers([f"{target.address}/32"]), "ports": [tcp(target.port)]}
    ports = [target.port, 443] if isinstance(source, HuggingFaceSource) else [target.port]
    return {"ports": [tcp(port) for port in dict.fromkeys(ports)]}

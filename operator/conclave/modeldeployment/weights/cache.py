"""What keeps downloaded weights, and who may fetch them: the deployment's cache claim and a NetworkPolicy."""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import Cache, Downloaded, HuggingFaceSource, ModelDeployment
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.kubernetes.peers import build_policy, dns_rule, target_of, tcp
from conclave.kubernetes.quantities import canonical, parse_quantity
from conclave.modeldeployment.objects import metadata
from conclave.modeldeployment.outside import rules_to
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


def size_gib(quantity: str) -> float:
    """A quantity of bytes in GiB; 0 if the text is not a quantity."""
    return float((parse_quantity(quantity) or 0) / 2**30)


def build_download_policy(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """Download pods reach DNS, the stores and hubs of the spec, and the proxy that leads there, nothing else.

    Nobody reaches download pods.
    """
    name, namespace = deployment.metadata.name, deployment.metadata.namespace
    sources = [files.source for files in reversed(cached_files(deployment))]
    rules = [rule for source in sources for rule in _rules(source, namespace, settings)]
    return build_policy(
        metadata(deployment, names.download_network_policy(name), "weights"),
        names.weights_selector(name),
        egress=[
            dns_rule(settings.dns_namespace, settings.dns_cidrs, settings.dns_ports),
            *(rule for place, rule in enumerate(rules) if rule not in rules[:place]),
        ],
        is_closed=True,
    )


def source_url(source: Downloaded) -> str:
    """Where the source answers; the host of Amazon's store follows from the bucket and the region."""
    if isinstance(source, HuggingFaceSource):
        return source.endpoint or names.OFFICIAL_HUB
    return source.endpoint or "https://amazonaws.com"


def _rules(source: Downloaded, namespace: str, settings: OperatorSettings) -> list[JsonObject]:
    """A hub of a public name sends its files from other hosts, on the port of https."""
    url = source_url(source)
    rules = rules_to(url, namespace, settings)
    if isinstance(source, HuggingFaceSource) and not target_of(url).peers(namespace, settings.cluster_domain):
        rules.append({"ports": [tcp(443)]})
    return rules

"""NetworkPolicies of a deployment: who reaches its pods, and whom they reach.

Ray processes talk to each other on many ports: pods of one deployment are open to one another, closed to others.
"""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.kubernetes.peers import address_peers, build_policy, dns_rule, namespace_peer, target_of, tcp
from conclave.modeldeployment.objects import metadata
from conclave.settings import OperatorSettings


def build_network_policies(deployment: ModelDeployment, settings: OperatorSettings) -> tuple[JsonObject, ...]:
    """One for all pods, one more for the head, whose autoscaler needs the API server."""
    return _pods(deployment, settings), _head(deployment, settings)


def _pods(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    name = deployment.metadata.name
    own_pods = {"podSelector": {"matchLabels": names.pod_selector(name)}}
    callers = sorted({settings.gateway_namespace, *deployment.spec.access.allowed_namespaces})
    return build_policy(
        metadata(deployment, names.network_policy(name), "network-policy"),
        names.pod_selector(name),
        ingress=[
            {"from": [own_pods]},
            {"from": [namespace_peer(caller) for caller in callers], "ports": [tcp(names.SERVE_PORT)]},
            {
                "from": [namespace_peer(settings.kuberay_namespace)],
                "ports": [tcp(port) for port in (names.SERVE_PORT, names.DASHBOARD_PORT)],
            },
            *_scrapes(settings),
        ],
        egress=[
            {"to": [own_pods]},
            dns_rule(settings.dns_namespace, settings.dns_cidrs, settings.dns_ports),
            *_traces(deployment, settings),
        ],
    )


def _scrapes(settings: OperatorSettings) -> list[JsonObject]:
    """No peers would mean everybody: without them there is no rule."""
    if not settings.metrics_from:
        return []
    return [{"from": list(settings.metrics_from), "ports": [tcp(names.METRICS_PORT)]}]


def _traces(deployment: ModelDeployment, settings: OperatorSettings) -> list[JsonObject]:
    """A policy cannot name a Service, nor a host: its namespace where the name says so, its address, else any one."""
    tracing = deployment.spec.telemetry.tracing
    if tracing is None:
        return []
    target = target_of(tracing.endpoint)
    peers = target.peers(deployment.metadata.namespace, settings.cluster_domain)
    return [without_empty({"ports": [tcp(target.port)], "to": peers})]


def _head(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """No selector can name the API server: its addresses come from the settings, else only its ports are known."""
    name = deployment.metadata.name
    api_server: JsonObject = {"ports": [tcp(port) for port in settings.api_server_ports]}
    if settings.api_server_cidrs:
        api_server["to"] = address_peers(settings.api_server_cidrs)
    return build_policy(
        metadata(deployment, names.head_network_policy(name), "network-policy"),
        names.head_selector(name),
        egress=[api_server],
    )

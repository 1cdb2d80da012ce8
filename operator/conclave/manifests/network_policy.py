"""NetworkPolicies of a deployment: who reaches its pods, and whom they reach.

Ray processes talk to each other on many ports: pods of one deployment are open to one another, closed to others.
"""

from __future__ import annotations

from collections.abc import Sequence

from conclave.api.modeldeployment import ModelDeployment
from conclave.manifests import names
from conclave.manifests.objects import metadata
from conclave.manifests.settings import OperatorSettings
from conclave.manifests.tracing import collector
from conclave.observation import JsonObject


def build_network_policies(deployment: ModelDeployment, settings: OperatorSettings) -> tuple[JsonObject, ...]:
    """One for all pods, one more for the head, whose autoscaler needs the API server."""
    return _pods(deployment, settings), _head(deployment, settings)


def _pods(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    name = deployment.metadata.name
    own_pods = {"podSelector": {"matchLabels": names.pod_selector(name)}}
    callers = sorted({settings.gateway_namespace, *deployment.spec.access.allowed_namespaces})
    return _policy(
        deployment,
        names.network_policy(name),
        names.pod_selector(name),
        ingress=[
            {"from": [own_pods]},
            {"from": [_namespace(caller) for caller in callers], "ports": [_tcp(names.SERVE_PORT)]},
            {
                "from": [_namespace(settings.kuberay_namespace)],
                "ports": [_tcp(port) for port in (names.SERVE_PORT, names.DASHBOARD_PORT)],
            },
            *_scrapes(settings),
        ],
        egress=[
            {"to": [own_pods]},
            dns_rule(settings),
            *_traces(deployment, settings),
        ],
    )


def dns_rule(settings: OperatorSettings) -> JsonObject:
    """Egress to the cluster's DNS servers."""
    return {
        "to": [_namespace(settings.dns_namespace), *_addresses(settings.dns_cidrs)],
        "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
    }


def _scrapes(settings: OperatorSettings) -> list[JsonObject]:
    """No peers would mean everybody: without them there is no rule."""
    if not settings.metrics_from:
        return []
    return [{"from": list(settings.metrics_from), "ports": [_tcp(names.METRICS_PORT)]}]


def _traces(deployment: ModelDeployment, settings: OperatorSettings) -> list[JsonObject]:
    """A policy cannot name a Service, nor a host: its namespace where the name says so, its address, else any one."""
    tracing = deployment.spec.telemetry.tracing
    if tracing is None:
        return []
    target = collector(tracing)
    rule: JsonObject = {"ports": [_tcp(target.port)]}
    if namespace := target.namespace(deployment.metadata.namespace, settings.cluster_domain):
        rule["to"] = [_namespace(namespace)]
    elif target.address is not None:
        rule["to"] = _addresses([f"{target.address}/32"])
    return [rule]


def _head(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """No selector can name the API server: its addresses come from the settings, else only its ports are known."""
    name = deployment.metadata.name
    api_server: JsonObject = {"ports": [_tcp(port) for port in names.API_SERVER_PORTS]}
    if settings.api_server_cidrs:
        api_server["to"] = _addresses(settings.api_server_cidrs)
    return _policy(
        deployment, names.head_network_policy(name), names.head_selector(name), ingress=None, egress=[api_server]
    )


def _policy(
    deployment: ModelDeployment,
    name: str,
    selector: dict[str, str],
    *,
    ingress: list[JsonObject] | None,
    egress: list[JsonObject],
) -> JsonObject:
    spec: JsonObject = {"podSelector": {"matchLabels": selector}, "policyTypes": ["Egress"], "egress": egress}
    if ingress is not None:
        spec |= {"policyTypes": ["Ingress", "Egress"], "ingress": ingress}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(deployment, name, "network-policy"),
        "spec": spec,
    }


def _namespace(name: str) -> JsonObject:
    return {"namespaceSelector": {"matchLabels": {names.NAMESPACE_NAME: name}}}


def _addresses(cidrs: Sequence[str]) -> list[JsonObject]:
    return [{"ipBlock": {"cidr": cidr}} for cidr in cidrs]


def _tcp(port: int) -> JsonObject:
    return {"protocol": "TCP", "port": port}

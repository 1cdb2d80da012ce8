"""How a Job's pod reaches what is outside of the cluster: by which proxy, with whose certificates, past its policy.

Called by the builders of what fetches. Pods that serve or inspect reach nothing outside of the cluster.
"""

from __future__ import annotations

from conclave import names
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.kubernetes.peers import target_of, tcp
from conclave.settings import OperatorSettings

_HERE = ("localhost", "127.0.0.1", "::1", ".svc")
_CERTIFICATES = f"{names.CA_DIRECTORY}/ca.crt"


def rules_to(url: str, namespace: str, settings: OperatorSettings) -> list[JsonObject]:
    """Egress of a pod in `namespace` to the URL's host, and to the proxy in front of it."""
    proxy = _proxy_to(url, namespace, settings)
    return [_rule_to(each, namespace, settings) for each in (url, proxy) if each]


def outside_environment(url: str, namespace: str, settings: OperatorSettings) -> list[JsonObject]:
    """Variables for a pod in `namespace` that calls the URL: proxies and certificates, as most clients read them."""
    host = target_of(url).host if _is_inside(url, namespace, settings) else ""
    direct = (*_HERE, f".{settings.cluster_domain}", host, settings.no_proxy)
    variables = {
        "HTTP_PROXY": settings.http_proxy,
        "HTTPS_PROXY": settings.https_proxy,
        "NO_PROXY": ",".join(filter(None, direct)) if settings.http_proxy or settings.https_proxy else "",
        "SSL_CERT_FILE": _CERTIFICATES if settings.ca_bundle else "",
        "REQUESTS_CA_BUNDLE": _CERTIFICATES if settings.ca_bundle else "",
    }
    return [{"name": name, "value": value} for name, value in variables.items() if value]


def certificate_volumes(settings: OperatorSettings) -> list[JsonObject]:
    """The ConfigMap of the pod's own namespace: a pod mounts none of another one. The pod waits until it is there."""
    if not settings.ca_bundle:
        return []
    items = [{"key": settings.ca_bundle_key, "path": "ca.crt"}]
    return [{"name": names.CA_VOLUME, "configMap": {"name": settings.ca_bundle, "items": items}}]


def certificate_mounts(settings: OperatorSettings) -> list[JsonObject]:
    """Where the variables of `outside_environment` look for it."""
    if not settings.ca_bundle:
        return []
    return [{"name": names.CA_VOLUME, "mountPath": names.CA_DIRECTORY, "readOnly": True}]


def _rule_to(url: str, namespace: str, settings: OperatorSettings) -> JsonObject:
    """The pods of a Service may listen on another port than the Service: any port of its namespace."""
    target = target_of(url)
    port = None if _is_inside(url, namespace, settings) else target.port
    return without_empty({"to": target.peers(namespace, settings.cluster_domain), "ports": [tcp(port)]})


def _is_inside(url: str, namespace: str, settings: OperatorSettings) -> bool:
    """Whether the URL names a Service of this cluster."""
    return target_of(url).namespace(namespace, settings.cluster_domain) is not None


def _proxy_to(url: str, namespace: str, settings: OperatorSettings) -> str:
    """The proxy that clients take to the URL; empty where they go there directly."""
    if _is_inside(url, namespace, settings):
        return ""
    return settings.https_proxy if url.startswith("https:") else settings.http_proxy

"""Where a deployment's spans go: what its Ray processes are told, and whom they may then call.

Pure. `pods` and `conclave up` set the environment, since a Serve config reaches replicas only; `network_policy` opens
the way. `conclave_serving.tracing` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import NamedTuple
from urllib.parse import urlsplit

from conclave.api.modeldeployment import ModelDeployment, Tracing

SPAN_PROCESSORS = "conclave_serving.tracing:span_processors"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Collector(NamedTuple):
    """Who takes the spans."""

    host: str
    port: int

    def namespace(self, own: str, cluster_domain: str) -> str | None:
        """Of the Service that a cluster-local name means, as a pod in `own` reads it; None of any other host."""
        labels = self.host.removesuffix(f".{cluster_domain}").split(".")
        match labels:
            case ["localhost"]:
                return None
            case [_service]:
                return own
            case [_service, namespace, "svc"]:
                return namespace
        return None

    @property
    def address(self) -> IPv4Address | None:
        """The host where it is an address."""
        try:
            return IPv4Address(self.host)
        except AddressValueError:
            return None


def traces_url(tracing: Tracing) -> str:
    """Where spans are POSTed: OTLP/HTTP's own path below the base URL."""
    return f"{tracing.endpoint.rstrip('/')}/v1/traces"


def collector(tracing: Tracing) -> Collector:
    """Host and port of the endpoint."""
    url = urlsplit(tracing.endpoint)
    return Collector(url.hostname or "", url.port or _DEFAULT_PORTS[url.scheme])


def tracing_environment(deployment: ModelDeployment) -> Mapping[str, str]:
    """Of every Ray process, from its start; empty where nothing is traced.

    vLLM makes tracer providers of its own in its child processes, which would trace every start: `always_off` silences
    those, while ours is told by its own sampler.
    """
    tracing = deployment.spec.telemetry.tracing
    if tracing is None:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": traces_url(tracing),
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_RESOURCE_ATTRIBUTES": f"service.namespace={deployment.metadata.namespace}",
        "OTEL_SERVICE_NAME": deployment.metadata.name,
        "OTEL_TRACES_SAMPLER": "always_off",
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": SPAN_PROCESSORS,
        "RAY_SERVE_TRACING_SAMPLING_RATIO": tracing.sampling_ratio,
    }

"""Where a deployment's spans go: what its Ray processes are told, and whom they may then call.

Pure. `pods` and `conclave up` set the environment, since a Serve config reaches replicas only; `network_policy` opens
the way. `conclave_serving.tracing` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping

from conclave.api.modeldeployment import ModelDeployment, Tracing

SPAN_PROCESSORS = "conclave_serving.tracing:span_processors"


def traces_url(tracing: Tracing) -> str:
    """Where spans are POSTed: OTLP/HTTP's own path below the base URL."""
    return f"{tracing.endpoint.rstrip('/')}/v1/traces"


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

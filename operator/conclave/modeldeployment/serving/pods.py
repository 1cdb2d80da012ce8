"""Pod templates of a deployment's Ray head and workers: resources, placement, hardening, volumes, probes.

Called by `rayservice`. Whatever is in a template costs a second cluster when it changes (KubeRay hashes it), except
tolerations.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from conclave import names
from conclave.api.modeldeployment import ModelDeployment, PodResources, Probes
from conclave.engine.arguments import (
    CONNECTIONS_EXEMPT_VARIABLE,
    CONNECTIONS_PER_ADDRESS_VARIABLE,
    RAY_ENVIRONMENT,
    TOKEN_FILE_VARIABLE,
)
from conclave.engine.environment import CLOSED_ENVIRONMENT, MOST_SEQUENCES
from conclave.engine.tracing import tracing_environment
from conclave.kubernetes.hardening import CONTAINER_SECURITY, pod_security
from conclave.kubernetes.job_builder import reporting_container
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.kubernetes.quantities import parse_quantity
from conclave.kubernetes.reports import REPORT_PATH
from conclave.modeldeployment.pods import (
    HOME,
    SCRATCH_MOUNTS,
    affinity,
    image,
    numbered,
    placement,
    pull_secrets,
    region_terms,
    weights_mounts,
    weights_volumes,
)
from conclave.modeldeployment.serving.token import new_token_secret
from conclave.planning.roles import Role
from conclave.settings import OperatorSettings

ENGINE_UNREADY_S, HEAD_UNREADY_S = 60, 120
"""How long a pod may fail its readiness probe before the Service leaves it out, whatever the probe's period."""
PROXY_DRAIN_S = ENGINE_UNREADY_S + 30
"""How long a proxy without a replica beside it goes on: longer than the Service takes to leave its pod out."""
TERMINATION_GRACE_PERIOD_S = 120
"""Serve drains its replicas in this time."""
HEAD_TERMINATION_GRACE_PERIOD_S = 30
"""Ray ends at once when it is told to, and KubeRay's autoscaler beside it, process 1 of its container, never does."""

_ENVIRONMENT: Mapping[str, str] = dict(
    sorted(
        {
            **CLOSED_ENVIRONMENT,
            **RAY_ENVIRONMENT,
            "HOME": HOME,
            "RAY_ROTATION_BACKUP_COUNT": "1",
            "RAY_ROTATION_MAX_BYTES": str(64 << 20),
            "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(PROXY_DRAIN_S),
            "USER": "conclave",
            "VLLM_MAX_N_SEQUENCES": str(MOST_SEQUENCES),
            "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        }.items()
    )
)
"""Variables of every pod, whatever the spec. USER is set, since the image may not know the id of the user. Ray's own
defaults would keep 3 GiB of each log."""
FIXED_ENVIRONMENT: Mapping[str, str] = {**_ENVIRONMENT, names.ENGINE_PID_VARIABLE: names.ENGINE_PID_PATH}
"""All variables that pods have whatever the spec; `records.recorded` recognises forgeries by it."""

_SCRATCH_GIB = {"tmp": 4, "ray": 20, "home": 16}
"""Caps, no reservations: a pod that fills one is evicted, before it fills its node's disk and takes others along.

tmp holds sockets and what libraries unpack; ray the logs of Ray and Serve (Serve's at most 3 GiB each) and objects that
its store has no room for; home the kernels that vLLM, Triton and CUDA compile (a few GiB).
"""


def head_template(deployment: ModelDeployment, settings: OperatorSettings, token_secret: str = "") -> JsonObject:
    """Control store, dashboard and ingress replicas; no GPU. Its own container gets no Kubernetes token."""
    runtime = deployment.spec.runtime
    wanted = runtime.resources.head
    return _template(
        deployment,
        settings,
        component="head",
        token_secret=token_secret,
        resources=_resources(wanted, default_cpu="4", default_memory="8Gi"),
        shared_memory=wanted.shared_memory or "2Gi",
        ports={
            "serve": names.SERVE_PORT,
            "dashboard": names.DASHBOARD_PORT,
            "gcs-server": names.GCS_PORT,
            "metrics": names.METRICS_PORT,
        },
        readiness_probe=_agent_probe(runtime.probe_times, failures=_failures(HEAD_UNREADY_S, runtime.probe_times)),
        grace_period_s=HEAD_TERMINATION_GRACE_PERIOD_S,
        volumes=[api_token_volume()],
        placed={
            "affinity": affinity(region_terms(deployment)),
            "nodeSelector": runtime.head_placement.node_selector,
            "tolerations": [toleration.to_wire() for toleration in runtime.head_placement.tolerations],
        },
    )


def worker_template(
    deployment: ModelDeployment, role: Role, settings: OperatorSettings, token_secret: str = ""
) -> JsonObject:
    """One pipeline stage of a replica, or an equal share of one: `gpus_per_node` GPUs of the planned accelerator."""
    vendor, gpus = names.gpu_vendor(role.accelerator), role.gpus_per_node
    runtime = deployment.spec.runtime
    wanted = runtime.resources.worker
    # Ray's bundles take one CPU a rank, the engine and its ingress one more each; tokenizing and copying want the rest.
    resources = _resources(wanted, default_cpu=str(1 + 2 * gpus), default_memory=f"{8 + 6 * gpus}Gi")
    for part in ("requests", "limits"):
        devices = {**wanted.devices, role.resource or vendor.resource: gpus}
        resources[part] |= {name: str(count) for name, count in devices.items()}
    return _template(
        deployment,
        settings,
        component="worker",
        token_secret=token_secret,
        resources=resources,
        shared_memory=wanted.shared_memory or f"{2 + gpus}Gi",
        ports={"serve": names.SERVE_PORT, "metrics": names.METRICS_PORT},
        readiness_probe=engine_probe(runtime.probe_times),
        grace_period_s=TERMINATION_GRACE_PERIOD_S,
        environment={names.ENGINE_PID_VARIABLE: names.ENGINE_PID_PATH},
        init_containers=[
            _asking_no_more_than(resources["requests"], container)
            for container in (_canary(deployment, settings), *_verification(deployment, settings))
        ],
        placed=placement(deployment, (role,)) | {"runtimeClassName": runtime.runtime_class_name},
    )


def _template(
    deployment: ModelDeployment,
    settings: OperatorSettings,
    *,
    component: str,
    token_secret: str,
    resources: JsonObject,
    shared_memory: str,
    ports: dict[str, int],
    readiness_probe: JsonObject,
    placed: JsonObject,
    grace_period_s: int,
    environment: Mapping[str, str] = MappingProxyType({}),
    volumes: list[JsonObject] | None = None,
    init_containers: list[JsonObject] | None = None,
) -> JsonObject:
    runtime = deployment.spec.runtime
    variables = {**_ENVIRONMENT, **_door_environment(settings), **environment, **tracing_environment(deployment)}
    container = {
        "name": names.RAY_CONTAINER,
        **image(deployment, settings),
        "env": [*({"name": name, "value": value} for name, value in variables.items()), *own_address(settings)],
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()],
        "resources": resources,
        "volumeMounts": [
            *SCRATCH_MOUNTS,
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - a volume of the pod's own
            {"name": names.TOKEN_VOLUME, "mountPath": names.TOKEN_DIRECTORY, "readOnly": True},
            *weights_mounts(deployment),
        ],
        "livenessProbe": _agent_probe(runtime.probe_times, failures=runtime.probe_times.liveness_failure_threshold),
        "readinessProbe": readiness_probe,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec = without_empty(
        {
            **placed,
            "containers": [container],
            "imagePullSecrets": pull_secrets(deployment, settings),
            "initContainers": init_containers,
            "priorityClassName": runtime.priority_class_name,
            "securityContext": pod_security(has_fixed_ids=settings.fixed_user_ids),
            "serviceAccountName": runtime.service_account_name,
            "terminationGracePeriodSeconds": grace_period_s,
            "volumes": [
                *({"name": name, "emptyDir": {"sizeLimit": f"{gib}Gi"}} for name, gib in _SCRATCH_GIB.items()),
                {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
                {
                    "name": names.TOKEN_VOLUME,
                    "secret": {"secretName": token_secret or new_token_secret(deployment), "defaultMode": 0o440},
                },
                *weights_volumes(deployment),
                *(volumes or []),
            ],
        }
    )
    spec["automountServiceAccountToken"] = False
    own_labels = names.labels(deployment.metadata.name, component)
    metadata = {
        "labels": {**names.NO_MESH_LABELS, **runtime.pod_labels, **own_labels},
        "annotations": {**names.NO_MESH_ANNOTATIONS, **runtime.pod_annotations},
    }
    return {"metadata": metadata, "spec": spec}


def own_address(settings: OperatorSettings) -> list[JsonObject]:
    """The variable with the pod's first address, where Ray and vLLM would not find it by themselves.

    Both take the address that leads to an IPv4 host in the internet. Where pods have an IPv4 address only to get out of
    the cluster, as on EKS, no other pod can reach it.
    """
    if settings.ip_family == "IPv4":
        return []
    return [{"name": names.HOST_IP_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]


def _door_environment(settings: OperatorSettings) -> Mapping[str, str]:
    """What Serve's proxies need to know before a request reaches a replica."""
    environment = {
        TOKEN_FILE_VARIABLE: names.TOKEN_PATH,
        CONNECTIONS_PER_ADDRESS_VARIABLE: str(settings.connections_per_address),
    }
    if settings.connections_exempt_cidrs:
        environment[CONNECTIONS_EXEMPT_VARIABLE] = " ".join(map(str, settings.connections_exempt_cidrs))
    return environment


def _resources(wanted: PodResources, *, default_cpu: str, default_memory: str) -> JsonObject:
    amounts = {"cpu": wanted.cpu or default_cpu, "memory": wanted.memory or default_memory}
    if wanted.ephemeral_storage:
        amounts["ephemeral-storage"] = wanted.ephemeral_storage
    return {"requests": dict(amounts), "limits": dict(amounts)}


def engine_probe(probes: Probes) -> JsonObject:
    """Ready while a warm engine lives in the pod, and the proxy beside it answers.

    Serve starts a proxy as soon as a replica begins to start, minutes before it answers. Of a replica over several pods
    only the one with the engine's own process is ready.
    """
    command = engine_probe_command(probes.timeout_seconds)
    return {"exec": {"command": command}, **_probe_times(probes, _failures(ENGINE_UNREADY_S, probes))}


def engine_probe_command(timeout_s: int) -> list[str]:
    """Asks for the engine's process, and then the proxy, which has this time to answer."""
    is_alive = f'kill -0 "$(cat {names.ENGINE_PID_PATH})"'
    health = f"http://127.0.0.1:{names.SERVE_PORT}/-/healthz"
    answers = f"wget --quiet --no-proxy --tries=1 --timeout={timeout_s} --output-document=/dev/null {health}"
    return ["sh", "-c", f"{is_alive} && {answers}"]


def _agent_probe(probes: Probes, *, failures: int) -> JsonObject:
    """Asks Ray's agent in the pod."""
    health = {"path": "/api/healthz", "port": names.DASHBOARD_AGENT_PORT, "scheme": "HTTP"}
    return {"httpGet": health, **_probe_times(probes, failures)}


def _failures(seconds: int, probes: Probes) -> int:
    """The failures in a row that take so long."""
    return max(1, seconds // probes.period_seconds)


def _probe_times(probes: Probes, failures: int) -> JsonObject:
    """KubeRay's own time-outs of 1 and 2 seconds flap beside an engine that is starting."""
    return {
        "initialDelaySeconds": 10,
        "periodSeconds": probes.period_seconds,
        "timeoutSeconds": probes.timeout_seconds,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


def _asking_no_more_than(pod: dict[str, str], container: JsonObject) -> JsonObject:
    """The scheduler counts an init container for the pod's whole life: a larger one would make the pod larger than
    spec.runtime.resources says."""
    amounts = container["resources"]["requests"]
    bounded = {resource: min(amount, pod[resource], key=_amount) for resource, amount in amounts.items()}
    return {**container, "resources": {part: dict(bounded) for part in ("requests", "limits")}}


def _amount(quantity: str) -> Decimal:
    amount = parse_quantity(quantity)
    assert amount is not None, quantity
    return amount


def _canary(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """The first, so that it looks at a pod that has nothing yet. Requests equal limits in all: QoS Guaranteed."""
    return _init_container(
        deployment,
        settings,
        name=names.CANARY_CONTAINER,
        command=["python", "-m", "conclave_serving.egress_canary", REPORT_PATH],
        amounts={"cpu": "250m", "memory": "128Mi"},
    )


def _verification(deployment: ModelDeployment, settings: OperatorSettings) -> list[JsonObject]:
    """A container for each digest, and one that keeps the pod until what these found unfit is mended.

    The same for every source: what a download compared can be changed by whoever may write to the claim. A worker that
    fails is deleted by KubeRay at once and made anew: what it found would be read again and again, and told for moments
    only.
    """
    model, draft = deployment.spec.model, deployment.spec.draft
    digests = [model.digest, *(adapter.digest for adapter in model.adapters), *([draft.digest] if draft else [])]
    verified = [
        (numbered(names.VERIFY_CONTAINER, number), digest, mount)
        for number, (digest, mount) in enumerate(zip(digests, weights_mounts(deployment), strict=True))
        if digest is not None
    ]
    notes = names.UNFIT_WEIGHTS_PATH
    verify = ["verify", "--report", REPORT_PATH, "--notes", notes, "--digest"]
    steps: list[tuple[str, list[str], tuple[JsonObject, ...]]] = [
        (name, [*verify, digest, mount["mountPath"]], (mount,)) for name, digest, mount in verified
    ]
    if steps:
        steps.append((names.AWAIT_CONTAINER, ["await", notes], tuple(mount for _, _, mount in verified)))
    return [
        _init_container(
            deployment,
            settings,
            name=name,
            command=["python", "-m", "conclave_weights", *arguments],
            amounts={"cpu": "1", "memory": "1Gi"},
            mounts=mounts,
        )
        for name, arguments, mounts in steps
    ]


def _init_container(
    deployment: ModelDeployment,
    settings: OperatorSettings,
    *,
    name: str,
    command: list[str],
    amounts: dict[str, str],
    mounts: tuple[JsonObject, ...] = (),
) -> JsonObject:
    """An init container that tells the operator how it ended. Requests equal limits: QoS Guaranteed."""
    return reporting_container(
        name,
        image(deployment, settings),
        command,
        resources={part: dict(amounts) for part in ("requests", "limits")},
        volumeMounts=[SCRATCH_MOUNTS[0], *mounts],
    )


def api_token_volume() -> JsonObject:
    """What automounting would give to every container of the pod; here only the autoscaler mounts it."""
    return {
        "name": names.API_TOKEN_VOLUME,
        "projected": {
            "defaultMode": 0o440,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ],
        },
    }

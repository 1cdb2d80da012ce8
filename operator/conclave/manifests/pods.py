"""Pod templates of a deployment's Ray head and workers: resources, placement, hardening, volumes, probes.

Called by `rayservice`. Whatever is in a template costs a second cluster when it changes (KubeRay hashes it), except
tolerations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from conclave.api.modeldeployment import (
    AdapterSource,
    ImageSource,
    ModelDeployment,
    ModelSource,
    PersistentVolumeClaimSource,
    PodResources,
)
from conclave.api.plan import Plan
from conclave.errors import InvalidInput
from conclave.manifests import names
from conclave.manifests.objects import without_empty
from conclave.manifests.secret import new_token_secret
from conclave.manifests.serving_arguments import (
    CONNECTIONS_EXEMPT_VARIABLE,
    CONNECTIONS_PER_ADDRESS_VARIABLE,
    RAY_ENVIRONMENT,
    TOKEN_FILE_VARIABLE,
)
from conclave.manifests.settings import OperatorSettings
from conclave.manifests.tracing import tracing_environment
from conclave.manifests.weights_cache import cached_source
from conclave.observation import JsonObject

USER_ID = 1000
HOME = "/home/conclave"
PROBE_TIMEOUT_S = 10
PROBE_PERIOD_S = 10
ENGINE_PROBE_FAILURES = 6
PROXY_DRAIN_S = ENGINE_PROBE_FAILURES * PROBE_PERIOD_S + 30
"""How long a proxy without a replica beside it goes on: longer than the Service takes to leave its pod out."""
TERMINATION_GRACE_PERIOD_S = 120
"""Serve drains its replicas in this time."""
HEAD_TERMINATION_GRACE_PERIOD_S = 30
"""Ray ends at once when it is told to, and KubeRay's autoscaler beside it, process 1 of its container, never does."""

CONTAINER_SECURITY: JsonObject = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY: JsonObject = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HOME": HOME,
    "RAY_ROTATION_BACKUP_COUNT": "1",
    "RAY_ROTATION_MAX_BYTES": str(64 << 20),
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(PROXY_DRAIN_S),
    **RAY_ENVIRONMENT,
    "TRANSFORMERS_OFFLINE": "1",
    "USER": "conclave",
    "VLLM_MAX_N_SEQUENCES": "16",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Nothing is reported or fetched; USER, since the image may not know the user's id. Ray's default keeps 3 GiB a log."""
FIXED_ENVIRONMENT: Mapping[str, str] = {**_ENVIRONMENT, names.ENGINE_PID_VARIABLE: names.ENGINE_PID_PATH}
"""All that pods are told whatever the spec; `recorded` knows forgeries by it."""

SCRATCH_MOUNTS: list[JsonObject] = [
    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
    {"name": "ray", "mountPath": "/tmp/ray"},  # noqa: S108
    {"name": "home", "mountPath": HOME},
]
"""The root is read-only. Ray's directory is apart, since KubeRay's autoscaler shares it with the head."""
_SCRATCH_GIB = {"tmp": 4, "ray": 20, "home": 16}
"""Caps, no reservations: a pod that fills one is evicted, before it fills its node's disk and takes others along.

tmp holds sockets and what libraries unpack; ray the logs of Ray and Serve (Serve's at most 3 GiB each) and objects that
its store has no room for; home the kernels that vLLM, Triton and CUDA compile (a few GiB).
"""


def head_template(deployment: ModelDeployment, settings: OperatorSettings, token_secret: str = "") -> JsonObject:
    """Control store, dashboard and ingress replicas; no GPU. Its own container gets no Kubernetes token."""
    resources = _resources(deployment.spec.runtime.resources.head, default_cpu="4", default_memory="8Gi")
    return _template(
        deployment,
        settings,
        component="head",
        token_secret=token_secret,
        resources=resources,
        shared_memory_gib=2,
        ports={
            "serve": names.SERVE_PORT,
            "dashboard": names.DASHBOARD_PORT,
            "gcs-server": names.GCS_PORT,
            "metrics": names.METRICS_PORT,
        },
        readiness_probe=_probe(names.DASHBOARD_AGENT_PORT, "/api/healthz", failures=12),
        grace_period_s=HEAD_TERMINATION_GRACE_PERIOD_S,
        volumes=[api_token_volume()],
        placed={"affinity": _affinity(_region_terms(deployment))},
    )


def worker_template(
    deployment: ModelDeployment, plan: Plan, settings: OperatorSettings, token_secret: str = ""
) -> JsonObject:
    """One pipeline stage of a replica, or an equal share of one: `gpus_per_node` GPUs of the planned accelerator."""
    vendor = names.gpu_vendor(plan.accelerator)
    gpus = plan.gpus_per_node
    # Ray's bundles take one CPU a rank, the engine and its ingress one more each; tokenizing and copying want the rest.
    resources = _resources(
        deployment.spec.runtime.resources.worker,
        default_cpu=str(1 + 2 * gpus),
        default_memory=f"{8 + 6 * gpus}Gi",
    )
    for part in ("requests", "limits"):
        resources[part][vendor.resource] = str(gpus)
    return _template(
        deployment,
        settings,
        component="worker",
        token_secret=token_secret,
        resources=resources,
        shared_memory_gib=2 + gpus,
        ports={"serve": names.SERVE_PORT, "metrics": names.METRICS_PORT},
        readiness_probe=engine_probe(),
        grace_period_s=TERMINATION_GRACE_PERIOD_S,
        environment={names.ENGINE_PID_VARIABLE: names.ENGINE_PID_PATH},
        init_containers=[_canary(deployment, settings), *_verification(deployment, settings)],
        placed=placement(deployment, plan),
    )


def placement(deployment: ModelDeployment, plan: Plan | None) -> JsonObject:
    """Which nodes a pod may go to: those of the deployment, with a plan only those of its accelerator."""
    hardware = deployment.spec.hardware
    tolerations = [toleration.to_wire() for toleration in hardware.tolerations]
    terms = _region_terms(deployment)
    if plan is not None:
        vendor = names.gpu_vendor(plan.accelerator)
        terms = [{"key": vendor.product_label, "operator": "In", "values": [plan.accelerator]}, *terms]
        tolerations = [{"key": vendor.resource, "operator": "Exists", "effect": "NoSchedule"}, *tolerations]
    return {"affinity": _affinity(terms), "nodeSelector": hardware.node_selector, "tolerations": tolerations}


def pull_secrets(deployment: ModelDeployment, settings: OperatorSettings) -> list[JsonObject]:
    """What the image is pulled with."""
    wanted = dict.fromkeys((*deployment.spec.runtime.image_pull_secrets, *settings.image_pull_secrets))
    return [{"name": name} for name in wanted]


def model_files(deployment: ModelDeployment) -> tuple[JsonObject, JsonObject]:
    """Volume and read-only mount of the model's own files; of a downloaded one, of the cache."""
    return _weights_volumes(deployment)[0], _weights_mounts(deployment)[0]


def image(deployment: ModelDeployment, settings: OperatorSettings) -> str:
    """The serving image of all containers."""
    return deployment.spec.runtime.image or settings.image


def _template(
    deployment: ModelDeployment,
    settings: OperatorSettings,
    *,
    component: str,
    token_secret: str,
    resources: JsonObject,
    shared_memory_gib: int,
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
        "image": image(deployment, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()],
        "resources": resources,
        "volumeMounts": [
            *SCRATCH_MOUNTS,
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - a volume of the pod's own
            {"name": names.TOKEN_VOLUME, "mountPath": names.TOKEN_DIRECTORY, "readOnly": True},
            *_weights_mounts(deployment),
        ],
        "livenessProbe": _probe(names.DASHBOARD_AGENT_PORT, "/api/healthz", failures=30),
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
            "securityContext": POD_SECURITY,
            "serviceAccountName": runtime.service_account_name,
            "terminationGracePeriodSeconds": grace_period_s,
            "volumes": [
                *({"name": name, "emptyDir": {"sizeLimit": f"{gib}Gi"}} for name, gib in _SCRATCH_GIB.items()),
                {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared_memory_gib}Gi"}},
                {
                    "name": names.TOKEN_VOLUME,
                    "secret": {"secretName": token_secret or new_token_secret(deployment), "defaultMode": 0o440},
                },
                *_weights_volumes(deployment),
                *(volumes or []),
            ],
        }
    )
    spec["automountServiceAccountToken"] = False
    return {"metadata": {"labels": names.labels(deployment.metadata.name, component)}, "spec": spec}


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
    return {"requests": dict(amounts), "limits": dict(amounts)}


def engine_probe() -> JsonObject:
    """Ready while a warm engine lives in the pod, and the proxy beside it answers.

    Serve starts a proxy as soon as a replica begins to start, minutes before it answers. Of a replica over several pods
    only the one with the engine's own process is ready.
    """
    is_alive = f'kill -0 "$(cat {names.ENGINE_PID_PATH})"'
    health = f"http://127.0.0.1:{names.SERVE_PORT}/-/healthz"
    answers = f"wget --quiet --no-proxy --tries=1 --timeout={PROBE_TIMEOUT_S} --output-document=/dev/null {health}"
    return {"exec": {"command": ["sh", "-c", f"{is_alive} && {answers}"]}, **_probe_times(ENGINE_PROBE_FAILURES)}


def _probe(port: int, path: str, *, failures: int) -> JsonObject:
    return {"httpGet": {"path": path, "port": port, "scheme": "HTTP"}, **_probe_times(failures)}


def _probe_times(failures: int) -> JsonObject:
    """KubeRay's own time-outs of 1 and 2 seconds flap beside an engine that is starting."""
    return {
        "initialDelaySeconds": 10,
        "periodSeconds": PROBE_PERIOD_S,
        "timeoutSeconds": PROBE_TIMEOUT_S,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


def _canary(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """The first, so that it looks at a pod that has nothing yet. Requests equal limits in all: QoS Guaranteed."""
    return _init_container(
        deployment,
        settings,
        name=names.CANARY_CONTAINER,
        command=["python", "-m", "conclave_serving.egress_canary", names.TERMINATION_MESSAGE_PATH],
        amounts={"cpu": "250m", "memory": "128Mi"},
    )


def _verification(deployment: ModelDeployment, settings: OperatorSettings) -> list[JsonObject]:
    """A container for each digest, and one that keeps the pod until what these found unfit is mended.

    The same for every source: what a download compared can be changed by whoever may write to the claim. A worker that
    fails is deleted by KubeRay at once and made anew: what it found would be read again and again, and told for moments
    only.
    """
    model = deployment.spec.model
    digests = (model.digest, *(adapter.digest for adapter in model.adapters))
    verified = [
        (_numbered(names.VERIFY_CONTAINER, number), digest, mount)
        for number, (digest, mount) in enumerate(zip(digests, _weights_mounts(deployment), strict=True))
        if digest is not None
    ]
    notes = names.UNFIT_WEIGHTS_PATH
    verify = ["verify", "--report", names.TERMINATION_MESSAGE_PATH, "--notes", notes, "--digest"]
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
    """It tells the operator how it ended by its termination message."""
    return {
        "name": name,
        "image": image(deployment, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "command": command,
        "resources": {part: dict(amounts) for part in ("requests", "limits")},
        "volumeMounts": [SCRATCH_MOUNTS[0], *mounts],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": names.TERMINATION_MESSAGE_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _directories(deployment: ModelDeployment) -> Iterator[tuple[PersistentVolumeClaimSource | ImageSource, str]]:
    """Where the model's files and then each adapter's come from, and where they are mounted."""
    model = deployment.spec.model
    yield cached_source(deployment) or _chosen(model.source), names.MODEL_PATH
    for adapter in model.adapters:
        yield _chosen(adapter.source), names.adapter_path(adapter.name)


def _chosen(source: ModelSource | AdapterSource) -> PersistentVolumeClaimSource | ImageSource:
    chosen = source.persistent_volume_claim or source.image
    if chosen is None:
        raise InvalidInput("a source of spec.model is empty; expected persistentVolumeClaim or image: name one of them")
    return chosen


def _volume_names(deployment: ModelDeployment) -> dict[PersistentVolumeClaimSource | ImageSource, str]:
    """By the source without its path: what two of them name is one volume, mounted twice."""
    whole = dict.fromkeys(source.model_copy(update={"path": ""}) for source, _ in _directories(deployment))
    return {source: _numbered(names.WEIGHTS_VOLUME, number) for number, source in enumerate(whole)}


def _numbered(name: str, number: int) -> str:
    return f"{name}-{number}" if number else name


def _weights_volumes(deployment: ModelDeployment) -> list[JsonObject]:
    return [_weights_volume(name, source) for source, name in _volume_names(deployment).items()]


def _weights_volume(name: str, source: PersistentVolumeClaimSource | ImageSource) -> JsonObject:
    if isinstance(source, ImageSource):
        return {"name": name, "image": {"reference": source.reference, "pullPolicy": "IfNotPresent"}}
    return {"name": name, "persistentVolumeClaim": {"claimName": source.claim_name, "readOnly": True}}


def _weights_mounts(deployment: ModelDeployment) -> list[JsonObject]:
    volumes = _volume_names(deployment)
    return [
        without_empty(
            {
                "name": volumes[source.model_copy(update={"path": ""})],
                "mountPath": mount_path,
                "readOnly": True,
                "subPath": source.path,
            }
        )
        for source, mount_path in _directories(deployment)
    ]


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


def _region_terms(deployment: ModelDeployment) -> list[JsonObject]:
    regions = deployment.spec.access.regions
    return [{"key": names.REGION, "operator": "In", "values": list(regions)}] if regions else []


def _affinity(terms: list[JsonObject]) -> JsonObject | None:
    if not terms:
        return None
    required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}

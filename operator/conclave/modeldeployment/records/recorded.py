"""What the builders of every version put into a RayService, as types: a record that says anything else is not ours.

A field that is not declared here is refused, and with it hostPath, privileged, host networks, added capabilities,
`command` of an engine, `valueFrom` and whatever Kubernetes adds. Values stay as the API server has them; the types only
look. Read by `record_check`. What builds once wrote stays allowed for ever: models run by it (tests/data/records).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from conclave import names
from conclave.api.rules import BrokenRulesError
from conclave.engine.arguments import (
    CONNECTIONS_EXEMPT_VARIABLE,
    CONNECTIONS_PER_ADDRESS_VARIABLE,
    TOKEN_FILE_VARIABLE,
)
from conclave.engine.tracing import SPAN_PROCESSORS
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.pods import HOME, SCRATCH_MOUNTS
from conclave.modeldeployment.serving.pods import FIXED_ENVIRONMENT, api_token_volume, engine_probe_command, own_address
from conclave.settings import OperatorSettings

FIXED_VARIABLES: Mapping[str, tuple[str, ...]] = {
    **{name: (value,) for name, value in FIXED_ENVIRONMENT.items()},
    "HOME": (HOME, "/tmp"),  # noqa: S108 - the latter of the autoscaler
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf",),
    "OTEL_TRACES_SAMPLER": ("always_off",),
    "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": (SPAN_PROCESSORS,),
    TOKEN_FILE_VARIABLE: (names.TOKEN_PATH,),
}
"""Environment of pods: each name with the values that builds have given it."""
FREE_VARIABLES = (
    CONNECTIONS_EXEMPT_VARIABLE,
    CONNECTIONS_PER_ADDRESS_VARIABLE,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "RAY_SERVE_TRACING_SAMPLING_RATIO",
)
"""Those whose value the spec or the operator's settings say."""
_PATHS = {
    **{mount["name"]: mount["mountPath"] for mount in SCRATCH_MOUNTS},
    "shared-memory": "/dev/shm",  # noqa: S108 - a volume of the pod's own
    names.TOKEN_VOLUME: names.TOKEN_DIRECTORY,
    names.API_TOKEN_VOLUME: names.API_TOKEN_DIRECTORY,
}
"""Where each volume is mounted; those of weights below /models, where nothing looks for programs."""
_EMPTY = (*(mount["name"] for mount in SCRATCH_MOUNTS), "shared-memory")
"""Volumes of the pod's own."""
_WEIGHTS_VOLUME = re.compile(rf"{names.WEIGHTS_VOLUME}(-[0-9]+)?")
_WEIGHTS_PATH = re.compile(r"/models(/(?!\.)[A-Za-z0-9._+=@-]+)+")
_IPV6 = OperatorSettings(image="any", ip_family="IPv6")
_OWN_ADDRESS = own_address(_IPV6)
_IPV6_OPTIONS = (("dashboard-host", _IPV6.any_address), ("node-ip-address", f"${names.HOST_IP_VARIABLE}"))
"""What builds give to pods of IPv6 besides."""
REQUIRED_VARIABLES = frozenset(FIXED_ENVIRONMENT) - {names.ENGINE_PID_VARIABLE, "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S"}
"""What every build told the head and the workers: without it they would report, fetch, or take steering headers."""
PROGRAMS = ("conclave_serving.egress_canary", "conclave_weights")
"""What init containers run: `python -m` one of these."""


class _Recorded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, strict=True)


def _is_one_of_ours(variable: _Variable) -> _Variable:
    if variable.value_from is not None:
        if variable.to_wire() in _OWN_ADDRESS:
            return variable
        raise BrokenRulesError([f"no version of the operator takes the variable {variable.name!r} from elsewhere"])
    if variable.name in FREE_VARIABLES or variable.value in FIXED_VARIABLES.get(variable.name, ()):
        return variable
    raise BrokenRulesError([f"no version of the operator sets the variable {variable.name!r} to {variable.value!r}"])


def _is_conclaves(command: list[str]) -> list[str]:
    if command[:2] == ["python", "-m"] and command[2:3] and command[2] in PROGRAMS:
        return command
    raise BrokenRulesError([f"the command {command[:4]!r} is not one of `python -m` {' or '.join(PROGRAMS)}"])


def _are_all_there(variables: list[_Variable]) -> list[_Variable]:
    if missing := sorted(REQUIRED_VARIABLES - {variable.name for variable in variables}):
        raise BrokenRulesError(
            [f"the variables {', '.join(missing)} are missing; every version of the operator sets them"]
        )
    return variables


def _is_start_option(options: dict[str, str]) -> dict[str, str]:
    """KubeRay writes them into a shell command."""
    for name, value in options.items():
        is_number = name in ("dashboard-host", "num-gpus", "object-store-memory") and not value.strip("0123456789.")
        if not is_number and (name, value) not in _IPV6_OPTIONS:
            raise BrokenRulesError(
                [f"no version of the operator gives `ray start` the option {name!r} with the value {value!r}"]
            )
    return options


def _is_api_token(projected: JsonObject) -> JsonObject:
    if projected != api_token_volume()["projected"]:
        raise BrokenRulesError(["the volume projects something other than the autoscaler's token for the API server"])
    return projected


class _Variable(_Recorded):
    name: str
    value: str | None = None
    value_from: JsonObject | None = None

    def to_wire(self) -> JsonObject:
        return self.model_dump(by_alias=True, exclude_unset=True)


Variable = Annotated[_Variable, AfterValidator(_is_one_of_ours)]


class _Capabilities(_Recorded):
    drop: Annotated[list[Literal["ALL"]], Field(min_length=1)]


class _ContainerSecurity(_Recorded):
    allow_privilege_escalation: Literal[False]
    capabilities: _Capabilities
    read_only_root_filesystem: Literal[True]


class _Profile(_Recorded):
    type: Literal["RuntimeDefault"]


class _PodSecurity(_Recorded):
    """Without ids where the platform assigns them."""

    run_as_non_root: Literal[True]
    run_as_user: int | None = Field(default=None, ge=1)
    run_as_group: int | None = Field(default=None, ge=1)
    fs_group: int | None = Field(default=None, ge=1)
    fs_group_change_policy: str
    seccomp_profile: _Profile


class _Mount(_Recorded):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""

    @model_validator(mode="after")
    def _is_where_builds_mount_it(self) -> _Mount:
        path = _PATHS.get(self.name)
        if path != self.mount_path and not (
            path is None and _WEIGHTS_VOLUME.fullmatch(self.name) and _WEIGHTS_PATH.fullmatch(self.mount_path)
        ):
            raise BrokenRulesError(
                [f"no version of the operator mounts the volume {self.name!r} at {self.mount_path!r}"]
            )
        return self


class _Port(_Recorded):
    name: str
    container_port: int
    protocol: str


class _Resources(_Recorded):
    requests: dict[str, str]
    limits: dict[str, str]


class _HttpGet(_Recorded):
    path: str
    port: int
    scheme: str


class _Exec(_Recorded):
    command: list[str]


class _Probe(_Recorded):
    http_get: _HttpGet | None = None
    exec: _Exec | None = None
    initial_delay_seconds: int
    period_seconds: int
    timeout_seconds: int
    success_threshold: int
    failure_threshold: int

    @model_validator(mode="after")
    def _runs_what_builds_run(self) -> _Probe:
        if self.exec is not None and self.exec.command != engine_probe_command(self.timeout_seconds):
            raise BrokenRulesError([f"a probe runs {self.exec.command[:4]!r}; no version of the operator writes this"])
        return self


class _Container(_Recorded):
    name: str
    image: str
    image_pull_policy: str
    resources: _Resources
    volume_mounts: list[_Mount]
    security_context: _ContainerSecurity
    termination_message_path: str = ""
    termination_message_policy: str

    @model_validator(mode="after")
    def _has_no_api_token(self) -> _Container:
        if any(mount.name == names.API_TOKEN_VOLUME for mount in self.volume_mounts):
            raise BrokenRulesError(["the token for the API server is mounted outside of the autoscaler"])
        return self


class Engine(_Container):
    """Ray's own container; KubeRay writes its command."""

    env: Annotated[list[Variable], AfterValidator(_are_all_there)]
    ports: list[_Port]
    liveness_probe: _Probe
    readiness_probe: _Probe


class Step(_Container):
    """An init container."""

    command: Annotated[list[str], AfterValidator(_is_conclaves)]


class _EmptyDir(_Recorded):
    medium: Literal["", "Memory"] = ""
    size_limit: str


class _SecretVolume(_Recorded):
    secret_name: str
    default_mode: int


class _ClaimVolume(_Recorded):
    claim_name: str
    read_only: Literal[True]


class _ImageVolume(_Recorded):
    reference: str
    pull_policy: str


class Volume(_Recorded):
    """A volume of a kind that a version of the operator writes."""

    name: str
    empty_dir: _EmptyDir | None = None
    secret: _SecretVolume | None = None
    persistent_volume_claim: _ClaimVolume | None = None
    image: _ImageVolume | None = None
    projected: Annotated[JsonObject, AfterValidator(_is_api_token)] | None = None

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> Volume:
        kinds = {"secret": (names.TOKEN_VOLUME,), "projected": (names.API_TOKEN_VOLUME,), "empty_dir": _EMPTY}
        for kind in self.model_fields_set - {"name"}:
            if self.name not in kinds.get(kind, ()) and not (
                kind not in kinds and _WEIGHTS_VOLUME.fullmatch(self.name)
            ):
                raise BrokenRulesError(
                    [f"no version of the operator gives the volume {self.name!r} the kind {to_camel(kind)}"]
                )
        return self


class _Named(_Recorded):
    name: str


class _Expression(_Recorded):
    key: str
    operator: Literal["In"]
    values: list[str]


class _Term(_Recorded):
    match_expressions: list[_Expression]


class _Terms(_Recorded):
    node_selector_terms: list[_Term]


class _NodeAffinity(_Recorded):
    required_during_scheduling_ignored_during_execution: _Terms


class _Affinity(_Recorded):
    node_affinity: _NodeAffinity

    @property
    def terms(self) -> list[_Term]:
        return self.node_affinity.required_during_scheduling_ignored_during_execution.node_selector_terms


class _Toleration(_Recorded):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    toleration_seconds: int | None = None


class PodSpec(_Recorded):
    """The pod of a head or a worker."""

    containers: Annotated[list[Engine], Field(min_length=1, max_length=1)]
    init_containers: list[Step] = []
    volumes: list[Volume]
    security_context: _PodSecurity
    automount_service_account_token: Literal[False]
    service_account_name: str | None = None
    affinity: _Affinity | None = None
    node_selector: dict[str, str] | None = None
    tolerations: list[_Toleration] | None = None
    image_pull_secrets: list[_Named] | None = None
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    termination_grace_period_seconds: int


class _PodMetadata(_Recorded):
    labels: dict[str, str]
    annotations: dict[str, str]


class Template(_Recorded):
    metadata: _PodMetadata
    spec: PodSpec


class _Head(_Recorded):
    service_type: Literal["ClusterIP"]
    ray_start_params: Annotated[dict[str, str], AfterValidator(_is_start_option)]
    template: Template


class _Workers(_Recorded):
    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int
    num_of_hosts: int
    ray_start_params: Annotated[dict[str, str], AfterValidator(_is_start_option)]
    template: Template


class _Autoscaler(_Recorded):
    version: str
    idle_timeout_seconds: int
    image_pull_policy: str
    security_context: _ContainerSecurity
    env: list[Variable]
    resources: _Resources
    volume_mounts: list[_Mount]


class _Authentication(_Recorded):
    mode: Literal["token"]


class Cluster(_Recorded):
    """`rayClusterConfig`."""

    ray_version: str
    suspend: bool
    auth_options: _Authentication
    enable_in_tree_autoscaling: Literal[True]
    autoscaler_options: _Autoscaler
    head_group_spec: _Head
    worker_group_specs: Annotated[list[_Workers], Field(min_length=1, max_length=1)]

    @property
    def templates(self) -> dict[str, Template]:
        """By component."""
        return {"head": self.head_group_spec.template, "worker": self.worker_group_specs[0].template}


class _UpgradeStrategy(_Recorded):
    type: str


class _Spec(_Recorded):
    upgrade_strategy: _UpgradeStrategy
    serve_config_v2: str = Field(max_length=65_536)
    ray_cluster_config: Cluster


class Owner(_Recorded):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: Literal[True]
    block_owner_deletion: bool


class _Metadata(_Recorded):
    name: str
    namespace: str
    labels: dict[str, str]
    annotations: dict[str, str]
    owner_references: list[Owner]


class RecordedRayService(_Recorded):
    """The whole object."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: _Metadata
    spec: _Spec


def first_difference(error: ValidationError) -> str:
    """Where and what, fields of nobody's first; without the value, which is a forger's and may be of any size."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first, *others = sorted(found, key=lambda details: details["type"] != "extra_forbidden")
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).removeprefix(".")
    what = "no version of the operator writes this field" if first["type"] == "extra_forbidden" else first["msg"]
    return f"{path}: {what}" + (f" (and {len(others)} more)" if others else "")

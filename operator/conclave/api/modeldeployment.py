"""ModelDeployment v1alpha1: what a user writes. `crd.py` generates the CRD from these types.

v1alpha1 changes only by addition. A field that nothing reads does not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from conclave.api.base import ApiModel
from conclave.api.formats import (
    AcceleratorName,
    CommitHash,
    DataClassName,
    Dns1035Name,
    DnsName,
    ImageReference,
    LabelKey,
    LabelValue,
    LicenceId,
    ModelId,
    NamespaceName,
    NodeSelector,
    ObjectStoreUri,
    OwnNames,
    PinnedImageReference,
    Quantity,
    RegionName,
    RelativePath,
    SamplingRatio,
    ServedName,
    Sha256Digest,
    StoreEndpoint,
    TargetConcurrency,
    TraceEndpoint,
)
from conclave.api.plan import Plan
from conclave.api.rules import ChangeRule, Message, Rule

GROUP = "conclave.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["conclave.dev/v1alpha1"] = "conclave.dev/v1alpha1"
KIND: Literal["ModelDeployment"] = "ModelDeployment"
PLURAL = "modeldeployments"


class PersistentVolumeClaimSource(ApiModel):
    """Weights on a claim in the deployment's own namespace, mounted read-only."""

    claim_name: DnsName
    """Name of a PersistentVolumeClaim in the same namespace."""
    path: RelativePath = ""
    """Directory of the weights below the volume's root; relative, without `..`."""


class ImageSource(ApiModel):
    """Weights in an OCI image, mounted read-only as an image volume (Kubernetes 1.33 and later)."""

    reference: PinnedImageReference
    """The image's reference, pinned by digest: registry/repository@sha256:..."""
    path: RelativePath = ""
    """Directory of the weights below the image's root; relative, without `..`."""


class ObjectStoreSource(ApiModel):
    """Weights in an object store that speaks S3; downloaded once into `model.cache`, for all replicas."""

    uri: ObjectStoreUri
    """Bucket and path: s3://bucket/path. Hidden objects (a part of the path begins with a dot) are left out."""
    endpoint: StoreEndpoint | None = None
    """Base URL of another store than Amazon's, for instance https://minio.storage.svc:9000."""
    region: RegionName | None = None
    """Region of the bucket; us-east-1 where left out."""
    secret_name: DnsName
    """Secret of the same namespace with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where the credentials
    are temporary, AWS_SESSION_TOKEN."""


class AdapterSource(ApiModel):
    """Where an adapter's files are: exactly one."""

    rules = (
        Rule(
            "has(self.persistentVolumeClaim) != has(self.image)",
            lambda source: (source.persistent_volume_claim is None) != (source.image is None),
            Message("exactly one source is needed, persistentVolumeClaim or image: none or both are given"),
        ),
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    image: ImageSource | None = None


class ModelSource(ApiModel):
    """Where the weights come from: exactly one."""

    rules = (
        Rule(
            "[has(self.persistentVolumeClaim), has(self.image), has(self.objectStore)].exists_one(given, given)",
            lambda source: sum(map(bool, (source.persistent_volume_claim, source.image, source.object_store))) == 1,
            Message(
                "exactly one source is needed, persistentVolumeClaim, image or objectStore: none or several are given"
            ),
        ),
    )

    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    image: ImageSource | None = None
    object_store: ObjectStoreSource | None = None


class Cache(ApiModel):
    """The volume that keeps downloaded weights: one PersistentVolumeClaim, made by the operator, deleted with the
    deployment."""

    storage_class_name: DnsName | None = None
    """Storage class of the claim; the cluster's default where left out. Never changes once the claim is made."""
    size: Quantity
    """Size of the claim. The weights twice, where another digest or address is to be rolled out while these serve."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = "ReadWriteMany"
    """ReadWriteOnce where the storage class has nothing else: all pods of the deployment then share one node."""


class ConfigReference(ApiModel):
    """A ConfigMap of the same namespace with the model's `config.json`."""

    name: DnsName


class Licence(ApiModel):
    """The owner's word that a licence was read and is kept."""

    accepted: LicenceId
    """The licence's id, as `conclave models show` prints it."""


class Adapter(ApiModel):
    """A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors."""

    name: ServedName
    """The model name that clients send to be answered with it; another one than the base model's."""
    source: AdapterSource
    """Where its files are: `persistentVolumeClaim` or `image`; the model's own claim may hold them too."""
    max_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    """At least its `r` in adapter_config.json. Each GPU sets memory for the largest of all adapters aside for each."""
    digest: Sha256Digest | None = None
    """Digest of its files, as `conclave weights digest` prints it; checked before the engine starts."""


class Model(ApiModel):
    """Which model, under which name, from which weights."""

    rules = (
        Rule(
            "!has(self.servedName) || !has(self.adapters)"
            " || self.adapters.all(adapter, adapter.name != self.servedName)",
            lambda model: model.served_name not in [adapter.name for adapter in model.adapters],
            Message('adapters: the name "{servedName}" is the servedName of the base model: give each one of its own'),
        ),
        Rule(
            "has(self.source.objectStore) == has(self.cache)",
            lambda model: (model.source.object_store is None) == (model.cache is None),
            Message("cache is needed with source.objectStore, which is downloaded into it, and with no other source"),
        ),
    )

    id: ModelId
    """A catalogue entry, for instance `mistralai/Mixtral-8x7B-Instruct-v0.1`; what another id is, the config.json
    beside its weights says, or `configRef`."""
    served_name: ServedName | None = None
    """The model name that clients send; the object's name where left out. Never changes."""
    revision: CommitHash | None = None
    """Commit of the hub repository that the weights are a copy of; recorded with every object that serves them."""
    source: ModelSource
    """Where the weights come from: `persistentVolumeClaim`, `image` or `objectStore`."""
    cache: Cache | None = None
    """Where a downloaded source is kept, shared by replicas; needed with `source.objectStore`, and only there."""
    config_ref: ConfigReference | None = None
    """`config.json` of a fine-tune, or of a model that the catalogue does not know, whose weights need not be looked at
    then."""
    digest: Sha256Digest | None = None
    """Digest of the weights' files, as `conclave weights digest` prints it; checked before the engine starts."""
    licence: Licence | None = None
    adapters: Annotated[tuple[Adapter, ...], Field(max_length=16), OwnNames()] = ()
    """LoRA adapters, each served under its own name beside the base model and by the same replicas."""

    @property
    def claims(self) -> tuple[str, ...]:
        """Names of the PersistentVolumeClaims that the spec names, of the model and its adapters, each once."""
        sources: tuple[ModelSource | AdapterSource, ...] = (self.source, *(adapter.source for adapter in self.adapters))
        claims = (source.persistent_volume_claim for source in sources)
        return tuple(dict.fromkeys(claim.claim_name for claim in claims if claim))


class Dtype(StrEnum):
    """Type of weights without quantization, and of activations."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Quantization(StrEnum):
    """`none` keeps what the checkpoint says; `fp8_per_tensor` quantizes at load, as does `fp8`, its older name."""

    NONE = "none"
    FP8_PER_TENSOR = "fp8_per_tensor"
    FP8 = "fp8"
    AWQ = "awq"
    GPTQ = "gptq"


class KvCacheDtype(StrEnum):
    """Type of the KV cache's entries."""

    AUTO = "auto"
    FP8 = "fp8"


def _at_most(values: Mapping[str, str], less: str, more: str) -> bool:
    """Whether two whole numbers are in order; what is no whole number is refused by the allowlist."""
    numbers = [values.get(name, "") for name in (less, more)]
    return not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers) or int(numbers[0]) <= int(numbers[1])


class Engine(ApiModel):
    """How vLLM runs the model; what is left out is planned."""

    rules = (
        Rule(
            "!has(self.extraArgs) || !('enable_auto_tool_choice' in self.extraArgs)"
            " || self.extraArgs['enable_auto_tool_choice'] != 'true' || 'tool_call_parser' in self.extraArgs",
            lambda engine: (
                engine.extra_args.get("enable_auto_tool_choice") != "true" or "tool_call_parser" in engine.extra_args
            ),
            Message("extraArgs: enable_auto_tool_choice is 'true' without a tool_call_parser: give one as well"),
        ),
        Rule(
            "!has(self.extraArgs) || !['max_num_seqs', 'max_num_batched_tokens'].all(name, name in self.extraArgs"
            " && self.extraArgs[name].matches('^[0-9]{1,9}$'))"
            " || int(self.extraArgs['max_num_seqs']) <= int(self.extraArgs['max_num_batched_tokens'])",
            lambda engine: _at_most(engine.extra_args, "max_num_seqs", "max_num_batched_tokens"),
            Message(
                "extraArgs: max_num_seqs {extraArgs.max_num_seqs} is more than max_num_batched_tokens "
                "{extraArgs.max_num_batched_tokens}: a step has at least one token of each sequence"
            ),
        ),
    )

    max_model_len: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    """Longest prompt plus completion, in tokens."""
    dtype: Dtype = Dtype.AUTO
    quantization: Quantization = Quantization.NONE
    kv_cache_dtype: KvCacheDtype = KvCacheDtype.AUTO
    extra_args: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Further vLLM engine arguments, from the allowlist in docs/engine-arguments.md; values are strings."""
    env: Annotated[
        dict[str, Annotated[str, Field(max_length=256)]],
        Field(max_length=32),
    ] = Field(default_factory=dict)
    """Environment of the engine's processes, from the allowlist in docs/engine-arguments.md."""


class Toleration(ApiModel):
    """A Kubernetes toleration."""

    rules = (
        Rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value)",
            lambda toleration: toleration.operator != "Exists" or toleration.value is None,
            Message('value "{value|}" is given with operator Exists: leave it out, or use Equal'),
        ),
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            lambda toleration: toleration.key is not None or toleration.operator == "Exists",
            Message("without a key the operator must be Exists (which tolerates every taint), not {operator|Equal}"),
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
            Message("tolerationSeconds {tolerationSeconds|} needs effect NoExecute, not {effect|any effect}"),
        ),
    )

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None


class Hardware(ApiModel):
    """On which nodes; without `accelerators` every known one in the cluster is considered."""

    accelerators: Annotated[tuple[AcceleratorName, ...], Field(max_length=16)] = ()
    """Accelerators in order of preference, as the node label spells them (matched by prefix)."""
    max_gpus_per_replica: Annotated[int, Field(ge=1, le=1024)] = 8
    """Most GPUs that one replica may take."""
    node_selector: NodeSelector = Field(default_factory=dict)
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()


class Parallelism(ApiModel):
    """What is left out is planned, what is given is checked."""

    rules = (
        Rule(
            "self.data == 1",
            lambda parallelism: parallelism.data == 1,
            Message("data {data} is not served yet: only 1 is allowed; scale with scaling.maxReplicas instead"),
        ),
    )

    tensor: Annotated[int, Field(ge=1, le=64)] | None = None
    """Tensor-parallel size."""
    pipeline: Annotated[int, Field(ge=1, le=64)] | None = None
    """Pipeline-parallel size."""
    data: Annotated[int, Field(ge=1, le=64)] = 1
    """Data-parallel size; only 1 is served today."""
    expert_parallel: bool | None = None
    """Whether experts are spread over the tensor-parallel ranks instead of being sliced."""


class Scaling(ApiModel):
    """How many replicas, and from which load."""

    rules = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            lambda scaling: scaling.min_replicas <= scaling.max_replicas,
            Message(
                "minReplicas {minReplicas} is more than maxReplicas {maxReplicas}: "
                "raise scaling.maxReplicas to at least {minReplicas}, or lower scaling.minReplicas"
            ),
        ),
    )

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Floor of replicas, what `kubectl scale` sets; 0 scales to zero when idle."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Ceiling of replicas; `kubectl scale` beyond it is refused."""
    target_concurrency: TargetConcurrency = "auto"
    """Requests in flight that a replica should carry; `auto` takes it from the plan."""
    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900
    """Seconds of low load before a replica is taken away."""


class PodResources(ApiModel):
    """CPU and memory of a pod, as request and limit; GPUs come from the plan."""

    cpu: Quantity | None = None
    memory: Quantity | None = None


class RuntimeResources(ApiModel):
    """Resources of the head pod and of each worker pod."""

    head: PodResources = Field(default_factory=PodResources)
    worker: PodResources = Field(default_factory=PodResources)


class Runtime(ApiModel):
    """The pods that serve."""

    image: ImageReference | None = None
    """Serving image; the operator's default where left out. Others only as far as the chart's `serving.allowedImages`
    lists them."""
    image_pull_secrets: Annotated[tuple[DnsName, ...], Field(max_length=8)] = ()
    """Names of image pull Secrets of the same namespace."""
    priority_class_name: DnsName | None = None
    service_account_name: DnsName | None = None
    """Service account of the pods, whose token only the head's autoscaler holds; KubeRay makes one where left out. Only
    those that the chart's `serving.allowedServiceAccounts` lists."""
    resources: RuntimeResources = Field(default_factory=RuntimeResources)


class Access(ApiModel):
    """Who may call, and where the data may be."""

    data_class: DataClassName
    """Data class of the prompts that may be sent here; one of the operator's ordered list
    (public, internal, confidential, restricted where nothing else is configured)."""
    regions: Annotated[tuple[LabelValue, ...], Field(max_length=16)] = ()
    """Regions (topology.kubernetes.io/region) that pods may run in; any where empty."""
    allowed_namespaces: Annotated[tuple[NamespaceName, ...], Field(max_length=64)] = ()
    """Namespaces whose pods may reach the endpoint, besides the deployment's own gateway."""


class Tracing(ApiModel):
    """Traces of requests, by OTLP over HTTP; never with a prompt or an answer in them (docs/observability.md)."""

    endpoint: TraceEndpoint
    """Base URL of the collector, for instance http://collector.telemetry.svc:4318; spans go to /v1/traces below it."""
    sampling_ratio: SamplingRatio = "0.01"
    """Share of the requests without a `traceparent` that are traced; a client's `traceparent` says it for its own."""


class Telemetry(ApiModel):
    """What the serving processes report, and to whom."""

    tracing: Tracing | None = None


class ModelDeploymentSpec(ApiModel):
    """One model, served."""

    rules = (
        Rule(
            "(has(self.parallelism.tensor) ? self.parallelism.tensor : 1)"
            " * (has(self.parallelism.pipeline) ? self.parallelism.pipeline : 1)"
            " * self.parallelism.data <= self.hardware.maxGpusPerReplica",
            lambda spec: (
                (spec.parallelism.tensor or 1) * (spec.parallelism.pipeline or 1) * spec.parallelism.data
                <= spec.hardware.max_gpus_per_replica
            ),
            Message(
                "parallelism: tensor {parallelism.tensor|1} x pipeline {parallelism.pipeline|1} x data "
                "{parallelism.data} is more than hardware.maxGpusPerReplica {hardware.maxGpusPerReplica}: "
                "raise that, or lower a size"
            ),
        ),
    )

    model: Model
    """Which model, under which name, from which weights: `id` and `source` must be given."""
    engine: Engine = Field(default_factory=Engine)
    hardware: Hardware = Field(default_factory=Hardware)
    parallelism: Parallelism = Field(default_factory=Parallelism)
    scaling: Scaling = Field(default_factory=Scaling)
    runtime: Runtime = Field(default_factory=Runtime)
    access: Access
    """Who may call, and where the data may be; `dataClass` must be given."""
    telemetry: Telemetry = Field(default_factory=Telemetry)
    """What the serving processes report, and to whom; nothing where left out. A change of it is a rollout."""
    suspend: bool = False
    """Stops all pods and keeps the object, its plan and its token."""


class Condition(ApiModel):
    """A Kubernetes condition."""

    type: Annotated[str, Field(max_length=63)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    message: Annotated[str, Field(max_length=32768)] = ""
    observed_generation: Annotated[int, Field(ge=0)]
    last_transition_time: Annotated[str, Field(max_length=32)]


class Endpoint(ApiModel):
    """Where the model answers."""

    url: Annotated[str, Field(max_length=512)]
    model: Annotated[str, Field(max_length=96)]
    token_secret: Annotated[str, Field(max_length=253)]
    """Secret of the same namespace; key `token`."""


class ModelDeploymentStatus(ApiModel):
    """What the operator observed; it is never read back as truth."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()
    plan: Plan | None = None
    replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that are wanted: the floor, or what load has had pods made for."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that answer; the condition Scaled says what the others wait for."""
    selector: Annotated[str, Field(max_length=512)] = ""
    endpoint: Endpoint | None = None


class ObjectMeta(ApiModel):
    """The part of metadata that Conclave reads; the rest is kept out of the way."""

    model_config = ConfigDict(extra="ignore")

    name: Dns1035Name
    namespace: NamespaceName = "default"
    uid: str = ""
    generation: int = 0
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    deletion_timestamp: str | None = None


class ModelDeployment(ApiModel):
    """An OpenAI-compatible endpoint of one model, served by Ray Serve and vLLM."""

    change_rules: ClassVar[tuple[ChangeRule, ...]] = (
        ChangeRule(
            "(has({object}.spec.model.servedName) ? {object}.spec.model.servedName : {object}.metadata.name)",
            "spec.model.servedName never changes, because clients send it: it is {before} (the object's name where "
            "left out) and cannot become {after}; make a new ModelDeployment for a new name",
        ),
    )
    rules = (
        Rule(
            "has(self.spec.model.servedName) || !has(self.spec.model.adapters)"
            " || self.spec.model.adapters.all(adapter, adapter.name != self.metadata.name)",
            lambda deployment: (
                deployment.spec.model.served_name is not None
                or deployment.metadata.name not in [adapter.name for adapter in deployment.spec.model.adapters]
            ),
            Message(
                'spec.model.adapters: the name "{metadata.name}" is the base model\'s, since servedName is left out: '
                "give each one of its own"
            ),
        ),
    )

    api_version: Literal["conclave.dev/v1alpha1"] = API_VERSION
    kind: Literal["ModelDeployment"] = KIND
    metadata: ObjectMeta
    spec: ModelDeploymentSpec
    status: ModelDeploymentStatus | None = None

    @property
    def served_name(self) -> str:
        """The model name that clients send."""
        return self.spec.model.served_name or self.metadata.name

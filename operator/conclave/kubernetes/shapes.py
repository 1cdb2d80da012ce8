"""What Conclave reads of the objects of others: which fields, of which type, and how much of each.

An object may come from anybody, and not each of its fields has a schema that the API server holds it to. Each `read_*`
gives an object back with the fields that are named here and nothing else. A field that is absent or of another type is
absent in what it gives; so is an item of a list without what it is known by. Text is cut and visible. No reader
raises; None means that the object cannot be told from others (no name).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Required, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    OnErrorOmit,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from typing_extensions import TypedDict

from conclave.visible_text import one_line, visible, without_styles

LONGEST_NAME = 1024
"""Characters of a name, a label's value, a reason; what is longer is none."""
LONGEST_MESSAGE = 4096
"""Characters of a message that are kept. It is what Kubernetes keeps of a container's last words."""
LONGEST_REPORT = 2**15
"""Characters of Serve's messages, which hold tracebacks of many processes: the first and the last half are kept."""
UNREADABLE_AMOUNT = "of unreadable size"
MOST_ITEMS = 2000
"""Entries of one list or mapping."""
DEEPEST = 100
"""Levels of what is kept as it is."""

JsonObject = dict[str, Any]
T = TypeVar("T")


def _first_items(value: object) -> object:
    if isinstance(value, list) and len(value) > MOST_ITEMS:
        return value[:MOST_ITEMS]
    if isinstance(value, dict) and len(value) > MOST_ITEMS:
        return dict(islice(value.items(), MOST_ITEMS))
    return value


def _shown(text: str) -> str:
    return visible(without_styles(text))


def _words(text: str) -> str:
    return _shown(text[:LONGEST_MESSAGE])[:LONGEST_MESSAGE]


def _event_words(text: str) -> str:
    return _shown(text[: 2 * LONGEST_MESSAGE])[: 2 * LONGEST_MESSAGE]


def _report(text: str) -> str:
    return _ends(_shown(_ends(text)))


def _ends(text: str) -> str:
    half = LONGEST_REPORT // 2
    return text if len(text) <= LONGEST_REPORT else f"{text[:half]}\n{text[-half:]}"


def _time(text: str) -> str:
    """With its zone, so that any two can be compared."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no zone")
    return text


def _seen_whole(text: str) -> str:
    if one_line(text) != text:
        raise ValueError("a character that steers or hides")
    return text


def _or_unreadable(value: object, inner: ValidatorFunctionWrapHandler) -> object:
    try:
        return inner(value)
    except ValidationError:
        return UNREADABLE_AMOUNT


def is_shallow(value: object) -> bool:
    """Whether it is nested so little that whatever walks through it ends well; how deep Python's own JSON reader goes
    differs with its version.
    """
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        level = [
            below
            for item in level
            for below in (item.values() if isinstance(item, dict) else item)
            if isinstance(below, dict | list)
        ]
        if not level:
            return True
    return False


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    if not is_shallow(value):
        raise ValueError("nested too deeply")
    return value


Name = Annotated[str, Strict(), Field(max_length=LONGEST_NAME), AfterValidator(_seen_whole)]
Words = Annotated[str, Strict(), AfterValidator(_words)]
EventWords = Annotated[str, Strict(), AfterValidator(_event_words)]
"""KubeRay's event about a failed pod holds its container's last words, with words of its own around them."""
Report = Annotated[str, Strict(), AfterValidator(_report)]
Time = Annotated[str, Strict(), Field(max_length=40), AfterValidator(_time)]
Flag = Annotated[bool, Strict()]
Number = Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)]
Replicas = Annotated[int, Strict(), Field(ge=0, le=100_000)]
Amount = Annotated[Name | Number, WrapValidator(_or_unreadable)]
"""A quantity, as the API server writes it or as somebody may have; not absent where it is none."""
Json = Annotated[dict[str, Any], Strict(), AfterValidator(_shallow)]
Items = Annotated[list[OnErrorOmit[T]], BeforeValidator(_first_items)]
Names = Annotated[dict[OnErrorOmit[Name], OnErrorOmit[T]], BeforeValidator(_first_items)]


class _Owner(TypedDict, total=False):
    apiVersion: OnErrorOmit[Name]
    kind: Required[Name]
    name: Required[Name]
    uid: Required[Name]
    controller: OnErrorOmit[Flag]


class _Metadata(TypedDict, total=False):
    name: Required[Name]
    namespace: OnErrorOmit[Name]
    uid: OnErrorOmit[Name]
    resourceVersion: OnErrorOmit[Name]
    generation: OnErrorOmit[Number]
    creationTimestamp: OnErrorOmit[Time]
    deletionTimestamp: OnErrorOmit[Name]
    labels: OnErrorOmit[Names[Name]]
    annotations: OnErrorOmit[Names[Name]]
    ownerReferences: OnErrorOmit[Items[_Owner]]


class _Condition(TypedDict, total=False):
    type: Required[Name]
    status: Required[Name]
    reason: OnErrorOmit[Name]
    message: OnErrorOmit[Words]
    lastTransitionTime: OnErrorOmit[Time]


_Conditions = Items[_Condition]


class _Waiting(TypedDict, total=False):
    reason: OnErrorOmit[Name]
    message: OnErrorOmit[Words]


class _Running(TypedDict, total=False):
    startedAt: OnErrorOmit[Time]


class _Terminated(TypedDict, total=False):
    exitCode: OnErrorOmit[Number]
    reason: OnErrorOmit[Name]
    message: OnErrorOmit[Words]


class _State(TypedDict, total=False):
    waiting: OnErrorOmit[_Waiting]
    running: OnErrorOmit[_Running]
    terminated: OnErrorOmit[_Terminated]


class _ContainerStatus(TypedDict, total=False):
    name: Required[Name]
    state: OnErrorOmit[_State]
    lastState: OnErrorOmit[_State]


class _Resources(TypedDict, total=False):
    limits: OnErrorOmit[Names[Amount]]
    requests: OnErrorOmit[Names[Amount]]


class _Container(TypedDict, total=False):
    name: OnErrorOmit[Name]
    image: OnErrorOmit[Name]
    command: OnErrorOmit[Items[Words]]
    args: OnErrorOmit[Items[Words]]
    resources: OnErrorOmit[_Resources]
    restartPolicy: OnErrorOmit[Name]


class _Expression(TypedDict, total=False):
    key: Required[Name]
    operator: Required[Name]
    values: OnErrorOmit[Items[Name]]


class _Term(TypedDict, total=False):
    matchExpressions: OnErrorOmit[Items[_Expression]]


class _Selector(TypedDict, total=False):
    nodeSelectorTerms: OnErrorOmit[Items[_Term]]


class _NodeAffinity(TypedDict, total=False):
    requiredDuringSchedulingIgnoredDuringExecution: OnErrorOmit[_Selector]


class _Affinity(TypedDict, total=False):
    nodeAffinity: OnErrorOmit[_NodeAffinity]


class _SecretVolume(TypedDict, total=False):
    secretName: OnErrorOmit[Name]


class _Volume(TypedDict, total=False):
    name: Required[Name]
    secret: OnErrorOmit[_SecretVolume]


class _PodSpec(TypedDict, total=False):
    nodeName: OnErrorOmit[Name]
    serviceAccountName: OnErrorOmit[Name]
    volumes: OnErrorOmit[Items[_Volume]]
    restartPolicy: OnErrorOmit[Name]
    containers: OnErrorOmit[Items[_Container]]
    initContainers: OnErrorOmit[Items[_Container]]
    affinity: OnErrorOmit[_Affinity]
    nodeSelector: OnErrorOmit[Names[Name]]


class _PodStatus(TypedDict, total=False):
    phase: OnErrorOmit[Name]
    reason: OnErrorOmit[Name]
    message: OnErrorOmit[Words]
    conditions: OnErrorOmit[_Conditions]
    containerStatuses: OnErrorOmit[Items[_ContainerStatus]]
    initContainerStatuses: OnErrorOmit[Items[_ContainerStatus]]


class _Pod(TypedDict, total=False):
    metadata: Required[_Metadata]
    spec: OnErrorOmit[_PodSpec]
    status: OnErrorOmit[_PodStatus]


class _Taint(TypedDict, total=False):
    key: Required[Name]
    effect: Required[Name]
    value: OnErrorOmit[Name]


class _NodeSpec(TypedDict, total=False):
    unschedulable: OnErrorOmit[Flag]
    taints: OnErrorOmit[Items[_Taint]]


class _NodeStatus(TypedDict, total=False):
    allocatable: OnErrorOmit[Names[Amount]]
    conditions: OnErrorOmit[_Conditions]


class _Node(TypedDict, total=False):
    metadata: Required[_Metadata]
    spec: OnErrorOmit[_NodeSpec]
    status: OnErrorOmit[_NodeStatus]


class _Attribute(TypedDict, total=False):
    string: OnErrorOmit[Name]


class _Attributes(TypedDict, total=False):
    attributes: OnErrorOmit[Names[_Attribute]]


class _Device(_Attributes, total=False):
    name: Required[Name]
    basic: OnErrorOmit[_Attributes]
    """Where versions before v1 have them."""


class _ResourceSliceSpec(TypedDict, total=False):
    driver: Required[Name]
    nodeName: OnErrorOmit[Name]
    devices: OnErrorOmit[Items[_Device]]


class _ResourceSlice(TypedDict, total=False):
    metadata: Required[_Metadata]
    spec: OnErrorOmit[_ResourceSliceSpec]


class _Involved(TypedDict, total=False):
    kind: Required[Name]
    name: Required[Name]
    uid: OnErrorOmit[Name]


class _EventMetadata(TypedDict, total=False):
    name: Required[Name]
    namespace: OnErrorOmit[Name]
    uid: OnErrorOmit[Name]
    resourceVersion: OnErrorOmit[Name]


class _Event(TypedDict, total=False):
    metadata: Required[_EventMetadata]
    involvedObject: Required[_Involved]
    type: OnErrorOmit[Name]
    reason: OnErrorOmit[Name]
    message: OnErrorOmit[EventWords]
    lastTimestamp: OnErrorOmit[Time]
    eventTime: OnErrorOmit[Time]


class _JobStatus(TypedDict, total=False):
    conditions: OnErrorOmit[_Conditions]


class _Job(TypedDict, total=False):
    metadata: Required[_Metadata]
    status: OnErrorOmit[_JobStatus]


class _ClaimStatus(TypedDict, total=False):
    phase: OnErrorOmit[Name]


class _Claim(TypedDict, total=False):
    metadata: Required[_Metadata]
    status: OnErrorOmit[_ClaimStatus]


class _ConfigMap(TypedDict, total=False):
    metadata: Required[_Metadata]
    data: OnErrorOmit[Annotated[dict[OnErrorOmit[Name], OnErrorOmit[Annotated[str, Strict()]]], Strict()]]


class _ServeStatus(TypedDict, total=False):
    status: OnErrorOmit[Name]
    message: OnErrorOmit[Report]


class _Application(_ServeStatus, total=False):
    serveDeploymentStatuses: OnErrorOmit[Names[_ServeStatus]]


class _ServiceStatus(TypedDict, total=False):
    rayClusterName: OnErrorOmit[Name]
    applicationStatuses: OnErrorOmit[Names[_Application]]


class _RayServiceStatus(TypedDict, total=False):
    observedGeneration: OnErrorOmit[Number]
    serviceStatus: OnErrorOmit[Name]
    lastUpdateTime: OnErrorOmit[Name]
    conditions: OnErrorOmit[_Conditions]
    activeServiceStatus: OnErrorOmit[_ServiceStatus]
    pendingServiceStatus: OnErrorOmit[_ServiceStatus]


class _TemplateMetadata(TypedDict, total=False):
    labels: OnErrorOmit[Names[Name]]
    annotations: OnErrorOmit[Names[Words]]


class _Template(TypedDict, total=False):
    metadata: OnErrorOmit[_TemplateMetadata]
    spec: OnErrorOmit[_PodSpec]


class _Group(TypedDict, total=False):
    replicas: OnErrorOmit[Replicas]
    template: OnErrorOmit[_Template]


class _RayClusterSpec(TypedDict, total=False):
    headGroupSpec: OnErrorOmit[_Group]
    workerGroupSpecs: OnErrorOmit[Items[_Group]]


class _RayServiceSpec(TypedDict, total=False):
    rayClusterConfig: OnErrorOmit[_RayClusterSpec]


class _RayService(TypedDict, total=False):
    metadata: Required[_Metadata]
    spec: OnErrorOmit[_RayServiceSpec]
    status: OnErrorOmit[_RayServiceStatus]


class _RayClusterStatus(TypedDict, total=False):
    observedGeneration: OnErrorOmit[Number]
    state: OnErrorOmit[Name]
    lastUpdateTime: OnErrorOmit[Name]
    conditions: OnErrorOmit[_Conditions]


class _RayCluster(TypedDict, total=False):
    metadata: Required[_Metadata]
    spec: OnErrorOmit[_RayClusterSpec]
    status: OnErrorOmit[_RayClusterStatus]


class _Revision(TypedDict, total=False):
    metadata: Required[_Metadata]
    data: OnErrorOmit[Json]
    revision: OnErrorOmit[Number]


class _Port(TypedDict, total=False):
    port: Required[Number]


class _EgressRule(TypedDict, total=False):
    to: OnErrorOmit[Items[Annotated[dict[str, Any], Strict()]]]
    ports: OnErrorOmit[Items[_Port]]


class _PolicySpec(TypedDict, total=False):
    egress: OnErrorOmit[Items[_EgressRule]]


class _NetworkPolicy(TypedDict, total=False):
    metadata: Required[_Metadata]
    spec: OnErrorOmit[_PolicySpec]


class Read(JsonObject):
    """What a reader gave back. To read it again is to get itself: caches keep what is read at every pass."""


Reader = Callable[[JsonObject], Read | None]
"""What of an object is read, None where it cannot be told from others."""


def _reader(shape: type) -> Reader:
    adapter: TypeAdapter[JsonObject] = TypeAdapter(shape)

    def read(item: JsonObject) -> Read | None:
        if isinstance(item, Read):
            return item
        try:
            kept = adapter.validate_python(item)
        except ValidationError:
            return None
        head = {field: item[field] for field in ("apiVersion", "kind") if isinstance(item.get(field), str)}
        return Read({**head, **kept})

    return read


read_pod = _reader(_Pod)
read_node = _reader(_Node)
read_resource_slice = _reader(_ResourceSlice)
read_event = _reader(_Event)
read_job = _reader(_Job)
read_claim = _reader(_Claim)
read_config_map = _reader(_ConfigMap)
read_rayservice = _reader(_RayService)
read_raycluster = _reader(_RayCluster)
read_revision = _reader(_Revision)
read_network_policy = _reader(_NetworkPolicy)

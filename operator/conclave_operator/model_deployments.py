"""The record of ModelDeployment: which rooms of the core and of the cluster read it, want for it, and tell of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from pydantic import ValidationError

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import ConditionType
from conclave.kubernetes.desired import Desired
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.shapes import read_job, read_raycluster
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.sync import sync
from conclave.settings import OperatorSettings
from conclave_cluster.cache import labels_of
from conclave_cluster.cluster import Cluster
from conclave_cluster.inventory import LastCapacity
from conclave_cluster.observe import (
    EVENT_BOUND,
    EVENT_SELECTIONS,
    keep_event,
    keep_node,
    keep_ours,
    keep_pod,
    keep_record,
    keep_resource_slice,
    observe,
)
from conclave_cluster.resources import (
    EVENT,
    JOB,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    NODE,
    POD,
    RAY_CLUSTER,
    RAY_SERVICE,
    RESOURCE_SLICE,
    REVISION,
    Resource,
)
from conclave_operator.kinds import Key, Kind, Known, Watch
from conclave_operator.tracing import span

TOKEN_BYTES = 32
LONGEST_OWNED_NAME = 253
"""Characters of an object's name, the longest that Kubernetes takes."""
_OURS = ({"labelSelector": names.MODEL_DEPLOYMENT},)
_BY_OWNER = (names.MODEL_DEPLOYMENT,)

WATCHES = (
    Watch(RAY_SERVICE, keep_ours, indexed=_BY_OWNER, is_packed=True),
    Watch(RAY_CLUSTER, read_raycluster),
    Watch(NETWORK_POLICY, keep_ours, _OURS, indexed=_BY_OWNER, is_packed=True),
    Watch(REVISION, keep_record, _OURS, indexed=_BY_OWNER, is_packed=True),
    Watch(JOB, read_job, _OURS, indexed=_BY_OWNER),
    Watch(POD, keep_pod, indexed=names.POD_OWNERS),
    Watch(NODE, keep_node),
    Watch(RESOURCE_SLICE, keep_resource_slice),
    Watch(EVENT, keep_event, EVENT_SELECTIONS, EVENT_BOUND),
)


def parse(item: JsonObject) -> ModelDeployment:
    """The object; a status that somebody forged beyond the schema is left out, since it is never read as truth."""
    try:
        return ModelDeployment.model_validate(item)
    except ValidationError:
        return ModelDeployment.model_validate({key: value for key, value in item.items() if key != "status"})


def model_deployments(settings: OperatorSettings) -> Kind[ModelDeployment, Observed]:
    """The record, for an operator of these settings."""
    capacity = LastCapacity()

    def want(deployment: ModelDeployment, observed: Observed) -> Desired[Observed]:
        with span("decide"):
            return sync(deployment, observed, settings, secrets.token_urlsafe(TOKEN_BYTES))

    async def look(cluster: Cluster, deployment: ModelDeployment) -> Observed:
        return await observe(cluster, deployment, capacity)

    return Kind(
        resource=MODEL_DEPLOYMENT,
        model=ModelDeployment,
        parse=parse,
        observe=look,
        sync=want,
        concerned=concerned,
        watches=WATCHES,
        reported=(
            ConditionType.PLAN_READY,
            ConditionType.READY,
            ConditionType.EGRESS_ENFORCED,
            ConditionType.WITHIN_POLICY,
            ConditionType.UPDATE_AVAILABLE,
        ),
        informs=(ConditionType.EGRESS_ENFORCED, ConditionType.WITHIN_POLICY),
        unread=(ConditionType.READY, ConditionType.PLAN_READY),
    )


def concerned(resource: Resource, item: JsonObject, known: Known) -> Iterable[Key]:
    """By name, by label, or by owner; a node or a pod of others that holds GPUs concerns all that wait for some."""
    metadata = item["metadata"]
    namespace = metadata.get("namespace", "")
    if resource == EVENT:
        # KubeRay names what it makes after the RayService, and we after the deployment.
        about, _, _ = str(item.get("involvedObject", {}).get("name", "")).partition(".")
        steps = about[:LONGEST_OWNED_NAME].split("-")
        names_before = ("-".join(steps[:count]) for count in range(1, len(steps) + 1))
        return [key for name in names_before for key in known.by_name(namespace, name)]
    labels = labels_of(item)
    owner = next((labels[label] for label in names.POD_OWNERS if label in labels), "")
    if resource == RAY_CLUSTER:
        owner = next((reference.get("name", "") for reference in metadata.get("ownerReferences", [])), "")
    if owner:
        return known.by_name(namespace, owner)
    if resource.namespaced and resource != POD:
        return known.by_name(namespace, metadata["name"])
    return known.waiting_for_nodes

"""The record of ModelDeployment: which rooms of the core and of the cluster read it, want for it, and tell of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime
from functools import partial

from pydantic import ValidationError

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import ConditionType
from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.shapes import read_job, read_raycluster
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.sync import decide
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
    REVISION,
    Resource,
)
from conclave_operator.kinds import Desired, Key, Kind, Known, Watch
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

    async def look(cluster: Cluster, deployment: ModelDeployment) -> Observed:
        return await observe(cluster, deployment, capacity)

    return Kind(
        resource=MODEL_DEPLOYMENT,
        model=ModelDeployment,
        parse=parse,
        observe=look,
        sync=partial(sync, settings),
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


def sync(settings: OperatorSettings, deployment: ModelDeployment, observed: Observed) -> Desired[Observed]:
    """What the core decides, as the controller carries it out."""
    with span("decide"):
        decision = decide(deployment, observed, settings, secrets.token_urlsafe(TOKEN_BYTES))

    def status(observed: Observed, outcome: Outcome, now: datetime) -> JsonObject:
        return derive_status(deployment, observed, decision, outcome, now).to_wire()

    return Desired(
        status,
        create=decision.create,
        apply=decision.apply,
        delete=decision.delete,
        is_refused=decision.refusal is not None,
        is_done=not _waits_for_unwatched(deployment, observed, decision),
        is_waiting_for_nodes=decision.plan is None,
        inputs_of=partial(inputs, has_plan=decision.plan is not None),
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


def _waits_for_unwatched(deployment: ModelDeployment, observed: Observed, decision: Decision) -> bool:
    """ConfigMaps and claims are read by request, so nobody tells when one comes or changes."""
    is_bound = all(observed.claims.get(claim) == "Bound" for claim in deployment.spec.model.claims)
    if deployment.spec.model.cache is not None:
        cache = observed.cache or {}
        is_bound = is_bound and cache.get("status", {}).get("phase") == "Bound"
    return not is_bound or (decision.plan is None and deployment.spec.model.config_ref is not None)


def inputs(observed: Observed, *, has_plan: bool) -> object:
    """Objects by their versions. A plan that was made rests on no node any more.

    How long a pod has waited or been dead matters while one is in trouble: then time alone changes the status.
    """
    pods = (*observed.pods, *observed.weights.pods, *observed.inspection.pods)
    if observed.events or not all(map(_is_at_work, pods)):
        return None
    objects = (
        *((observed.rayservice,) if observed.rayservice else ()),
        *observed.rayclusters,
        *pods,
        *observed.revisions,
        *observed.network_policies,
        *observed.weights.jobs,
        *observed.inspection.jobs,
        *((observed.cache,) if observed.cache else ()),
    )
    versions = tuple((item["metadata"].get("uid"), item["metadata"].get("resourceVersion")) for item in objects)
    inventory = None if has_plan else observed.inventory
    configs = {name: hash(frozenset(data.items())) for name, data in observed.config_maps.items()}
    return versions, inventory, observed.kuberay, observed.claims, configs, observed.failures


def _is_at_work(pod: JsonObject) -> bool:
    status = pod.get("status", {})
    containers = [*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())]
    return status.get("phase") in ("Running", "Succeeded") and not any(
        "waiting" in container.get("state", {}) or container.get("lastState") for container in containers
    )

"""From what was observed to what should exist; the operator calls `decide` at every reconcile.

A recorded build is used again until the spec changes or its owner asks for a refresh: a newer operator, whose builder
may build otherwise, rolls no running model.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from conclave.api.modeldeployment import Endpoint, ModelDeployment
from conclave.api.plan import Plan
from conclave.api.reasons import Reason
from conclave.catalogue.facts import ModelFacts
from conclave.errors import InvalidInput, UnknownModel
from conclave.kubernetes.events import MOUNT_FAILED
from conclave.kubernetes.shapes import is_shallow
from conclave.manifests import names
from conclave.manifests.inspection import InspectionPlan, files_of, needs_inspection, plan_inspection
from conclave.manifests.network_policy import build_network_policies
from conclave.manifests.rayservice import build_rayservice, in_place
from conclave.manifests.record_check import History, find_token_secret, own_rayservice, read_history
from conclave.manifests.record_version import too_new
from conclave.manifests.revision import (
    Record,
    build_revision,
    make_record,
    planned_hash,
    shape_hash,
    superseded,
)
from conclave.manifests.secret import build_token_secret, new_token_secret
from conclave.manifests.settings import OperatorSettings
from conclave.manifests.weights import WeightsPlan, plan_weights
from conclave.observation import Decision, JsonObject, Observed, Refusal
from conclave.planning.checks import Unfit, check_deployment, check_runtime, check_shape
from conclave.planning.plan import facts_for, plan_deployment
from conclave.policy.data_classes import DataClasses

_ONLY_EXPLAINS = ("events", "persistentvolumeclaims")
"""Resources that no decision depends on; not to see any other one is a reason to leave everything as it is."""


class Build(NamedTuple):
    """Which RayService a spec gets."""

    record: Record
    update_available: str = ""


class _RefusedError(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason=reason, message=message)


class _NotInspectedError(Exception):
    """The plan waits for the model's config.json."""


def decide(deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, token: str) -> Decision:
    """`token` is a fresh random value; it is used only where the endpoint has no token yet."""
    history = read_history(deployment, observed, settings)
    if history.newer:
        return Decision(refusal=too_new(history.newer))
    unlisted = check_runtime(deployment, settings.runtime_lists)
    objections = tuple(Refusal(reason=problem.reason, message=problem.message) for problem in unlisted)
    is_blind = any(failure.resource not in _ONLY_EXPLAINS for failure in observed.failures)
    if is_blind or deployment.metadata.deletion_timestamp is not None:
        return Decision(plan=history.current.plan if history.current else None, objections=objections)
    decision = _decide(deployment, observed, settings, history, token)
    return decision.model_copy(update={"objections": (*history.objections, *objections)})


def _decide(
    deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, history: History, token: str
) -> Decision:
    current = history.current
    running = own_rayservice(deployment, observed)
    if running is not None and _is_in_doubt(deployment, history):
        return _left_alone(deployment, observed, settings, history, running)
    used_key = current.weights_key if current else ""
    inspection = plan_inspection(deployment, observed, settings)
    try:
        plan = make_plan(deployment, observed, settings, history.records, inspection)
        build = choose_build(deployment, current, plan, settings)
        weights = plan_weights(deployment, observed, settings, build.record.plan, used_key)
        if weights.create:
            _refuse(check_runtime(deployment, settings.runtime_lists))  # the pods of a Job are new ones
    except _RefusedError as refused:
        kept = _kept(deployment, observed, settings, history, token)
        decision = kept.model_copy(update={"refusal": refused.refusal})
        return _beside(decision, observed, inspection._replace(create=()))
    except _NotInspectedError:
        kept = _kept(deployment, observed, settings, history, token)
        decision = kept.model_copy(update={"is_inspecting": True})
        # Without a plan, a volume of one node is where the deployment's own selector puts it.
        weights = plan_weights(deployment, observed, settings, None, used_key)
        return _beside(decision, observed, weights, inspection)
    if weights.is_ready:
        decision = _objects(deployment, observed, settings, history, build.record, token)
    else:
        kept = _kept(deployment, observed, settings, history, token)
        decision = kept.model_copy(update={"plan": build.record.plan})
    if _has_kuberay(observed):
        decision = decision.model_copy(update={"update_available": build.update_available})
    return _beside(decision, observed, weights, inspection._replace(create=()))


def _is_in_doubt(deployment: ModelDeployment, history: History) -> bool:
    """Whether what was refused may be what runs: no older record is for this spec."""
    return bool(history.refused) and not (history.current and _is_for(history.current, deployment))


def _left_alone(
    deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, history: History, running: JsonObject
) -> Decision:
    """The RayService as it is, behind its network policies, until somebody has deleted what was refused."""
    first = history.objections[0]
    message = f"{first.message}; until then what runs is left as it is, and then the model is planned anew"
    mounted = find_token_secret(running) or new_token_secret(deployment)
    return Decision(
        plan=history.current.plan if history.current else None,
        refusal=first.model_copy(update={"message": message}),
        endpoint=_endpoint(deployment, settings, mounted),
        apply=build_network_policies(deployment, settings) if _has_kuberay(observed) else (),
    )


def _kept(
    deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, history: History, token: str
) -> Decision:
    """What runs goes on, repaired where somebody changed it, until there is something to run instead."""
    if history.current is None or _is_in_doubt(deployment, history):
        return Decision()
    return _objects(deployment, observed, settings, history, _with_suspension(history.current, deployment), token)


def _beside(decision: Decision, observed: Observed, *plans: WeightsPlan | InspectionPlan) -> Decision:
    """With what fetches the weights and what reads them; without KubeRay nothing is written."""
    if not _has_kuberay(observed):
        return decision
    for plan in plans:
        changes: JsonObject = {
            "create": (*decision.create, *plan.create),
            "apply": (*plan.apply, *decision.apply),
            "delete": (*decision.delete, *plan.delete),
        }
        if isinstance(plan, WeightsPlan) and plan.apply:
            changes["is_downloaded"] = plan.is_ready
        decision = decision.model_copy(update=changes)
    return decision


def make_plan(
    deployment: ModelDeployment,
    observed: Observed,
    settings: OperatorSettings,
    records: tuple[Record, ...],
    inspection: InspectionPlan,
) -> Plan:
    """The recorded plan while it is one for this spec, else a fresh one, as an earlier one for the same was."""
    _refuse(check_deployment(deployment, DataClasses(names=settings.data_classes)))
    if records and _is_for(records[-1], deployment):
        return records[-1].plan
    _refuse(check_runtime(deployment, settings.runtime_lists))
    facts = _facts(deployment, observed, inspection)
    try:
        outcome = plan_deployment(deployment, facts, observed.inventory, _precedent(deployment, records))
    except InvalidInput as error:
        raise _RefusedError(Reason.INVALID_SPEC, str(error)) from error
    if outcome.plan is None:
        raise _RefusedError(Reason.NOTHING_FITS, outcome.explanation)
    return _with_source(deployment, outcome.plan, inspection)


def _with_source(deployment: ModelDeployment, plan: Plan, inspection: InspectionPlan) -> Plan:
    """Says what a plan rests on that does not rest on the catalogue."""
    if inspection.weights is None:
        return plan
    source = f"the catalogue does not know {deployment.spec.model.id}: planned from config.json of "
    source += f"{files_of(deployment)}: {inspection.weights.summary}"
    return plan.model_copy(update={"because": (*plan.because, source[:1024])})


def _precedent(deployment: ModelDeployment, records: tuple[Record, ...]) -> Plan | None:
    """The last plan for the same question, unless a new answer is asked for. Another spec's plan is no guide: A, B, A
    has to end at A.
    """
    wanted = planned_hash(deployment)
    last = next((record for record in reversed(records) if record.planned == wanted), None)
    return last.plan if last and _asks_nothing_new(deployment, last) else None


def choose_build(deployment: ModelDeployment, current: Record | None, plan: Plan, settings: OperatorSettings) -> Build:
    """The recorded build where it is for this spec, with what changes in place; else a fresh one."""
    token_secret = current.token_secret if current else new_token_secret(deployment)
    try:
        rayservice = build_rayservice(deployment, plan, settings, token_secret)
        fresh = make_record(deployment, plan, rayservice, token_secret)
    except InvalidInput as error:
        raise _RefusedError(Reason.INVALID_SPEC, str(error)) from error
    number = current.number + 1 if current else 1
    if current is None or not _is_for(current, deployment):
        if current is not None and current.rayservice == fresh.rayservice:
            fresh = fresh.model_copy(update={"builder": current.builder})
        return Build(fresh.model_copy(update={"number": number}))
    record = current
    if current.spec != fresh.spec:
        rayservice = in_place(current.rayservice, fresh.rayservice)
        record = fresh.model_copy(
            update={"rayservice": rayservice, "builder": current.builder, "refresh": current.refresh, "number": number}
        )
    return Build(record, _difference(deployment, record, fresh))


def _is_for(record: Record, deployment: ModelDeployment) -> bool:
    return record.shape == shape_hash(deployment) and _asks_nothing_new(deployment, record)


def _asks_nothing_new(deployment: ModelDeployment, record: Record) -> bool:
    return deployment.metadata.annotations.get(names.REFRESH, "") in ("", record.refresh)


def _with_suspension(record: Record, deployment: ModelDeployment) -> Record:
    """What runs under an older spec can be stopped whatever is wrong with the newer one; it is then no whole spec's."""
    spec = record.rayservice["spec"]
    if spec["rayClusterConfig"]["suspend"] == deployment.spec.suspend:
        return record
    cluster = {**spec["rayClusterConfig"], "suspend": deployment.spec.suspend}
    rayservice = {**record.rayservice, "spec": {**spec, "rayClusterConfig": cluster}}
    return record.model_copy(update={"rayservice": rayservice, "spec": "", "number": record.number + 1})


def _difference(deployment: ModelDeployment, record: Record, fresh: Record) -> str:
    if record.rayservice == fresh.rayservice:
        return ""
    parts = [
        part
        for part in sorted(record.rayservice["spec"].keys() | fresh.rayservice["spec"].keys())
        if record.rayservice["spec"].get(part) != fresh.rayservice["spec"].get(part)
    ]
    return (
        f"RayService {names.rayservice(deployment.metadata.name)} was built by conclave {record.builder}; "
        f"{fresh.builder}, as configured now, would build it otherwise ({', '.join(parts) or 'metadata'}). It runs on "
        f"unchanged; to roll it, set the annotation {names.REFRESH} of the ModelDeployment to a new value"
    )


def _objects(
    deployment: ModelDeployment,
    observed: Observed,
    settings: OperatorSettings,
    history: History,
    record: Record,
    token: str,
) -> Decision:
    """Without KubeRay nothing is written: no record binds the plan to nodes that may be others by then."""
    if not _has_kuberay(observed):
        return Decision(plan=record.plan)
    has_token = bool(history.records) and not _is_missing(record.token_secret, observed)
    objects = build_all(deployment, record, settings)
    refused = {found.name for found in history.refused}
    ours = [revision for revision in observed.revisions if revision["metadata"]["name"] not in refused]
    return Decision(
        plan=record.plan,
        endpoint=_endpoint(deployment, settings, record.token_secret),
        create=() if has_token else (build_token_secret(deployment, record.token_secret, token),),
        apply=objects,
        delete=superseded(ours, current=objects[0]),
    )


def _has_kuberay(observed: Observed) -> bool:
    return observed.kuberay.installed and not observed.kuberay.missing_fields


def _endpoint(deployment: ModelDeployment, settings: OperatorSettings, token_secret: str) -> Endpoint:
    name, namespace = deployment.metadata.name, deployment.metadata.namespace
    return Endpoint(
        url=names.endpoint_url(name, namespace, settings.cluster_domain),
        model=deployment.served_name,
        token_secret=token_secret,
    )


def build_all(deployment: ModelDeployment, record: Record, settings: OperatorSettings) -> tuple[JsonObject, ...]:
    """What is applied, in this order: the record first, so that what runs is never unrecorded."""
    policies = build_network_policies(deployment, settings)
    return build_revision(deployment, record), *policies, record.rayservice


def _is_missing(token_secret: str, observed: Observed) -> bool:
    """The operator reads no Secret: a deleted one shows in the events of pods that wait for it.

    True also where the Secret came back after the event: `AlreadyExists` is then the answer, and changes nothing.
    """
    waiting = {pod["metadata"]["name"] for pod in observed.pods if pod.get("status", {}).get("phase") == "Pending"}
    words = f'secret "{token_secret}" not found'
    return any(
        event.get("reason") == MOUNT_FAILED
        and event.get("involvedObject", {}).get("name") in waiting
        and words in event.get("message", "")
        for event in observed.events
    )


def _facts(deployment: ModelDeployment, observed: Observed, inspection: InspectionPlan) -> ModelFacts:
    config = _inspected(inspection) if needs_inspection(deployment) else _config(deployment, observed)
    try:
        facts = facts_for(deployment.spec.model.id, config)
        _refuse(check_shape(deployment, facts))
    except UnknownModel as error:
        raise _RefusedError(Reason.MODEL_REFUSED, str(error)) from error
    except InvalidInput as error:
        raise _RefusedError(Reason.CONFIG_INVALID, str(error)) from error
    return facts


def _refuse(problems: tuple[Unfit, ...]) -> None:
    if problems:
        raise _RefusedError(problems[0].reason, "; ".join(problem.message for problem in problems))


def _inspected(inspection: InspectionPlan) -> dict[str, object]:
    """The config.json that lies beside the weights."""
    if inspection.refusal is not None:
        raise _RefusedError(Reason(inspection.refusal.reason), inspection.refusal.message)
    if inspection.weights is None:
        raise _NotInspectedError
    return inspection.weights.config


def _config(deployment: ModelDeployment, observed: Observed) -> dict[str, object] | None:
    """The model's own config.json, None where the catalogue's is meant."""
    model = deployment.spec.model
    if model.config_ref is None:
        return None
    name = model.config_ref.name
    text = observed.config_maps.get(name, {}).get("config.json")
    where = f"ConfigMap {deployment.metadata.namespace}/{name}"
    if text is None:
        seen = "has no key config.json" if name in observed.config_maps else "does not exist"
        raise _RefusedError(
            Reason.CONFIG_MISSING,
            f"{where}, named by spec.model.configRef, {seen}; create it with "
            f"`kubectl -n {deployment.metadata.namespace} create configmap {name} --from-file=config.json`",
        )
    try:
        config: object = json.loads(text)
        is_too_deep = not is_shallow(config)
    except RecursionError:
        is_too_deep = True
    except ValueError as error:
        raise _RefusedError(Reason.CONFIG_INVALID, f"{where}: config.json is no JSON: {error}") from error
    if is_too_deep:
        raise _RefusedError(Reason.CONFIG_INVALID, f"{where}: config.json is nested too deeply, expected a model's")
    if not isinstance(config, dict):
        raise _RefusedError(
            Reason.CONFIG_INVALID, f"{where}: config.json is a {type(config).__name__}, expected an object"
        )
    return config

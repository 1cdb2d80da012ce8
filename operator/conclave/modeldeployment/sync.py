"""From what was observed to what should exist: the whole flow of one ModelDeployment, called once a pass.

    records -> inspection -> plan -> build -> weights -> serving

Inspection, weights and serving are parts; plan and build are choices between the recorded one and a fresh one. While a
part is not ready, what runs keeps running, and the pods of the new spec wait.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding
from conclave.kubernetes.desired import Desired
from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.inputs import inputs_of
from conclave.modeldeployment.inspection import part as inspection_part
from conclave.modeldeployment.inspection.report import inspect
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.part import PartResult, PartScene
from conclave.modeldeployment.plan import choose_plan, refusal_of
from conclave.modeldeployment.records.check import read_history
from conclave.modeldeployment.records.record import Record, keys_of
from conclave.modeldeployment.records.version import too_new
from conclave.modeldeployment.serving import part as serving_part
from conclave.modeldeployment.serving.build import choose_build, with_suspension
from conclave.modeldeployment.serving.network_policy import build_network_policies
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.weights import part as weights_part
from conclave.planning.roles import Plan
from conclave.settings import OperatorSettings

LONGEST_RESYNC_S = 60.0


def sync(deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, token: str) -> Desired[Observed]:
    """`token` is a fresh random value. It is used only if the endpoint has no token yet."""
    decision = decide(deployment, observed, settings, token)
    rests_on_nodes = _rests_on_nodes(observed, decision)

    def status(observed: Observed, outcome: Outcome, now: datetime) -> JsonObject:
        return derive_status(deployment, observed, decision, outcome, now).to_wire()

    return Desired(
        status=status,
        create=decision.create,
        apply=decision.apply,
        delete=decision.delete,
        resync_after_s=LONGEST_RESYNC_S if _waits_for_unwatched(deployment, observed, decision) else None,
        is_refused=decision.refusal is not None,
        is_waiting_for_nodes=rests_on_nodes,
        inputs_of=partial(inputs_of, rests_on_nodes=rests_on_nodes),
    )


def _rests_on_nodes(observed: Observed, decision: Decision) -> bool:
    """Whether another node could change the decision. A plan rests on no node once it is recorded.

    A refused edit waits for nodes although an older spec's plan runs. A plan that waits for a download is not
    recorded yet.
    """
    if decision.refusal is not None:
        return decision.refusal.reason is not Reason.RECORD_TOO_NEW
    return decision.plan is None or bool(decision.waits_for) or not observed.has_kuberay()


def _waits_for_unwatched(deployment: ModelDeployment, observed: Observed, decision: Decision) -> bool:
    """Whether the decision waits for a ConfigMap or a claim, which the operator reads without a watch."""
    model = deployment.spec.model
    is_bound = all(observed.claims.get(claim) == "Bound" for claim in deployment.spec.claims)
    if model.cache is not None:
        is_bound = is_bound and (observed.cache or {}).get("status", {}).get("phase") == "Bound"
    return not is_bound or (decision.plan is None and model.config_ref is not None)


def decide(deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, token: str) -> Decision:
    """The objects that should exist, and why other objects do not exist yet."""
    keys = keys_of(deployment)
    history = read_history(deployment, keys, observed, settings)
    scene = PartScene(
        deployment=deployment, observed=observed, settings=settings, keys=keys, history=history, token=token
    )
    if history.newer:
        return Decision(refusal=scene.refuse(Reason.RECORD_TOO_NEW, *too_new(history.newer)))
    objections = tuple(scene.objection(problem.reason, problem.message) for problem in scene.unlisted)
    if scene.is_blind or deployment.metadata.deletion_timestamp is not None:
        return Decision(plan=_recorded_plan(scene), objections=objections)
    running = observed.own_rayservice(deployment.metadata.uid)
    decision = _left_alone(scene, running) if running and scene.is_in_doubt else _fold(scene)
    decision = decision if observed.has_kuberay() else _without_objects(decision)
    return decision.model_copy(update={"objections": (*history.objections, *objections)})


def _fold(scene: PartScene) -> Decision:
    scene = scene.knowing(inspected=inspect(scene))
    plan = choose_plan(scene)
    if isinstance(plan, Finding):
        return _refused(scene, plan)
    scene = scene.knowing(plan=plan)
    build = choose_build(scene, plan) if plan else None
    if isinstance(build, Finding):
        return _refused(scene, build)
    weights = weights_part.needs(scene)
    if plan and weights.create and (new_pods_refused := refusal_of(scene, scene.unlisted)):
        return _refused(scene, new_pods_refused)
    is_next = build is not None and weights.blocked_by is None
    scene = scene.knowing(record=build.record if build and is_next else _kept_record(scene))
    decision = _folded(scene, serving_part.needs(scene), weights, inspection_part.needs(scene))
    update_available = build.update_available if build else ""
    return decision.model_copy(update={"plan": plan or decision.plan, "update_available": update_available})


def _kept_record(scene: PartScene) -> Record | None:
    """Keeps the running model, and repairs its objects, until a new build can replace it."""
    if scene.current is None or scene.is_in_doubt:
        return None
    return with_suspension(scene, scene.current)


def _refused(scene: PartScene, refusal: Finding) -> Decision:
    """No pod is made for this spec."""
    scene = scene.knowing(plan=None, refusal=refusal, record=_kept_record(scene))
    decision = _folded(scene, serving_part.needs(scene), inspection_part.needs(scene))
    return decision.model_copy(update={"refusal": refusal})


def _left_alone(scene: PartScene, running: JsonObject) -> Decision:
    """The RayService unchanged behind its network policies, until somebody has deleted the record that was refused."""
    first = scene.history.objections[0]
    remedy = "until then the operator leaves the running model unchanged; after that it plans the model again"
    return Decision(
        plan=_recorded_plan(scene),
        refusal=scene.refuse(first.reason, first.message, remedy),
        endpoint=serving_part.endpoint(scene, serving_part.mounted_token_secret(scene, running)),
        apply=build_network_policies(scene.deployment, scene.settings),
    )


def _folded(scene: PartScene, *parts: PartResult) -> Decision:
    """Objects of later parts are applied first: the pods of the first part need them."""
    record = scene.record
    return Decision(
        plan=Plan.of_flat(record.plan) if record else None,
        endpoint=serving_part.endpoint(scene, record.token_secret) if record else None,
        waits_for=tuple(part.blocked_by for part in parts if part.blocked_by is not None),
        create=tuple(manifest for part in parts for manifest in part.create),
        apply=tuple(manifest for part in reversed(parts) for manifest in part.apply),
        delete=tuple(manifest for part in parts for manifest in part.delete),
    )


def _recorded_plan(scene: PartScene) -> Plan | None:
    return Plan.of_flat(scene.current.plan) if scene.current else None


def _without_objects(decision: Decision) -> Decision:
    """Writes nothing when KubeRay's CRD is missing: the nodes may change before KubeRay is installed."""
    return decision.model_copy(
        update={
            "waits_for": tuple(each for each in decision.waits_for if each.condition is ConditionType.PLAN_READY),
            "endpoint": None,
            "update_available": "",
            "create": (),
            "apply": (),
            "delete": (),
        }
    )

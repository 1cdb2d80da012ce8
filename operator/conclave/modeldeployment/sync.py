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
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.part import PartResult, PartScene
from conclave.modeldeployment.plan import Waiting, choose_plan, refusal_of
from conclave.modeldeployment.records.check import read_history
from conclave.modeldeployment.records.record import keys_of
from conclave.modeldeployment.records.version import too_new
from conclave.modeldeployment.serving import part as serving_part
from conclave.modeldeployment.serving.build import choose_build, with_suspension
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.weights import part as weights_part
from conclave.planning.roles import Plan
from conclave.settings import OperatorSettings

LONGEST_RESYNC_S = 60.0


def sync(deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, token: str) -> Desired[Observed]:
    """`token` is a fresh random value; it is used only where the endpoint has no token yet."""
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
    """ConfigMaps and claims are read by request, so that no watch tells when one is created or changes."""
    model = deployment.spec.model
    is_bound = all(observed.claims.get(claim) == "Bound" for claim in model.claims)
    if model.cache is not None:
        is_bound = is_bound and (observed.cache or {}).get("status", {}).get("phase") == "Bound"
    return not is_bound or (decision.plan is None and model.config_ref is not None)


def decide(deployment: ModelDeployment, observed: Observed, settings: OperatorSettings, token: str) -> Decision:
    """What should exist, and why the rest does not."""
    keys = keys_of(deployment)
    history = read_history(deployment, keys, observed, settings)
    scene = PartScene(deployment=deployment, observed=observed, settings=settings, keys=keys, history=history)
    if history.newer:
        return Decision(refusal=scene.refusal(Reason.RECORD_TOO_NEW, *too_new(history.newer)))
    objections = tuple(scene.objection(problem.reason, problem.message) for problem in scene.unlisted)
    if scene.is_blind or deployment.metadata.deletion_timestamp is not None:
        return Decision(plan=_recorded_plan(scene), objections=objections)
    running = observed.own_rayservice(deployment.metadata.uid)
    if running and scene.is_in_doubt:
        decision = _left_alone(scene, running)
    else:
        decision = _fold(scene, token)
        decision = decision if observed.has_kuberay() else _without_objects(decision)
    return decision.model_copy(update={"objections": (*history.objections, *objections)})


def _fold(scene: PartScene, token: str) -> Decision:
    inspection = inspection_part.needs(scene)
    inspected = inspection.result._replace(blocked_by=None, create=())  # a model that is planned needs no new look
    plan = choose_plan(scene, inspection)
    if isinstance(plan, Waiting):
        # Without a plan, a volume of one node is where the deployment's own selector puts it.
        return _folded(_kept(scene, token), weights_part.needs(scene, None), inspection.result)
    if isinstance(plan, Finding):
        return _refused(scene, token, plan, inspected)
    build = choose_build(scene, plan)
    if isinstance(build, Finding):
        return _refused(scene, token, build, inspected)
    weights = weights_part.needs(scene, plan)
    new_pods_refused = refusal_of(scene, scene.unlisted)
    if weights.create and new_pods_refused:
        return _refused(scene, token, new_pods_refused, inspected)
    if weights.blocked_by is None:
        decision = _serving(serving_part.needs(scene, build.record, token), plan)
    else:
        decision = _kept(scene, token).model_copy(update={"plan": plan})
    decision = decision.model_copy(update={"update_available": build.update_available})
    return _folded(decision, weights, inspected)


def _serving(serving: serving_part.Serving, plan: Plan | None) -> Decision:
    result = serving.result
    return Decision(
        plan=plan, endpoint=serving.endpoint, create=result.create, apply=result.apply, delete=result.delete
    )


def _kept(scene: PartScene, token: str) -> Decision:
    """What runs keeps running, repaired where somebody changed it, until there is something to run instead."""
    if scene.current is None or scene.is_in_doubt:
        return Decision()
    record = with_suspension(scene, scene.current)
    return _serving(serving_part.needs(scene, record, token), Plan.of_flat(record.plan))


def _refused(scene: PartScene, token: str, refusal: Finding, inspected: PartResult) -> Decision:
    """No pod is made for this spec."""
    return _folded(_kept(scene, token).model_copy(update={"refusal": refusal}), inspected)


def _left_alone(scene: PartScene, running: JsonObject) -> Decision:
    """The RayService unchanged, until somebody has deleted the record that was refused."""
    first = scene.history.objections[0]
    serving = serving_part.left_alone(scene, running)
    decision = _serving(serving, _recorded_plan(scene))
    if not scene.observed.has_kuberay():
        decision = decision.model_copy(update={"apply": ()})
    remedy = "until then the operator leaves the running model unchanged; after that it plans the model again"
    return decision.model_copy(update={"refusal": scene.refusal(first.reason, first.message, remedy)})


def _folded(decision: Decision, *parts: PartResult) -> Decision:
    """The decision with the objects of other parts before it, and with what its pods wait for."""
    for part in parts:
        blocked = () if part.blocked_by is None else (part.blocked_by,)
        decision = decision.model_copy(
            update={
                "waits_for": (*decision.waits_for, *blocked),
                "create": (*decision.create, *part.create),
                "apply": (*part.apply, *decision.apply),
                "delete": (*decision.delete, *part.delete),
            }
        )
    return decision


def _recorded_plan(scene: PartScene) -> Plan | None:
    return Plan.of_flat(scene.current.plan) if scene.current else None


def _without_objects(decision: Decision) -> Decision:
    """Without KubeRay nothing is written: no record binds the plan to nodes that may be others by then."""
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

"""Which plan a spec gets: the recorded one while it is for this spec, else a fresh one, else why there is none."""

from __future__ import annotations

import json

from conclave.api.reasons import Reason
from conclave.catalogue.facts import ModelFacts
from conclave.catalogue.measured import MeasuredWeights
from conclave.catalogue.quantization_file import QUANTIZATION_FILE, with_quantization
from conclave.errors import ANOTHER_CHECKPOINT, InvalidInput, NotServed, UnknownModel
from conclave.finding import Finding
from conclave.kubernetes.shapes import is_shallow
from conclave.modeldeployment.inspection.source import files_of
from conclave.modeldeployment.part import PartScene
from conclave.planning.checks import Unfit, check_deployment, check_shape
from conclave.planning.plan import plan_deployment
from conclave.planning.request import facts_for
from conclave.planning.roles import Plan
from conclave.policy.data_classes import DataClasses


def choose_plan(scene: PartScene) -> Plan | Finding | None:
    """The plan, a refusal, or None while the plan waits for the model's config.json.

    A recorded plan is used until the spec changes or its owner asks for a refresh.

    A fresh plan is asked to stay as the last plan for the same question was. Plans of other specs are ignored, so that
    A -> B -> A ends with A's plan.
    """
    deployment = scene.deployment
    if refused := refusal_of(scene, check_deployment(deployment, DataClasses(names=scene.settings.data_classes))):
        return refused
    if scene.current is not None and scene.is_for_this_spec(scene.current):
        return Plan.of_flat(scene.current.plan)
    if refused := refusal_of(scene, scene.unlisted):
        return refused
    facts = _facts(scene)
    if not isinstance(facts, ModelFacts):
        return facts
    try:
        outcome = plan_deployment(deployment, facts, scene.observed.inventory, _precedent(scene))
    except InvalidInput as error:
        return scene.refuse(Reason.INVALID_SPEC, str(error))
    if outcome.plan is None:
        return scene.refuse(Reason.NOTHING_FITS, outcome.explanation)
    return _with_source(scene, outcome.plan)


def refusal_of(scene: PartScene, problems: tuple[Unfit, ...]) -> Finding | None:
    """One finding with all problems and the reason of the first problem."""
    if not problems:
        return None
    return scene.refuse(problems[0].reason, "; ".join(problem.message for problem in problems))


def _precedent(scene: PartScene) -> Plan | None:
    records = reversed(scene.history.records)
    last = next((record for record in records if record.planned == scene.keys.planned), None)
    return Plan.of_flat(last.plan) if last and scene.asks_nothing_new(last) else None


def _with_source(scene: PartScene, plan: Plan) -> Plan:
    """Adds to a plan's reasons that the catalogue does not know the model."""
    if scene.inspected.weights is None:
        return plan
    source = f"the catalogue does not know {scene.deployment.spec.model.id}: planned from config.json of "
    source += f"{files_of(scene.deployment)}: {scene.inspected.weights.summary}"
    return plan.model_copy(update={"because": (*plan.because, source[:1024])})


def _facts(scene: PartScene) -> ModelFacts | Finding | None:
    config: dict[str, object] | Finding | None
    weights: MeasuredWeights | None = None
    if scene.needs_inspection:
        if scene.inspected.weights is None:
            return scene.inspected.refusal
        config, weights = scene.inspected.weights.config, scene.inspected.weights.tensors
    else:
        config = _given_config(scene)
    if isinstance(config, Finding):
        return config
    try:
        facts = facts_for(scene.deployment.spec.model.id, config, weights)
        return refusal_of(scene, check_shape(scene.deployment, facts)) or facts
    except UnknownModel as error:
        return scene.refuse(Reason.MODEL_REFUSED, str(error))
    except NotServed as error:
        return scene.refuse(Reason.MODEL_REFUSED, str(error), ANOTHER_CHECKPOINT)
    except InvalidInput as error:
        return scene.refuse(Reason.CONFIG_INVALID, str(error))


def _given_config(scene: PartScene) -> dict[str, object] | Finding | None:
    """The config.json of `spec.model.configRef`; None where the catalogue's is meant."""
    reference, namespace = scene.deployment.spec.model.config_ref, scene.deployment.metadata.namespace
    if reference is None:
        return None
    name = reference.name
    where = f"ConfigMap {namespace}/{name}"
    data = scene.observed.config_maps.get(name, {})
    if "config.json" not in data:
        seen = "has no key config.json" if name in scene.observed.config_maps else "does not exist"
        return scene.refuse(
            Reason.CONFIG_MISSING,
            f"{where}: spec.model.configRef names this ConfigMap, and it {seen}",
            f"create it with `kubectl -n {namespace} create configmap {name} --from-file=config.json`",
        )
    config = _read_object(scene, where, "config.json", data["config.json"])
    if isinstance(config, Finding) or QUANTIZATION_FILE not in data:
        return config
    beside = _read_object(scene, where, QUANTIZATION_FILE, data[QUANTIZATION_FILE])
    return beside if isinstance(beside, Finding) else with_quantization(config, beside)


def _read_object(scene: PartScene, where: str, key: str, text: str) -> dict[str, object] | Finding:
    try:
        value: object = json.loads(text)
        is_too_deep = not is_shallow(value)
    except RecursionError:
        is_too_deep = True
    except ValueError as error:
        return scene.refuse(Reason.CONFIG_INVALID, f"{where}: {key} is not valid JSON: {error}")
    if is_too_deep:
        return scene.refuse(
            Reason.CONFIG_INVALID, f"{where}: {key} is nested too deeply, expected the {key} of a model"
        )
    if not isinstance(value, dict):
        return scene.refuse(Reason.CONFIG_INVALID, f"{where}: {key} is a {type(value).__name__}, expected an object")
    return value

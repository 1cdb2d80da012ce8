"""What is wrong with an admitted deployment, as far as catalogue, data classes and the model's own shape say.

One wording for `conclave validate` and for the operator's PlanReady=False. Knows nothing of hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from conclave.api.modeldeployment import AdapterSource, Model, ModelDeployment
from conclave.api.reasons import Reason
from conclave.catalogue.servable import check_servable, not_yet_served
from conclave.catalogue.shapes import ModelFacts
from conclave.planning.adapters import adapter_refusal
from conclave.planning.layout import Layout
from conclave.planning.parallelism import refusals, tensor_sizes
from conclave.planning.request import engine_settings
from conclave.planning.settings import kv_cache_refusal, quantization_conflict, weight_format
from conclave.planning.speculation import speculation_refusals
from conclave.policy.admission import Path, Problem
from conclave.policy.data_classes import DataClasses
from conclave.policy.runtime_lists import RuntimeLists


class Unfit(NamedTuple):
    """One reason why there can be no plan."""

    reason: Reason
    path: Path
    """The field that has to change."""
    message: str


def check_deployment(deployment: ModelDeployment, data_classes: DataClasses) -> tuple[Unfit, ...]:
    """The checks that need no config.json. An unknown model has its config.json beside its weights."""
    found = []
    if problem := data_classes.problem(deployment.spec.access.data_class):
        found.append(Unfit(Reason.DATA_CLASS_UNKNOWN, ("spec", "access", "dataClass"), problem))
    model = deployment.spec.model
    accepted = model.licence.accepted if model.licence else None
    found += [
        Unfit(Reason.MODEL_REFUSED, ("spec", "model"), problem)
        for problem in check_servable(model.id, accepted, has_config=True)
    ]
    return tuple(found)


def check_runtime(deployment: ModelDeployment, lists: RuntimeLists) -> tuple[Unfit, ...]:
    """What is not on the operator's lists, of what the pods are to run, to have and to fetch. `conclave up` has no such
    lists."""
    runtime, namespace = deployment.spec.runtime, deployment.metadata.namespace
    found = []
    if problem := lists.image_problem(runtime.image):
        found.append(Unfit(Reason.IMAGE_NOT_ALLOWED, ("spec", "runtime", "image"), problem))
    if problem := lists.account_problem(namespace, runtime.service_account_name):
        path = ("spec", "runtime", "serviceAccountName")
        found.append(Unfit(Reason.SERVICE_ACCOUNT_NOT_ALLOWED, path, problem))
    for place, source in _sources(deployment.spec.model):
        hub = source.hugging_face
        if hub and (problem := lists.hub_problem(f"{Problem(place, '').field}.huggingFace", hub)):
            found.append(Unfit(Reason.HUB_NOT_ALLOWED, (*place, "huggingFace"), problem))
    for field, keys in (("podLabels", runtime.pod_labels), ("podAnnotations", runtime.pod_annotations)):
        found += [
            Unfit(Reason.POD_KEY_NOT_ALLOWED, ("spec", "runtime", field, key), problem)
            for key in keys
            if (problem := lists.pod_key_problem(field, key))
        ]
    found += [
        Unfit(Reason.DEVICE_NOT_ALLOWED, ("spec", "runtime", "resources", "worker", "devices", name), problem)
        for name in runtime.resources.worker.devices
        if (problem := lists.device_problem(name))
    ]
    return tuple(found)


def _sources(model: Model) -> Iterator[tuple[Path, AdapterSource]]:
    yield ("spec", "model", "source"), model.source
    for index, adapter in enumerate(model.adapters):
        yield ("spec", "model", "adapters", index, "source"), adapter.source


def check_shape(deployment: ModelDeployment, facts: ModelFacts) -> tuple[Unfit, ...]:
    """What the model's own shape forbids: an engine without it, parallel sizes, quantization."""
    return tuple(_check_shape(deployment, facts))


def _check_shape(deployment: ModelDeployment, facts: ModelFacts) -> Iterator[Unfit]:
    model, engine, wanted = deployment.spec.model, deployment.spec.engine, deployment.spec.parallelism
    if problem := not_yet_served(model.id, facts.architecture):
        yield Unfit(Reason.MODEL_REFUSED, ("spec", "model", "id"), problem)
    settings = engine_settings(engine, model.adapters)
    if problem := quantization_conflict(facts, settings):
        yield Unfit(Reason.INVALID_SPEC, ("spec", "engine", "quantization"), f"spec.{problem}")
    if problem := kv_cache_refusal(facts, settings):
        yield Unfit(Reason.INVALID_SPEC, ("spec", "engine", "kvCacheDtype"), f"spec.{problem}")
    if engine.max_model_len is not None and engine.max_model_len > facts.context_tokens:
        yield Unfit(
            Reason.INVALID_SPEC,
            ("spec", "engine", "maxModelLen"),
            f"spec.engine.maxModelLen {engine.max_model_len} is more than the {facts.context_tokens} tokens of the "
            f"model's context: at most {facts.context_tokens} is allowed",
        )
    layout = Layout(
        tensor=wanted.tensor or 1,
        pipeline=wanted.pipeline or 1,
        data=wanted.data,
        expert_parallel=bool(wanted.expert_parallel),
    )
    for problem in speculation_refusals(facts, layout, settings.speculation):
        yield Unfit(Reason.INVALID_SPEC, ("spec", "engine", "speculative"), f"spec.{problem}")
    if problem := adapter_refusal(facts, settings.adapters):
        yield Unfit(Reason.INVALID_SPEC, ("spec", "model", "adapters"), f"spec.{problem}; remove them")
    for problem in refusals(facts, layout, weight_format(facts, settings)):
        sizes = ", ".join(map(str, tensor_sizes(facts)))
        yield Unfit(
            Reason.INVALID_SPEC,
            ("spec", "parallelism"),
            f"spec.parallelism {layout.describe()}: {problem}; tensor sizes that {model.id} takes: {sizes}",
        )

"""Failures made for real: the condition names the cause and the remedy, and `conclave explain` prints the chain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from e2e.bed.admission import without_library
from e2e.bed.models import Model, Running, explain, model_deployment
from e2e.bed.site import INCOMPLETE, NOWHERE, RESTRICTED, Site

CAUSE_S = 360.0
MODEL = "mistralai/Mixtral-8x7B-Instruct-v0.1"
LIBRARY = "safetensors"


@dataclass(frozen=True)
class Cause:
    """A spec that cannot work, the condition that says so, and patterns of its message: what was seen, what to do."""

    condition: str
    reason: str
    seen: tuple[str, ...]
    spec: Mapping[str, Any] = field(default_factory=dict)
    path: str = "mixtral"
    namespace: str = RESTRICTED
    stalled: bool = True


def missing(patterns: Iterable[str], text: str) -> list[str]:
    return [pattern for pattern in patterns if not re.search(pattern, text)]


def with_resources(**worker: str) -> dict[str, Any]:
    head = {"cpu": "400m", "memory": "4Gi"}
    return {"runtime": {"resources": {"head": head, "worker": {"cpu": "700m", "memory": "10Gi", **worker}}}}


IMAGE = {"runtime": {**with_resources()["runtime"], "image": NOWHERE}}
CAUSES = {
    "an image that cannot be pulled": Cause("Provisioned", "ImageNotPulled", (NOWHERE, "correct runtime.image"), IMAGE),
    "a path that the claim has not got": Cause(
        "WeightsReady", "WeightsMissing", ("/models/weights", "put the model's files into"), path="nowhere"
    ),
    "more GPUs than there are": Cause(
        "PlanReady",
        "NothingFits",
        ("TP=8 on NVIDIA-B200: needs 8 GPUs", "4 of 4 are free, at most 2 on one node"),
        {"parallelism": {"tensor": 8, "pipeline": 1}},
    ),
    "more memory than a node has": Cause(
        "Provisioned", "Unschedulable", ("Insufficient memory", "9Ti memory"), with_resources(memory="9Ti")
    ),
    # Whoever sees it first words it: the kernel's kill, as told by the kubelet, or Ray's own memory monitor.
    "less memory than the engine needs": Cause(
        "Provisioned",
        "OutOfMemory",
        (r"memory limit of 1Gi|/ 1\.00GB limit", "raise runtime.resources.worker.memory"),
        with_resources(memory="1Gi"),
    ),
    "a library that the image lacks": Cause(
        "Serving", "ImageIncomplete", (f"No module named '{LIBRARY}",), namespace=INCOMPLETE
    ),
}


@pytest.fixture(params=CAUSES.values(), ids=CAUSES)
def cause(request: pytest.FixtureRequest) -> Cause:
    found: Cause = request.param
    return found


@pytest.fixture
def failing(site: Site, running: Running, cause: Cause) -> Model:
    site.checkpoint("mixtral")
    site.kubectl.apply(*without_library(LIBRARY))
    return running.only(model_deployment(cause.namespace, "failing", MODEL, cause.path, **cause.spec))


def test_the_condition_names_the_cause_and_the_remedy(failing: Model, cause: Cause) -> None:
    condition = failing.eventually_says(cause.condition, cause.reason, CAUSE_S)
    assert condition["status"] == "False"
    assert missing(cause.seen, condition["message"]) == [], condition["message"]
    ready = failing.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", cause.reason)
    assert failing.condition("Stalled")["status"] == str(cause.stalled)
    told = explain(failing)
    assert missing((cause.reason, *cause.seen), told) == [], told

"""Each case: a deployment in its surroundings (input), what is made of it (objects) and what its owner reads (status).

A case with `kuberay_status` has been applied before: its records and its RayService, with that status, are there.
Cases that make the same objects as another one show their status only.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.sync import decide
from conclave.settings import OperatorSettings

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/input.yaml"))
SHOWN = [
    (case, part)
    for case in CASES
    for part in yaml.safe_load((case / "input.yaml").read_text(encoding="utf-8")).get("shows", ["objects", "status"])
]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TOKEN = "a-random-value"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


class Case:
    """One directory, read and run."""

    def __init__(self, directory: Path) -> None:
        given = read(directory / "input.yaml")
        self.directory = directory
        self.deployment = ModelDeployment.model_validate(given["deployment"])
        self.settings = OperatorSettings.model_validate(given["settings"])
        self.observed = Observed.model_validate(given["observed"])
        self.outcome = Outcome.model_validate(given.get("outcome", {}))
        if "kuberay_status" in given:
            self.observed = applied(self.decide(), self.observed, given["kuberay_status"])

    def decide(self) -> Decision:
        return decide(self.deployment, self.observed, self.settings, TOKEN)

    def status(self) -> JsonObject:
        return derive_status(self.deployment, self.observed, self.decide(), self.outcome, NOW).to_wire()


def applied(decision: Decision, observed: Observed, status: JsonObject) -> Observed:
    """The same surroundings after the decision was carried out and KubeRay has looked at it."""
    live = copy.deepcopy([*decision.apply])
    for item in live:
        item["metadata"] |= {"uid": f"uid-of-{item['kind']}", "generation": 1}
    rayservice = next((item for item in live if item["kind"] == "RayService"), None)
    made = [item for item in copy.deepcopy([*decision.create]) if item["kind"] == "Job"]
    for job in made:
        job["metadata"] |= {"uid": "uid-of-Job"}
    inspections = [job for job in made if names.INSPECTION_KEY in job["metadata"]["labels"]]
    jobs = [job for job in made if job not in inspections]
    return observed.model_copy(
        update={
            "rayservice": rayservice and rayservice | {"status": {"observedGeneration": 1} | status},
            "weights": observed.weights.model_copy(update={"jobs": (*observed.weights.jobs, *jobs)}),
            "inspection": observed.inspection.model_copy(update={"jobs": (*observed.inspection.jobs, *inspections)}),
            "revisions": tuple(item for item in live if item["kind"] == "ControllerRevision"),
            "network_policies": tuple(item for item in live if item["kind"] == "NetworkPolicy"),
        }
    )


def objects(decision: Decision) -> JsonObject:
    """As written: the RayService inside its record is only said to be the same."""
    applied_objects = copy.deepcopy(list(decision.apply))
    for item in applied_objects:
        if item["kind"] == "ControllerRevision":
            assert item["data"]["rayservice"] in decision.apply
            item["data"]["rayservice"] = "the RayService below"
    return {"create": list(decision.create), "apply": applied_objects, "delete": list(decision.delete)}


class _Readable(yaml.SafeDumper):
    """Text of many lines as a block, and no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


@pytest.mark.parametrize(("directory", "part"), SHOWN, ids=[f"{case.name}-{part}" for case, part in SHOWN])
def test_golden(directory: Path, part: str, update_golden: bool) -> None:
    case = Case(directory)
    made = objects(case.decide()) if part == "objects" else case.status()
    path = directory / f"{part}.yaml"
    if update_golden:
        path.write_text(yaml.dump(made, Dumper=_Readable, sort_keys=True, width=118), encoding="utf-8")
    assert made == read(path)


@pytest.mark.parametrize("directory", CASES, ids=[case.name for case in CASES])
def test_what_was_applied_is_decided_again(directory: Path) -> None:
    """The second reconcile wants exactly what the first one wrote, and creates no second token."""
    case = Case(directory)
    first = case.decide()
    if not first.apply:
        assert case.decide() == first
        return
    case.observed = applied(first, case.observed, {})
    second = case.decide()
    assert second.apply == first.apply
    assert second.plan == first.plan
    assert second.update_available == ""
    assert (second.create, second.delete) == ((), ())


@pytest.mark.parametrize("directory", CASES, ids=[case.name for case in CASES])
def test_a_status_is_derived_once(directory: Path) -> None:
    """Later, with nothing new, the status is the same, times included."""
    case = Case(directory)
    first = derive_status(case.deployment, case.observed, case.decide(), case.outcome, NOW)
    again = case.deployment.model_copy(update={"status": first})
    later = NOW.replace(year=2027)
    assert derive_status(again, case.observed, case.decide(), case.outcome, later) == first

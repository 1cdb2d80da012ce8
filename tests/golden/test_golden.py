"""Each case: a deployment in its surroundings (input), what is made of it (objects) and what its owner reads (status).

A case with `kuberay_status` has been applied before: its records and its RayService, with that status, are there.
A case that shows `download` shows what fetches the weights, and then, with the weights there, its objects. A platform's
case has the settings that the chart renders for it (`chart.py`). Cases that make the same objects as another one show
their status only. All is kept as differences to one base for each kind; `python -m tests.golden CASE` prints it whole.
"""

from __future__ import annotations

import copy
import difflib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.golden.chart import PLATFORM_CASES, rewrite_charts, settings_of
from tests.golden.differences import (
    BASE,
    CHART,
    base_path,
    differences,
    items,
    read_bases,
    text_of,
    whole,
    whole_items,
)

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.failures import Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.sync import decide
from conclave.settings import OperatorSettings
from conclave_cluster.inventory import make_inventory

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/input.yaml"))
SHOWN = [
    (case, part)
    for case in CASES
    for part in yaml.safe_load((case / "input.yaml").read_text(encoding="utf-8")).get("shows", ["objects", "status"])
    if part != "chart"
]
BASE_CASES = {"objects": "tensor-parallel-on-one-node", "status": "serving"}
"""Their objects and their status are the bases. A kind that they do not have takes the first case that has it, no
platform's before the others'."""
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
        settings = given["settings"]
        self.settings = OperatorSettings.model_validate(settings_of(directory) if settings == "chart" else settings)
        self.observed = Observed.model_validate(given["observed"])
        if "nodes" in given:
            inventory = make_inventory(given["nodes"], (), tolerations=self.deployment.spec.hardware.tolerations)
            self.observed = self.observed.model_copy(update={"inventory": inventory})
        self.outcome = Outcome.model_validate(given.get("outcome", {}))
        self.first = self.decide()
        if "download" in given.get("shows", ()):
            self.observed = downloaded(self.first, self.observed)
        if "kuberay_status" in given:
            self.observed = applied(self.decide(), self.observed, given["kuberay_status"])

    def decide(self) -> Decision:
        return decide(self.deployment, self.observed, self.settings, TOKEN)

    def status(self) -> JsonObject:
        return derive_status(self.deployment, self.observed, self.decide(), self.outcome, NOW).to_wire()


def downloaded(decision: Decision, observed: Observed) -> Observed:
    """The same surroundings after the Job has put the weights into the cache."""
    (job,) = (copy.deepcopy(item) for item in decision.create if item["kind"] == "Job")
    job["metadata"]["uid"] = "uid-of-Job"
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    return observed.model_copy(update={"weights": observed.weights.model_copy(update={"jobs": (job,)})})


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


def made_of(directory: Path, part: str) -> JsonObject:
    case = Case(directory)
    if part == "status":
        return case.status()
    return objects(case.decide() if part == "objects" else case.first)


def _begins(shown: tuple[Path, str]) -> tuple[bool, bool, tuple[Path, str]]:
    case, part = shown
    return case in PLATFORM_CASES, case.name != BASE_CASES.get(part), shown


def rewrite() -> None:
    """The bases, and each case's differences to them."""
    rewrite_charts()
    made = {
        (case, part): items(part, made_of(case, part), Case(case).deployment.metadata.name)
        for case, part in sorted(SHOWN, key=_begins)
    }
    bases: dict[Path, str] = {}
    for found in made.values():
        for item in found:
            bases.setdefault(base_path(item), item.text)
    for path in {*read_bases()} - {*bases}:
        if not path.name.startswith(CHART):
            path.unlink()
    BASE.mkdir(exist_ok=True)
    for path, text in bases.items():
        path.write_text(text, encoding="utf-8")
    for (case, part), found in made.items():
        (case / f"{part}.diff").write_text(differences(found, bases), encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def rewritten(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        rewrite()


@pytest.mark.parametrize(("directory", "part"), SHOWN, ids=[f"{case.name}-{part}" for case, part in SHOWN])
def test_golden(directory: Path, part: str) -> None:
    made, kept = made_of(directory, part), whole(directory, part)
    if made != kept:
        texts = (text_of(kept).splitlines(), text_of(made).splitlines())
        said = difflib.unified_diff(*texts, "kept in tests/golden", "made now", n=5, lineterm="")
        pytest.fail("\n".join([f"{directory.name}: other {part} than `make golden` wrote", *said]), pytrace=False)


def test_nothing_else_is_kept() -> None:
    charts = [case / "chart.diff" for case in PLATFORM_CASES]
    expected = {case / f"{part}.diff" for case, part in SHOWN} | {case / "input.yaml" for case in CASES} | {*charts}
    used = {
        base_path(item)
        for case, part in SHOWN
        for item in items(part, made_of(case, part), Case(case).deployment.metadata.name)
    }
    bases = read_bases()
    used |= {base_path(item) for chart in charts for item in whole_items(chart.read_text(encoding="utf-8"), bases)}
    assert {path for path in Path(__file__).parent.rglob("*.*") if path.suffix in (".yaml", ".diff")} == expected | used


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

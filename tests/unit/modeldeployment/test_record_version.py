"""The version that wrote a record: an annotation that changes no hash, compared without its last number."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.frozen import CASES, IDS, read
from tests.scenes import make_deployment
from tests.unit.modeldeployment.test_sync import Cluster, key

from conclave import __version__, names
from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import Reason
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.records.record import build_revision, read_records
from conclave.modeldeployment.records.version import is_newer

COMPARED: dict[str, tuple[str, str, bool]] = {
    "the same version reads its own records": ("0.2.0", "0.2.0", False),
    "a patch release records what the versions beside it read": ("0.2.7", "0.2.0", False),
    "a minor release may record what the one before cannot read": ("0.3.0", "0.2.7", True),
    "numbers are compared, not letters": ("0.10.0", "0.9.0", True),
    "a major release is newer": ("1.0.0", "0.99.0", True),
    "a candidate of a minor release is as new as the release": ("0.3.0rc1", "0.2.0", True),
    "an older version's record is read": ("0.1.0", "0.2.0", False),
    "a record without a version is 0.1.0's": ("", "0.2.0", False),
    "a text that is no version is not newer": ("newest", "0.2.0", False),
    "a number that no release has is no version": ("99999.0.0", "0.2.0", False),
}


@pytest.mark.parametrize(("version", "than", "newer"), COMPARED.values(), ids=COMPARED)
def test_versions(version: str, than: str, newer: bool) -> None:
    assert is_newer(version, than) is newer


class Scene(Cluster):
    """A deployment whose plan has been carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.deployment = make_deployment()
        self.first = self.reconcile(self.deployment)

    @property
    def record(self) -> JsonObject:
        return self.objects[key(self.first.apply[0])]

    def declare(self, version: str, *, name: str = "later", number: int = 7, data: Any = None) -> JsonObject:
        """One more record, which says that this version wrote it."""
        made = copy.deepcopy(self.record)
        made["metadata"] |= {"name": name, "annotations": {names.RECORD_VERSION: version}}
        made |= {"revision": number, "data": made["data"] if data is None else data}
        self.objects["ControllerRevision", name] = made
        return made


def assert_nothing_is_done(decision: Decision) -> None:
    assert decision.refusal is not None
    assert decision.refusal.reason == Reason.RECORD_TOO_NEW
    assert (decision.create, decision.apply, decision.delete) == ((), (), ())


def test_a_new_record_says_this_version_beside_its_data() -> None:
    record = Scene().record
    assert record["metadata"]["annotations"] == {names.RECORD_VERSION: __version__}
    assert "version" not in record["data"]


def test_the_version_changes_no_hash() -> None:
    (record,) = read_records([Scene().record])
    other = record.model_copy(update={"version": ""})
    made = build_revision(make_deployment(), other)
    assert made["metadata"]["name"] == Scene().record["metadata"]["name"]
    assert "annotations" not in made["metadata"]


@pytest.mark.parametrize(("version", "name"), CASES, ids=IDS)
def test_a_record_that_was_read_is_written_as_it_was(version: str, name: str) -> None:
    """With the name, the data and the version of then."""
    frozen = read(version, name)
    deployment = ModelDeployment.model_validate(frozen.parent)
    revisions = frozen.of("ControllerRevision")
    for record, revision in zip(read_records(revisions), revisions, strict=True):
        made = build_revision(deployment, record)
        assert made["metadata"] | {"uid": revision["metadata"]["uid"]} == revision["metadata"]
        assert (made["data"], made["revision"]) == (revision["data"], revision["revision"])


@pytest.mark.parametrize("data", [None, {}, {"plan": {"roles": []}}, "text"], ids=["ours", "nothing", "other", "text"])
def test_a_newer_record_stops_everything_whatever_it_holds(data: Any) -> None:
    scene = Scene()
    scene.declare("99.0.0", data=data)
    assert_nothing_is_done(scene.reconcile(scene.deployment))
    assert_nothing_is_done(scene.reconcile(make_deployment({"engine": {"maxModelLen": 4096}})))
    assert_nothing_is_done(scene.reconcile(make_deployment({"suspend": True})))


def test_the_message_has_both_versions_and_the_remedy() -> None:
    scene = Scene()
    scene.declare("99.0.0", name="mixtral-0123456789")
    refusal = scene.reconcile(scene.deployment).refusal
    assert refusal is not None
    assert refusal.message == (
        "ModelDeployment llm/mixtral: "
        f"ControllerRevision llm/mixtral-0123456789 was written by Conclave 99.0.0, and this operator is Conclave "
        f"{__version__}, which does not read records of a newer version. The operator leaves everything of this "
        "ModelDeployment as it is and carries out no edit of it; run the operator of Conclave 99.0.0 or newer; or have "
        "this operator plan the model anew, which may replace its pods: "
        "`kubectl -n llm delete controllerrevision mixtral-0123456789`"
    )


def test_the_remedy_names_all_newer_records_that_are_later() -> None:
    scene = Scene()
    for number, name in enumerate(("mixtral-a", "mixtral-b"), start=7):
        scene.declare("99.0.0", name=name, number=number)
    refusal = scene.reconcile(scene.deployment).refusal
    assert refusal is not None
    assert refusal.message.endswith("delete controllerrevision mixtral-b mixtral-a`")


def test_without_the_newer_record_the_one_before_counts_again() -> None:
    scene = Scene()
    later = scene.declare("99.0.0")
    assert_nothing_is_done(scene.reconcile(scene.deployment))
    del scene.objects[key(later)]
    assert scene.reconcile(scene.deployment).apply == scene.first.apply


def test_a_newer_record_that_is_older_than_the_one_that_counts_is_history() -> None:
    scene = Scene()
    scene.declare("99.0.0", number=-1)
    assert scene.reconcile(scene.deployment).apply == scene.first.apply


FORGED = ("newest", "1", "0.2", "v0.2.0", "0.2.0 ", "0.2.0\n", "٣.٣.٣", "9" * 200 + ".0.0")


@pytest.mark.parametrize("version", FORGED, ids=lambda text: repr(text[:10]))
def test_what_is_no_version_is_refused_as_a_forged_record_is(version: str) -> None:
    scene = Scene()
    scene.declare(version)
    decision = scene.reconcile(scene.deployment)
    (objection,) = decision.objections
    assert objection.reason == Reason.RECORD_REFUSED
    assert f"{names.RECORD_VERSION} is" in objection.message
    assert "expected a version of Conclave" in objection.message
    assert decision.apply == scene.first.apply

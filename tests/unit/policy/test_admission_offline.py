"""Offline admission refuses what the API server refuses, with its messages (tests/integration has the other half)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.manifest_table import ACCEPTED, BASE, REFUSED, Accepted, Refused, merge

from conclave.api.modeldeployment import ModelDeployment
from conclave.policy.admission import read_deployment


@pytest.mark.parametrize("case", REFUSED, ids=[case.id for case in REFUSED])
def test_a_bad_manifest_is_refused_with_its_message(case: Refused) -> None:
    deployment, problems = read_deployment(case.manifest)
    assert deployment is None
    assert case.expected in "\n".join(map(str, problems))


@pytest.mark.parametrize("case", ACCEPTED, ids=[case.id for case in ACCEPTED])
def test_a_good_manifest_is_read_and_written_unchanged(case: Accepted) -> None:
    deployment, problems = read_deployment(case.manifest)
    assert problems == ()
    assert deployment is not None
    again, problems = read_deployment(deployment.to_wire())
    assert problems == ()
    assert again == deployment


def test_everything_is_said_at_once() -> None:
    change = {
        "metadata": {"name": "Bad"},
        "spec": {
            "model": {"revision": "main"},
            "engine": {"extraArgs": {"host": "x", "seed": "-1"}, "env": {"LD_PRELOAD": "x"}, "dtype": "int8"},
            "scaling": {"minReplicas": 2, "maxReplicas": 1},
            "access": {"dataClass": None},
        },
    }
    _, problems = read_deployment(merge(BASE, change))
    assert {problem.field for problem in problems} == {
        "metadata.name",
        "spec.access.dataClass",
        "spec.engine.dtype",
        "spec.engine.env.LD_PRELOAD",
        "spec.engine.extraArgs.host",
        "spec.engine.extraArgs.seed",
        "spec.model.revision",
        "spec.scaling",
    }


def _deployment(change: dict[str, Any]) -> ModelDeployment:
    """As the operator reads it: what is stored is not judged by rules that came later."""
    return ModelDeployment.model_validate(merge(BASE, change))


ZERO = {"spec": {"scaling": {"minReplicas": 0, "maxReplicas": 2}}}
UPDATES: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "a stored floor of 0 stays while another field changes": (ZERO, merge(ZERO, {"spec": {"suspend": True}}), None),
    "a stored floor of 0 stays while the ceiling changes": (
        ZERO,
        merge(ZERO, {"spec": {"scaling": {"maxReplicas": 3}}}),
        None,
    ),
    "a stored floor of 0 becomes 1": (ZERO, merge(ZERO, {"spec": {"scaling": {"minReplicas": 1}}}), None),
    "a floor of 1 becomes 0": ({}, ZERO, "spec.scaling.minReplicas: minReplicas is 0, expected 1 or more"),
    "a served name changes": (
        {"spec": {"model": {"servedName": "a"}}},
        {"spec": {"model": {"servedName": "b"}}},
        "it is a (the object's name when left out) and cannot become b",
    ),
    "a served name is spelled out": ({}, {"spec": {"model": {"servedName": "mixtral"}}}, None),
    "a served name appears": (
        {},
        {"spec": {"model": {"servedName": "b"}}},
        "it is mixtral (the object's name when left out) and cannot become b",
    ),
}


@pytest.mark.parametrize(("before", "after", "expected"), UPDATES.values(), ids=UPDATES)
def test_an_update_is_judged_beside_what_it_replaces(
    before: dict[str, Any], after: dict[str, Any], expected: str | None
) -> None:
    _, problems = read_deployment(merge(BASE, after), before=_deployment(before))
    assert (expected or "") in "\n".join(map(str, problems))
    assert bool(problems) == (expected is not None)


def test_a_broken_field_hides_no_rule_of_the_objects_around_it() -> None:
    """The API server says all of these at once; pydantic stops at the first object with a broken field."""
    change = {
        "spec": {
            "model": {"id": "a b", "cache": {"size": "1Gi"}},
            "hardware": {"nodeSelector": {"a b": "c d"}, "maxGpusPerReplica": 2},
            "parallelism": {"tensor": 4, "data": 65},
            "scaling": {"minReplicas": 0, "maxReplicas": 1001},
        }
    }
    _, problems = read_deployment(merge(BASE, change))
    found = [problem.field for problem in problems]
    assert len(found) == len(set(problems))
    assert found == [
        "spec",  # parallelism is more than hardware
        "spec.hardware.nodeSelector",
        "spec.hardware.nodeSelector.a b",
        "spec.model",  # a cache without an object store
        "spec.model.id",
        "spec.parallelism",  # data is not 1
        "spec.parallelism.data",
        "spec.scaling.maxReplicas",
        "spec.scaling.minReplicas",
    ]


DOCUMENTS: dict[str, tuple[object, str]] = {
    "a list": ([BASE], "a document must be a mapping, not array"),
    "a word": ("model", "a document must be a mapping, not string"),
    "another kind": (
        merge(BASE, {"kind": "Pod"}),
        'kind "Pod" are not those of a ModelDeployment: write apiVersion: conclave.dev/v1alpha1',
    ),
    "another version": (merge(BASE, {"apiVersion": "conclave.dev/v1"}), 'apiVersion "conclave.dev/v1"'),
    "no kind": (merge(BASE, {"kind": None}), "kind null are not those of a ModelDeployment"),
    "no name": (merge(BASE, {"metadata": {"name": None}}), "metadata.name: Required value"),
    "misspelt metadata": (
        merge(BASE, {"metadata": {"lables": {}}}),
        "metadata.lables: field not declared in schema: did you mean labels?",
    ),
    "a misspelt field": (
        merge(BASE, {"spec": {"scaling": {"minReplica": 1}}}),
        "did you mean minReplicas?",
    ),
    "a field of nowhere": (
        merge(BASE, {"spec": {"access": {"xyz": 1}}}),
        "declared are allowedNamespaces, dataClass, regions",
    ),
    "a null": (
        {**BASE, "spec": {**BASE["spec"], "scaling": None}},
        "spec.scaling: is null: give a value, or leave the field out",
    ),
}


@pytest.mark.parametrize(("document", "expected"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_document_that_is_no_deployment_is_told_what_it_lacks(document: object, expected: str) -> None:
    deployment, problems = read_deployment(document)
    assert deployment is None
    assert expected in "\n".join(map(str, problems))


def test_what_kubectl_prints_is_read() -> None:
    printed = merge(BASE, {"metadata": {"managedFields": [{"manager": "kubectl"}], "generation": 1, "uid": "a-b"}})
    printed["metadata"]["creationTimestamp"] = None
    assert read_deployment(printed)[1] == ()


def test_status_is_left_to_the_operator() -> None:
    forged = merge(BASE, {"status": {"replicas": 3, "nonsense": True}})
    deployment, problems = read_deployment(forged)
    assert problems == ()
    assert deployment is not None
    assert deployment.status is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=10), values, max_size=3),
    max_leaves=10,
)
paths = st.sampled_from(
    [
        ("metadata",),
        ("metadata", "name"),
        ("metadata", "labels"),
        ("spec",),
        *(
            (("spec", field.alias or name))
            for name, field in ModelDeployment.model_fields["spec"].annotation.model_fields.items()
        ),  # type: ignore[union-attr]
        ("spec", "model", "source"),
        ("spec", "model", "source", "persistentVolumeClaim"),
        ("spec", "engine", "extraArgs"),
        ("spec", "hardware", "tolerations"),
        ("spec", "scaling", "targetConcurrency"),
        ("spec", "access", "dataClass"),
    ]
)


@given(path=paths, value=json_values)
def test_any_value_anywhere_is_taken_or_refused_but_never_an_error(path: tuple[str, ...], value: Any) -> None:
    change: Any = value
    for name in reversed(path):
        change = {name: change}
    manifest = merge(BASE, change)
    deployment, problems = read_deployment(manifest)
    assert (deployment is None) == bool(problems)
    assert not [problem for problem in problems if re.search("Input should|Value error|valid JSON", problem.message)]

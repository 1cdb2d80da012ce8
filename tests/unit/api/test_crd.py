"""The CRD is structural, bounded everywhere, described everywhere, and defaults what `GET /scale` reads."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml

from conclave.api.base import ApiModel
from conclave.api.crd import field_schema, make_crd
from conclave.api.kind import Column, Kind, Scale
from conclave.api.modeldeployment import API_VERSION, MODEL_DEPLOYMENT
from conclave.api.rules import Message, Rule
from conclave.policy.arguments import admission_rules

ROOT = Path(__file__).parents[3]
CRD = make_crd(MODEL_DEPLOYMENT, admission_rules())
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
Schema = dict[str, Any]


def _walk(path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from _walk(f"{path}.{name}", field)
    for holder in ("items", "additionalProperties"):
        if holder in schema:
            yield from _walk(f"{path}[]", schema[holder])


FIELDS = [(path, field) for part in ("spec", "status") for path, field in _walk(part, SCHEMA["properties"][part])]


def test_nothing_is_in_the_schema_that_a_structural_one_may_not_have() -> None:
    allowed = {
        *("type", "format", "description", "default", "enum", "properties", "required", "items"),
        *("additionalProperties", "minimum", "maximum", "maxLength", "minLength", "maxItems", "maxProperties"),
        *("x-kubernetes-validations", "x-kubernetes-int-or-string"),
        *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    }
    assert {key for _, field in FIELDS for key in field} <= allowed


def test_every_string_list_and_map_is_bounded() -> None:
    unbounded = [
        path
        for path, field in FIELDS
        if (field.get("type") == "string" and not field.keys() & {"maxLength", "enum"})
        or (field.get("type") == "array" and "maxItems" not in field)
        or ("additionalProperties" in field and "maxProperties" not in field)
    ]
    assert unbounded == []


def test_every_whole_number_of_the_spec_is_bounded() -> None:
    numbers = [(path, field) for path, field in FIELDS if path.startswith("spec") and field.get("type") == "integer"]
    assert numbers
    assert [path for path, field in numbers if not (field.keys() >= {"minimum", "maximum"} or "enum" in field)] == []


def test_every_object_and_every_field_that_needs_it_is_described() -> None:
    undescribed = [path for path, field in FIELDS if "properties" in field and not field.get("description")]
    assert undescribed == []


def test_every_description_is_made_of_whole_sentences() -> None:
    descriptions = [(path, field["description"]) for path, field in FIELDS if field.get("description")]
    assert len(descriptions) > 80
    assert [path for path, text in descriptions if not re.fullmatch(r"[A-Z`].*\.", text)] == []


def test_every_rule_has_a_message_without_line_breaks() -> None:
    rules = [rule for _, field in _walk("", SCHEMA) for rule in field.get("x-kubernetes-validations", [])]
    assert len(rules) > 40
    assert [
        rule for rule in rules if not rule["message"] or "\n" in rule["message"] or len(rule["message"]) > 2048
    ] == []


def test_scale_reads_a_field_that_the_server_defaults() -> None:
    assert VERSION["subresources"]["scale"] == {
        "specReplicasPath": ".spec.scaling.minReplicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    assert SCHEMA["properties"]["spec"]["properties"]["scaling"]["default"]["minReplicas"] == 1


def test_required_is_what_no_default_can_stand_for() -> None:
    required = {
        path: field_schema(SCHEMA, path.split("."))["required"]
        for path in ("spec", "spec.model", "spec.access", "spec.model.source.persistentVolumeClaim")
    }
    assert required == {
        "spec": ["model", "access"],
        "spec.model": ["id", "source"],
        "spec.access": ["dataClass"],
        "spec.model.source.persistentVolumeClaim": ["claimName"],
    }


def test_names_columns_and_scope() -> None:
    names = CRD["spec"]["names"]
    assert (names["shortNames"], names["categories"], CRD["spec"]["scope"]) == (["mdl"], ["conclave"], "Namespaced")
    columns = [column["name"] for column in VERSION["additionalPrinterColumns"]]
    assert columns == ["Model", "Accelerator", "Parallelism", "Wanted", "Answering", "Ready", "Reason", "Age"]


def test_the_committed_file_is_the_only_one_and_what_the_types_say() -> None:
    committed = yaml.safe_load((ROOT / "charts/conclave/files/crds/conclave.dev_modeldeployments.yaml").read_text())
    assert committed == json.loads(json.dumps(CRD))
    tracked = subprocess.run(["git", "ls-files", "-z", "*.yaml"], cwd=ROOT, capture_output=True, check=True, text=True)
    holders = [
        name
        for name in tracked.stdout.split("\0")
        if name and (ROOT / name).is_file() and "\nkind: CustomResourceDefinition\n" in (ROOT / name).read_text()
    ]
    assert holders == ["charts/conclave/files/crds/conclave.dev_modeldeployments.yaml"]


class ToySpec(ApiModel):
    """What a toy shall be."""

    rules = (Rule("self.size != 13", lambda spec: spec.size != 13, Message("size {size} is bad luck: take another")),)
    size: int = 1


class Toy(ApiModel):
    """A kind of this test."""

    api_version: Literal["conclave.dev/v1alpha1"] = API_VERSION
    kind: Literal["Toy"] = "Toy"
    spec: ToySpec


def test_a_second_kind_is_one_record() -> None:
    toy = Kind("Toy", "toys", Toy, ("ty",), (Column("Size", "integer", ".spec.size"),), Scale(".spec.size", ".a", ".b"))
    crd = make_crd(toy)
    assert crd["metadata"]["name"] == "toys.conclave.dev"
    assert (crd["spec"]["names"]["kind"], crd["spec"]["names"]["shortNames"]) == ("Toy", ["ty"])
    (version,) = crd["spec"]["versions"]
    assert version["additionalPrinterColumns"] == [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.size"
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert spec["x-kubernetes-validations"] == [ToySpec.rules[0].cel()]
    without_scale = make_crd(replace(toy, scale=None))
    assert without_scale["spec"]["versions"][0]["subresources"] == {"status": {}}

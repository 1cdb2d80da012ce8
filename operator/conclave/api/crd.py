"""Makes the CustomResourceDefinition of a kind from its types.

Called by tools/generate.py, which adds the rules of `conclave.policy`. Pure: types and rules in, an object out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from pydantic.alias_generators import to_camel

from conclave.api.base import ApiModel
from conclave.api.formats import DNS_1035
from conclave.api.group import GROUP, VERSION
from conclave.api.kind import Kind
from conclave.api.rules import AdmissionRule, ChangeRule

Schema = dict[str, Any]

_NOT_IN_A_CRD = {"title", "additionalProperties", "$defs"}


def make_crd(kind: Kind, rules: Mapping[tuple[str, ...], Iterable[AdmissionRule]] | None = None) -> Schema:
    """The CRD of a kind. `rules` are added at the path of the field that they are about, for instance ("spec",
    "engine")."""
    schema = structural_schema(kind.model)
    _add_rules(schema, rules or {})
    subresources: Schema = {"status": {}}
    if kind.scale is not None:
        subresources["scale"] = {to_camel(field): path for field, path in kind.scale._asdict().items()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": list(kind.short_names),
                "categories": ["conclave"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path} for name, type_, path in kind.columns
                    ],
                    "subresources": subresources,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def structural_schema(model: type[ApiModel]) -> Schema:
    """The schema of a kind as the API server takes it: without references and nulls, with defaults of nested
    objects."""
    source = model.model_json_schema(by_alias=True)
    schema = _structural(source, source["$defs"])
    properties = schema["properties"]
    for field in ("apiVersion", "kind"):  # the API server checks both, and every kind has the same description of them
        properties[field] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    schema["required"] = ["spec"]
    schema["x-kubernetes-validations"] = [
        DNS_1035.field_rule("metadata.name"),  # a CRD may not describe metadata, so the rule is at the root
        *(rule.cel() for rule in model.rules),
    ]
    _add_rules(schema, model.change_rules)
    return schema


def field_schema(schema: Schema, path: Iterable[str]) -> Schema:
    """The schema of the field at a path of property names."""
    for name in path:
        schema = schema["properties"][name]
    return schema


def _add_rules(schema: Schema, rules: Mapping[tuple[str, ...], Iterable[AdmissionRule | ChangeRule]]) -> None:
    for path, further in rules.items():
        field_schema(schema, path).setdefault("x-kubernetes-validations", []).extend(rule.cel() for rule in further)


def _structural(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """A JSON schema of pydantic as a structural schema. `description` and `default` beside a reference replace those of
    the type that the reference names."""
    if "$ref" in schema:
        own = {key: value for key, value in schema.items() if key != "$ref"}
        return _structural(deepcopy(definitions[schema["$ref"].removeprefix("#/$defs/")]) | own, definitions)
    if "anyOf" in schema:  # an optional field: the other arm is null
        own = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return _structural(schema["anyOf"][0] | own, definitions)
    result = {key: value for key, value in schema.items() if key not in _NOT_IN_A_CRD}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if result.get("type") == "integer":
        result["format"] = "int64"
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(schema["additionalProperties"], definitions)
    if "items" in result:
        result["items"] = _structural(result["items"], definitions)
        result.pop("default", None)
    if "properties" in result:
        required = result.get("required", [])
        result["properties"] = {
            name: _property(field, name in required, definitions) for name, field in result["properties"].items()
        }
    return result


def _property(schema: Schema, required: bool, definitions: Mapping[str, Schema]) -> Schema:
    """A field. An object that may be left out and is never null has a default with the defaults of all its fields.

    The API server then writes them.
    """
    result = _structural(schema, definitions)
    if "properties" in result and not required and "anyOf" not in schema:
        fields = result["properties"].items()
        result["default"] = {name: field["default"] for name, field in fields if "default" in field}
    return result

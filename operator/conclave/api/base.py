"""The base of all types of the API: frozen, camelCase in documents, unknown fields refused, with rules.

A rule is declared once, in `rules` of its type, and checked twice with the same message: by pydantic here, and by the
API server as CEL. `crd.py` reads the CEL from the JSON schema of the type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from conclave.api.rules import ChangeRule, Rule, require


class ApiModel(BaseModel):
    """Base of all types of the API. `model_validate` reads camelCase and `to_wire` writes it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Facts about several fields of this type that must hold."""
    change_rules: ClassVar[Mapping[tuple[str, ...], tuple[ChangeRule, ...]]] = {}
    """Rules about an update of a whole object, by the path of the value that they are about; () is the object itself.
    Only admission checks these rules: an object may have been stored before a rule existed."""

    def to_wire(self) -> dict[str, object]:
        """The object as Kubernetes stores it: camelCase, without optional fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        require(self.rules, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core_schema)
        if cls.rules:
            handler.resolve_ref_schema(reference)["x-kubernetes-validations"] = [rule.cel() for rule in cls.rules]
        return reference

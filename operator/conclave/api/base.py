"""The shape that every Conclave object shares: frozen, camelCase on the wire, unknown fields refused, rules beside it.

A rule is declared once, in `rules` of its type, and is then kept twice with one message: here by pydantic, and by the
API server as CEL, which `crd.py` reads from the JSON schema.
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
    """Base of all types of the API: `model_validate` takes camelCase, `to_wire` gives it back."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Facts that bind several fields of this type."""
    change_rules: ClassVar[Mapping[tuple[str, ...], tuple[ChangeRule, ...]]] = {}
    """Of a whole object: what an update may not do, by the path of the value that it binds, () for the object itself.
    Only admission checks them: a stored object may break a rule that came later."""

    def to_wire(self) -> dict[str, object]:
        """The object as Kubernetes stores it: camelCase, unset optional fields left out."""
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

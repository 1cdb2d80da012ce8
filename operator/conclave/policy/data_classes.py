"""Data classes: how sensitive data is, as an ordered list that the operator's owner may replace.

Read by `checks`; a deployment names the highest class of prompts that may be sent to it (spec.access.dataClass).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from conclave.api.formats import DataClassName
from conclave.api.rules import BrokenRulesError
from conclave.errors import InvalidInput
from conclave.policy.admission import explain

MOST_CLASSES = 16


def _an_order(names: tuple[str, ...]) -> tuple[str, ...]:
    if not 1 <= len(names) <= MOST_CLASSES:
        raise BrokenRulesError([f"{len(names)} data classes are listed, 1 to {MOST_CLASSES} are expected"])
    if len(set(names)) < len(names):
        raise BrokenRulesError([f"a data class is listed twice in {', '.join(names)}"])
    return names


DataClassOrder = Annotated[tuple[DataClassName, ...], AfterValidator(_an_order)]
"""Names of data classes, least sensitive first."""


class DataClasses(BaseModel):
    """The classes, least sensitive first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: DataClassOrder = ("public", "internal", "confidential", "restricted")

    def problem(self, name: str) -> str | None:
        """Why a class cannot be used; None if it is listed."""
        if name in self.names:
            return None
        return (
            f'spec.access.dataClass "{name}" is not one of {" < ".join(self.names)}: use one of these, '
            f"or add {name} to the chart's value dataClasses"
        )


DEFAULT_DATA_CLASSES = DataClasses()


def read_data_classes(text: str) -> DataClasses:
    """From names separated by commas, as the command line has them; raises InvalidInput."""
    try:
        return DataClasses(names=tuple(name.strip() for name in text.split(",")))
    except ValidationError as error:
        reasons = "; ".join(dict.fromkeys(problem.message for problem in explain(error, DataClasses)))
        raise InvalidInput(
            f'--data-classes "{text}": {reasons}; give names separated by commas, such as public,internal'
        ) from error

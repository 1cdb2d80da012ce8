"""Data classes: how sensitive data is, as an ordered list that the operator's owner may replace.

Read by `checks`; a deployment names the highest class of prompts that may be sent to it (spec.access.dataClass).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from conclave.api.formats import DataClassName
from conclave.errors import InvalidInput


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"a data class is listed twice in {', '.join(names)}")
    return names


class DataClasses(BaseModel):
    """The classes, least sensitive first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: Annotated[tuple[DataClassName, ...], Field(min_length=1, max_length=16), AfterValidator(_unique)] = (
        "public",
        "internal",
        "confidential",
        "restricted",
    )

    def problem(self, name: str) -> str | None:
        """Why a class cannot be used, None where it is listed."""
        if name in self.names:
            return None
        return (
            f'spec.access.dataClass "{name}" is none of {" < ".join(self.names)}: '
            "use one of these, or have the operator's list of data classes extended"
        )

    def may_hold(self, store: str, data: str) -> bool:
        """Whether data of class `data` may go where class `store` is allowed; raises InvalidInput for unknown ones."""
        return self._rank(data) <= self._rank(store)

    def _rank(self, name: str) -> int:
        if problem := self.problem(name):
            raise InvalidInput(problem)
        return self.names.index(name)


DEFAULT_DATA_CLASSES = DataClasses()

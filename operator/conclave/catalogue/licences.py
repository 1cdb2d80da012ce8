"""Licences of the models: which are plainly open, which must be named as accepted, and what they oblige to.

Read by `servable` and `conclave models`; the texts themselves are the publishers'.
"""

from __future__ import annotations

from functools import cache

from pydantic import BaseModel, ConfigDict

from conclave.catalogue.datafiles import read_rows


class LicenceTerms(BaseModel):
    """One licence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    aliases: tuple[str, ...] = ()
    """Other names that `licence.accepted` may use."""
    title: str
    open: bool
    """Whether it may be used by anybody for anything, so that nothing has to be accepted."""
    obliges: str
    """What one accepts, in one line."""
    url: str

    def is_named(self, name: str) -> bool:
        """Whether `name` means this licence."""
        return name == self.id or name in self.aliases


@cache
def all_licences() -> tuple[LicenceTerms, ...]:
    """Every licence, in the order of the data file."""
    return tuple(LicenceTerms.model_validate(row) for row in read_rows("licences.yaml"))


def find_licence(name: str) -> LicenceTerms | None:
    """The licence of that id or alias."""
    return next((licence for licence in all_licences() if licence.is_named(name)), None)

"""The models that Conclave knows: what they are, how they are served, and their `config.json`.

Read by the plan, the operator and the CLI. Says nothing about hardware; `facts.read_config` reads an entry's `config`.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.datafiles import read_folder
from conclave.catalogue.licences import LicenceTerms, find_licence


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Served(_Row):
    """Who can serve the model, and why not where nobody can."""

    by: Literal["vllm", "conclave", "not-yet", "provider", "nobody"]
    """`conclave`: vLLM with a class of ours; `not-yet`: it can be planned, and this release cannot serve it."""
    engine_class: str | None = None
    """The model class that its `architectures` names."""
    reason: str | None = None
    """Why it is not served, or not by vLLM's own class."""
    instead: tuple[str, ...] = ()
    """Models of the catalogue that do what this one does."""


class ParameterCount(_Row):
    """Published numbers of parameters; a token passes the active ones."""

    total: int = Field(ge=1)
    active: int = Field(ge=1)


class Chat(_Row):
    """How vLLM reads a chat's answer; empty where the model's own template knows neither tools nor thoughts."""

    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    thinking: Literal["always", "by default", "on request", "by degrees"] | None = None
    """When the model thinks before it answers. `by degrees`: always, and a request says how much."""

    @property
    def engine_arguments(self) -> dict[str, object]:
        """vLLM's arguments, so that tools and thoughts work for a model that nobody describes further."""
        arguments: dict[str, object] = {}
        if self.tool_call_parser:
            arguments |= {"enable_auto_tool_choice": True, "tool_call_parser": self.tool_call_parser}
        if self.reasoning_parser:
            arguments["reasoning_parser"] = self.reasoning_parser
        return arguments


class ModelEntry(_Row):
    """One model of the catalogue."""

    id: str
    """Repository id, for instance mistralai/Mixtral-8x7B-v0.1."""
    aliases: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    """Regular expressions over the whole id, for families that have no weights to serve."""
    title: str
    publisher: str
    licence: str | None = None
    """Id of the licence; None where there are no weights."""
    gated: bool = False
    """Whether the publisher's repository asks for an account and consent."""
    multimodal: bool = False
    served: Served
    chat: Chat = Chat()
    parameters: ParameterCount | None = None
    checkpoint_gib: float | None = None
    """Size of the published weights, where known."""
    source: str
    """Where the figures come from, and what could not be verified."""
    config: dict[str, object] = Field(default_factory=dict)
    """The fields of `config.json` that planning reads, under their own names."""

    @property
    def has_weights(self) -> bool:
        """Whether weights exist that could be served."""
        return bool(self.config)

    @property
    def terms(self) -> LicenceTerms | None:
        """The licence of the weights."""
        return find_licence(self.licence) if self.licence else None

    @property
    def names(self) -> tuple[str, ...]:
        """The id and its aliases."""
        return (self.id, *self.aliases)


@cache
def all_models() -> tuple[ModelEntry, ...]:
    """Every entry, in the order of the data files."""
    rows = read_folder("models")
    by_id = {str(row["id"]): row for row in rows}
    return tuple(ModelEntry.model_validate(_inherit(row, by_id)) for row in rows)


def find_model(model_id: str) -> ModelEntry | None:
    """The entry of that id or alias, or the family without weights whose pattern the id matches."""
    entry = _by_name().get(model_id)
    return entry or next((family for family in all_models() if _is_of_family(family, model_id)), None)


def suggest_models(model_id: str) -> tuple[str, ...]:
    """Up to three ids that look like `model_id`, for a message that asks "did you mean"."""
    names = {name.lower(): entry.id for name, entry in _by_name().items() if entry.has_weights}
    names |= {name.rpartition("/")[2]: model for name, model in names.items()}
    wanted = model_id.lower()
    close = [*get_close_matches(wanted, names, n=6, cutoff=0.6)]
    close += get_close_matches(wanted.rpartition("/")[2], names, n=6, cutoff=0.6)
    return tuple(dict.fromkeys(names[name] for name in close))[:3]


@cache
def _by_name() -> dict[str, ModelEntry]:
    return {name: entry for entry in all_models() for name in entry.names}


def _is_of_family(family: ModelEntry, model_id: str) -> bool:
    return any(re.fullmatch(pattern, model_id, re.IGNORECASE) for pattern in family.patterns)


def _inherit(row: dict[str, object], by_id: dict[str, dict[str, object]]) -> dict[str, object]:
    """A row with `like` takes what it does not say from the row of that id; `config` is merged field by field."""
    parent_id = row.get("like")
    if parent_id is None:
        return row
    parent = _inherit(by_id[str(parent_id)], by_id)
    own = {key: value for key, value in row.items() if key != "like"}
    merged = {key: value for key, value in parent.items() if key not in ("id", "aliases")} | own
    merged["config"] = {**_mapping(parent.get("config")), **_mapping(row.get("config"))}
    return merged


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}

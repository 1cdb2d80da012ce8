"""The allowlists of spec.engine.extraArgs and spec.engine.env: what may be set, to which values, and why the rest not.

Data in engine_arguments.yaml and environment.yaml. The CRD takes `admission_rules`, Serve configs `engine_arguments`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache, cached_property
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from conclave.api.rules import EntryRule, cel_literal
from conclave.errors import InvalidInput

_INTEGER = "0|[1-9][0-9]{0,14}"
_DECIMAL = "[0-9]{1,6}([.][0-9]{1,6})?"
_SPELLING = "key.split('=')[0].replace('-', '').replace('_', '').lowerAscii()"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Setting(_Data):
    """What one name may be set to."""

    meaning: str

    @property
    @abstractmethod
    def allowed(self) -> str:
        """What a value may be, in words."""

    @abstractmethod
    def accepts(self, value: str) -> bool:
        """Whether the value is allowed."""

    def typed(self, value: str) -> object:
        """An accepted value with its type."""
        return value

    @classmethod
    @abstractmethod
    def expression(cls, settings: Mapping[str, Any]) -> str:
        """`accepts` as CEL over `key` and `self[key]`, for the names of all settings of this class."""


class Boolean(_Setting):
    """`true` or `false`, or only one of them."""

    type: Literal["boolean"]
    only: bool | None = None

    @property
    def allowed(self) -> str:
        return " or ".join(self.words)

    @property
    def words(self) -> list[str]:
        """The values as an object spells them."""
        return ["true", "false"] if self.only is None else [str(self.only).lower()]

    def accepts(self, value: str) -> bool:
        return value in self.words

    def typed(self, value: str) -> bool:
        return value == "true"

    @classmethod
    def expression(cls, settings: Mapping[str, Boolean]) -> str:
        return _among({name: setting.words for name, setting in settings.items()})


class Integer(_Setting):
    """A whole number within bounds."""

    type: Literal["integer"]
    minimum: int
    maximum: int

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    def accepts(self, value: str) -> bool:
        return re.fullmatch(_INTEGER, value) is not None and self.minimum <= int(value) <= self.maximum

    def typed(self, value: str) -> int:
        return int(value)

    @classmethod
    def expression(cls, settings: Mapping[str, Integer]) -> str:
        return _within_bounds(_INTEGER, "int", settings)


class Decimal(_Setting):
    """A decimal number within bounds, without an exponent."""

    type: Literal["decimal"]
    minimum: float
    maximum: float

    @property
    def allowed(self) -> str:
        return f"a number from {self.minimum} to {self.maximum}"

    def accepts(self, value: str) -> bool:
        return re.fullmatch(_DECIMAL, value) is not None and self.minimum <= float(value) <= self.maximum

    def typed(self, value: str) -> float:
        return float(value)

    @classmethod
    def expression(cls, settings: Mapping[str, Decimal]) -> str:
        return _within_bounds(_DECIMAL, "double", settings)


class Choice(_Setting):
    """One of a few words or numbers."""

    type: Literal["choice"]
    choices: tuple[str | int, ...]
    without: str | None = None
    """The word for none of the choices, where a model of the catalogue has one by itself."""

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.spellings)}"

    @property
    def words(self) -> list[str]:
        """The choices as an object spells them."""
        return [str(choice) for choice in self.choices]

    @property
    def spellings(self) -> list[str]:
        """All that an object may say."""
        return self.words if self.without is None else [*self.words, self.without]

    def accepts(self, value: str) -> bool:
        return value in self.spellings

    def typed(self, value: str) -> str | int | None:
        return None if value == self.without else self.choices[self.words.index(value)]

    @classmethod
    def expression(cls, settings: Mapping[str, Choice]) -> str:
        return _among({name: setting.spellings for name, setting in settings.items()})


class Pattern(_Setting):
    """A spelling, as a regular expression over the whole value."""

    type: Literal["pattern"]
    pattern: str
    example: str

    @property
    def allowed(self) -> str:
        return f"a value such as {self.example}, matching {self.pattern}"

    def accepts(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    @classmethod
    def expression(cls, settings: Mapping[str, Pattern]) -> str:
        """One literal pattern for each name: the API server cannot bound the cost of a computed one."""
        return " && ".join(
            f"(key != {cel_literal(name)} || self[key].matches({cel_literal(f'^({setting.pattern})$')}))"
            for name, setting in settings.items()
        )


def _among(words: Mapping[str, list[str]]) -> str:
    return f"self[key] in {cel_literal(words)}[key]"


def _within_bounds(pattern: str, convert: str, settings: Mapping[str, Integer] | Mapping[str, Decimal]) -> str:
    bounds = cel_literal({name: [setting.minimum, setting.maximum] for name, setting in settings.items()})
    return (
        f"self[key].matches('^({pattern})$') && {convert}(self[key]) >= {bounds}[key][0]"
        f" && {convert}(self[key]) <= {bounds}[key][1]"
    )


Setting = Annotated[Boolean | Integer | Decimal | Choice | Pattern, Field(discriminator="type")]


class Allowlist(_Data):
    """Which names of a map of strings are allowed, to which values."""

    allowed: dict[str, Setting]
    owned: dict[str, str] = Field(default_factory=dict)
    """Names that a field of the object sets."""
    denied: dict[str, str]
    """Names and the reason why they are refused."""

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Why a name is refused, by its spelling without case, dashes and underscores."""
        return (
            {spelling(name): f"write it as {name}" for name in self.allowed}
            | {spelling(name): f"the field {field} sets it" for name, field in self.owned.items()}
            | {spelling(name): reason for name, reason in self.denied.items()}
        )

    @property
    def unlisted(self) -> str:
        """Why any other name is refused."""
        return f"it is not on the allowlist: {', '.join(self.allowed)}"

    def reason(self, name: str) -> str:
        """Why a name is refused."""
        return self.reasons.get(spelling(name), self.unlisted)

    @cached_property
    def rules(self) -> tuple[EntryRule, ...]:
        """The allowlist as rules of the map, for the API server and for Python."""
        names = EntryRule(
            f"key in {cel_literal(list(self.allowed))}",
            lambda key, _: key in self.allowed,
            "{key} is refused: {reason}",
            f"only these names are allowed: {', '.join(self.allowed)}",
            {
                "reason": (
                    f"{cel_literal(self.reasons)}[?{_SPELLING}].orValue({cel_literal(self.unlisted)})",
                    self.reason,
                )
            },
        )
        by_type = {
            type_: {name: setting for name, setting in self.allowed.items() if isinstance(setting, type_)}
            for type_ in (Boolean, Integer, Decimal, Choice, Pattern)
        }
        return (names, *(_value_rule(type_, settings) for type_, settings in by_type.items() if settings))

    def problems(self, values: Mapping[str, str]) -> list[str]:
        """Messages about the entries that are refused."""
        return [message for rule in self.rules for message in rule.violations(values)]


def spelling(name: str) -> str:
    """What is the same in `trust_remote_code`, `--trust-remote-code=true` and `trustRemoteCode`."""
    return name.split("=")[0].replace("-", "").replace("_", "").lower()


def _value_rule(type_: type[_Setting], settings: Mapping[str, Setting]) -> EntryRule:
    allowed = {name: setting.allowed for name, setting in settings.items()}
    return EntryRule(
        f"!(key in {cel_literal(list(settings))}) || ({type_.expression(settings)})",
        lambda key, value: key not in settings or settings[key].accepts(value),
        "{key} is '{value}', expected {allowed}",
        f"docs/engine-arguments.md does not allow a value of one of these settings: {', '.join(settings)}",
        {"allowed": (f"{cel_literal(allowed)}[key]", lambda key: allowed[key])},
    )


@cache
def engine_argument_list() -> Allowlist:
    """The allowlist of spec.engine.extraArgs."""
    return _read("engine_arguments.yaml")


@cache
def environment_list() -> Allowlist:
    """The allowlist of spec.engine.env."""
    return _read("environment.yaml")


def _read(name: str) -> Allowlist:
    text = (files("conclave.policy") / name).read_text(encoding="utf-8")
    return Allowlist.model_validate(yaml.safe_load(text))


def admission_rules() -> dict[tuple[str, ...], tuple[EntryRule, ...]]:
    """The rules of both allowlists by the path of the field that they bind."""
    engine = ("spec", "engine")
    return {
        (*engine, "extraArgs"): engine_argument_list().rules,
        (*engine, "env"): environment_list().rules,
    }


def engine_arguments(extra_args: Mapping[str, str]) -> dict[str, object]:
    """The extra arguments with their types, as vLLM takes them; raises InvalidInput with every refused entry."""
    allowlist = engine_argument_list()
    if problems := allowlist.problems(extra_args):
        raise InvalidInput(f"spec.engine.extraArgs: {'; '.join(problems)}")
    return {name: allowlist.allowed[name].typed(value) for name, value in extra_args.items()}

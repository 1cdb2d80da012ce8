"""Rules of the API that a schema cannot express, each declared once for the API server (CEL) and for Python.

`Rule` binds fields of an object, `EntryRule` every entry of a map, `Format` the spelling of a string, `NeverChanges`
and `OnlyNewValues` an update. A message is one template for both sides: `{engine.maxModelLen|0}` is that field, or 0
where it is unset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

CelRule = dict[str, Any]
"""An item of `x-kubernetes-validations`."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z._]+)(?:\|([^}]*))?\}")

_MOST_BYTES = 5120
"""Most bytes of a sentence with values. The API server replaces a longer sentence by the plain message."""

BROKEN_RULES = "broken_rules"
"""Type of the pydantic error that carries the messages of broken rules."""


class BrokenRulesError(PydanticCustomError):
    """The error that pydantic gets when rules are broken. `ctx["messages"]` lists the sentences."""

    def __new__(cls, messages: list[str]) -> BrokenRulesError:
        return super().__new__(cls, BROKEN_RULES, "{text}", {"text": "; ".join(messages), "messages": messages})


def cel_literal(value: str | int | float | list[str] | list[float] | Mapping[str, Any]) -> str:
    """A string, a number, or a list or map of these, as a CEL literal."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{cel_literal(key)}: {cel_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(cel_literal(item) for item in value) + "]"
    return str(value)


@dataclass(frozen=True)
class Message:
    """A sentence with fields in it."""

    template: str

    def for_value(self, value: Any) -> str:
        """The sentence about an API object, or about a string, for which {self} stands."""

        def seen(match: re.Match[str]) -> str:
            found = value
            for name in match[1].split("."):
                if isinstance(found, Mapping):
                    found = found[name]
                elif name != "self":
                    found = getattr(found, to_snake(name))
            return str(match[2] if found is None else found)

        return _PLACEHOLDER.sub(seen, self.template)

    def cel(self) -> str:
        """The same sentence as a CEL expression."""

        def seen(match: re.Match[str]) -> str:
            path = match[1] if match[1] == "self" else f"self.{match[1]}"
            if match[2] is None:
                return f"string({path})"
            return f"(has({path}) ? string({path}) : {cel_literal(match[2])})"

        return cel_sentence(self.template, seen)

    @property
    def plain(self) -> str:
        """The sentence without values."""
        return _PLACEHOLDER.sub("…", self.template)

    def told(self, value: Any) -> str:
        """The sentence that the API server says: without values when they have a line break or make it too long."""
        sentence = self.for_value(value).strip()
        return self.plain if "\n" in sentence or len(sentence.encode()) > _MOST_BYTES else sentence


def cel_sentence(template: str, seen: Callable[[re.Match[str]], str]) -> str:
    """A template as a CEL expression of a string. `seen` gives the expression of a placeholder.

    Written with format(): the API server cannot bound the cost of `+` and join() over string(integer).
    """
    matches = list(_PLACEHOLDER.finditer(template))
    if not matches:
        return cel_literal(template)
    pattern = _PLACEHOLDER.sub("%s", template.replace("%", "%%"))
    return f"{cel_literal(pattern)}.format([{', '.join(seen(match) for match in matches)}])"


class Fact(Protocol):
    """What the offline check needs of a rule."""

    def violations(self, value: Any) -> list[str]:
        """Messages about a value; empty when the rule holds."""


class AdmissionRule(Fact, Protocol):
    """What the CRD needs besides."""

    def cel(self) -> CelRule:
        """The rule as an item of `x-kubernetes-validations`."""


class ChangeRule(Protocol):
    """A rule about a value and the value that it replaces, None when the object is created."""

    def violations(self, before: Any, after: Any) -> list[str]:
        """Messages about the change; empty when the rule holds."""

    def cel(self) -> CelRule:
        """The rule as an item of `x-kubernetes-validations`."""


@dataclass(frozen=True)
class Rule:
    """A fact that must hold of one object."""

    expression: str
    """CEL over `self`."""
    holds: Callable[[Any], bool]
    """The same fact about the pydantic object."""
    message: Message

    def violations(self, value: Any) -> list[str]:
        """The message, unless the fact holds."""
        return [] if self.holds(value) else [self.message.told(value)]

    def cel(self) -> CelRule:
        """With a plain message too, for the case that the expression cannot be evaluated."""
        item = {"rule": self.expression, "message": self.message.plain}
        return item if self.message.plain == self.message.template else item | {"messageExpression": self.message.cel()}


@dataclass(frozen=True)
class EntryRule:
    """A fact that must hold of every entry of a map of strings."""

    expression: str
    """CEL over `key` and `self[key]`."""
    holds: Callable[[str, str], bool]
    """The same fact over key and value."""
    template: str
    """A sentence with the placeholders {key}, {value} and the names of `lookups`."""
    summary: str
    """The message for the case that the expression cannot be evaluated."""
    lookups: Mapping[str, tuple[str, Callable[[str], str]]] = field(default_factory=dict)
    """Further placeholders: CEL over `key`, and the same in Python."""

    def violations(self, value: Mapping[str, str]) -> list[str]:
        """One sentence for each entry that breaks the rule."""
        return [self._sentence(key, value[key]) for key in sorted(value) if not self.holds(key, value[key])]

    def _sentence(self, key: str, value: str) -> str:
        def seen(match: re.Match[str]) -> str:
            name = match[1]
            return {"key": key, "value": value}[name] if name in ("key", "value") else self.lookups[name][1](key)

        return _PLACEHOLDER.sub(seen, self.template)

    def cel(self) -> CelRule:
        """The message is a list with one sentence for each entry that breaks the rule."""

        def seen(match: re.Match[str]) -> str:
            name = match[1]
            return {"key": "key", "value": "self[key]"}[name] if name in ("key", "value") else self.lookups[name][0]

        sentence = cel_sentence(self.template, seen)
        return {
            "rule": f"self.all(key, {self.expression})",
            "message": self.summary,
            "messageExpression": (f"'%s'.format([self.filter(key, !({self.expression})).map(key, {sentence})])"),
        }


@dataclass(frozen=True)
class NeverChanges:
    """A value of an object that an update must leave as it is."""

    expression: str
    """CEL of the value; {object} stands for `self` and for `oldSelf`."""
    read: Callable[[Any], str]
    """The same value of the pydantic object."""
    template: str
    """A sentence with {before} and {after}."""

    def violations(self, before: Any, after: Any) -> list[str]:
        """The sentence, when the value of an existing object changes."""
        if before is None or self.read(before) == self.read(after):
            return []
        return [Message(self.template).told({"before": self.read(before), "after": self.read(after)})]

    def cel(self) -> CelRule:
        """A transition rule. The API server checks it on updates only."""
        seen = {"before": self.expression.format(object="oldSelf"), "after": self.expression.format(object="self")}
        return {
            "rule": f"{seen['after']} == {seen['before']}",
            "message": Message(self.template).plain,
            "messageExpression": cel_sentence(self.template, lambda match: seen[match[1]]),
        }


@dataclass(frozen=True)
class OnlyNewValues:
    """A rule that a value may break only when the object was stored with the same value before."""

    rule: Rule

    def violations(self, before: Any, after: Any) -> list[str]:
        """The rule's message, when the value is new."""
        return [] if before is not None and before == after else self.rule.violations(after)

    def cel(self) -> CelRule:
        """A transition rule. The API server checks it on creation too."""
        unchanged = "oldSelf.hasValue() && oldSelf.value() == self"
        item = self.rule.cel()
        return item | {"rule": f"{item['rule']} || ({unchanged})", "optionalOldSelf": True}


def require(rules: tuple[Fact, ...], value: Any) -> Any:
    """The value; raises BrokenRulesError with the messages of all rules that it breaks."""
    if broken := [sentence for rule in rules for sentence in rule.violations(value)]:
        raise BrokenRulesError(broken)
    return value


@dataclass(frozen=True)
class Checked:
    """Rules of a value. Used as metadata of an annotated type."""

    rules: tuple[AdmissionRule, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(partial(require, self.rules), handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        json_schema = handler(schema)
        json_schema["x-kubernetes-validations"] = [rule.cel() for rule in self.rules]
        return json_schema


@dataclass(frozen=True)
class Format:
    """How a string must be spelled. Used as metadata of an annotated `str`."""

    pattern: str
    """Must match the whole string. Uses only syntax that RE2 and Python's `re` read in the same way."""
    allowed: str
    """Completes the sentence "VALUE is not ..."."""

    def matches(self, value: str) -> bool:
        """Whether the whole string is spelled so."""
        return re.fullmatch(self.pattern, value) is not None

    def expression(self, operand: str = "self") -> str:
        """The match as a CEL expression."""
        return f"{operand}.matches({cel_literal(f'^({self.pattern})$')})"

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The one rule of such a string."""
        return (self.rule,)

    @property
    def rule(self) -> Rule:
        """The format as a rule of a string."""
        return Rule(self.expression(), self.matches, Message(f'"{{self}}" is not {self.allowed}'))

    def field_rule(self, path: str) -> CelRule:
        """The format as CEL about the string at `path` of an object."""
        message = Message(f'{path} "{{{path}}}" is not {self.allowed}')
        return Rule(self.expression(f"self.{path}"), self.matches, message).cel()

    def keys_rule(self) -> EntryRule:
        """The format as a rule of every key of a map."""
        return EntryRule(
            self.expression("key"),
            lambda key, _: self.matches(key),
            f"{{key}} is not {self.allowed}",
            f"a key is not {self.allowed}",
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return Checked((self.rule,)).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return Checked((self.rule,)).__get_pydantic_json_schema__(schema, handler)

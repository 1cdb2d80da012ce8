"""Bounds of one field of a request, and of the objects nested in the field: exact keys, types and sizes.

Pure; called by `limits/request.py`. A checked object is built anew from its checked keys, so that no other key reaches
the engine. A key that is null, or has a value that changes nothing, counts as absent before anything else is judged.
A message names a place by our own names and by positions, never by text of the client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from conclave_openai.errors import RequestError, invalid
from conclave_openai.routes import Endpoint

JsonType = Literal["string", "integer", "number", "boolean", "array", "object"]

JSON_TYPES: Mapping[JsonType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What may be repeated to a client as the name of a parameter."""


class Data(BaseModel):
    """A part of request_limits.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Refused(Data):
    """A name that is refused, and why."""

    why: str
    neutral: tuple[Any, ...] = ()
    """Values that ask for nothing: with them the name counts as absent."""


Refusals = dict[str, Annotated[Refused, BeforeValidator(lambda said: {"why": said} if isinstance(said, str) else said)]]


def is_neutral(value: object, neutral: tuple[Any, ...]) -> bool:
    """Whether the value is one of these, as JSON compares: 1 and 1.0 are equal, 1 and true are not."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral)


class FieldLimit(Data):
    """Bounds of one field. The bounds `item_*` hold for the members of an array or object.

    `shape` names the Shape of a value that is an object; `item_shape` names the Shape of each item of an array.
    """

    types: tuple[JsonType, ...]
    endpoints: tuple[Endpoint, ...] = ("chat", "completions")
    required: bool = False
    neutral: tuple[Any, ...] = ()
    """Values that count as absent, because they are the default or ask for nothing."""
    within_context: bool = False
    """A larger number of tokens than the model's context is taken as the context."""
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    min_items: int | None = None
    max_items: int | None = None
    max_characters: int | None = None
    max_bytes: int | None = None
    key_pattern: str | None = None
    item_types: tuple[JsonType, ...] = ()
    item_minimum: int | float | None = None
    item_maximum: int | float | None = None
    shape: str | None = None
    item_shape: str | None = None

    def kept(self, place: str, value: Any, shapes: Mapping[str, Shape]) -> Any:
        """The value without its dropped keys. Raises 400 where the value is out of bounds."""
        value = _whole(value, self.types)
        if self.shape is not None and isinstance(value, dict):
            value = {key: item for key, item in value.items() if item is not None}
        _check_type(place, value, self.types)
        check_number(place, value, self.minimum, self.maximum)
        if isinstance(value, str):
            self._check_text(place, value)
        if isinstance(value, list | dict):
            self._check_items(place, value)
        if self.shape is not None and isinstance(value, dict):
            return shapes[self.shape].kept(place, value, shapes)
        if self.item_shape is not None and isinstance(value, list):
            limit = shapes[self.item_shape]
            return [limit.kept(f"{place}[{index}]", item, shapes) for index, item in enumerate(value)]
        return value

    def _check_text(self, place: str, value: str) -> None:
        if self.max_characters is not None and len(value) > self.max_characters:
            raise refusal(place, f"is longer than {self.max_characters} characters")
        if self.choices and value not in self.choices:
            raise refusal(place, f"must be one of {', '.join(self.choices)}")
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise refusal(place, f"must match {self.pattern}")

    def _check_items(self, place: str, value: list[Any] | dict[str, Any]) -> None:
        if self.min_items is not None and len(value) < self.min_items:
            raise refusal(place, f"has fewer than {self.min_items} items")
        if self.max_items is not None and len(value) > self.max_items:
            raise refusal(place, f"has more than {self.max_items} items")
        if self.max_bytes is not None and len(json.dumps(value)) > self.max_bytes:
            raise refusal(place, f"is larger than {self.max_bytes} bytes")
        if self.key_pattern is not None and not all(re.fullmatch(self.key_pattern, key) for key in value):
            raise refusal(place, f"has a key that does not match {self.key_pattern}")
        if not self.item_types:
            return
        for item in value.values() if isinstance(value, dict) else value:
            _check_type(place, item, self.item_types)
            check_number(place, item, self.item_minimum, self.item_maximum)
            if isinstance(item, str):
                self._check_text(place, item)


class Shape(Data):
    """The exact keys of an object: the keys of all kinds, and the keys of the kind that the key `told_by` names."""

    told_by: str | None = None
    default: str | None = None
    """The kind of an object without the key `told_by`. The key is added, because vLLM requires it."""
    keys: dict[str, FieldLimit] = {}
    kinds: dict[str, dict[str, FieldLimit]] = {}
    dropped: dict[str, str] = {}
    refused: Refusals = {}
    names_keys: bool = False
    """Whether the refusal of a key repeats the key: it does where the keys are parameters, as in the request itself."""

    def kept(self, place: str, value: Any, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """The object without its dropped keys. Raises 400 where a key is not listed."""
        _check_type(place, value, ("object",))
        kind = self._kind(place, value)
        keys = self.keys if kind is None else {**self.keys, **self.kinds[kind]}
        kept: dict[str, Any] = {} if self.told_by is None else {self.told_by: kind}
        for key, item in value.items():
            if item is None or key == self.told_by:
                continue
            if key in keys:
                checked = keys[key].kept(f"{place}.{key}", item, shapes)
                if not is_neutral(checked, keys[key].neutral):
                    kept[key] = checked
            elif key not in self.dropped and not (key in self.refused and is_neutral(item, self.refused[key].neutral)):
                raise self._unlisted(place, key, keys)
        for key, limit in keys.items():
            if limit.required and key not in kept:
                raise refusal(f"{place}.{key}", "is required", "missing_required_parameter")
        return kept

    def _kind(self, place: str, value: dict[str, Any]) -> str | None:
        if self.told_by is None:
            return None
        kind = value.get(self.told_by)
        if kind is None:
            kind = self.default
        if not isinstance(kind, str) or kind not in self.kinds:
            raise refusal(f"{place}.{self.told_by}", f"must be one of {', '.join(self.kinds)}")
        return kind

    def _unlisted(self, place: str, key: str, keys: Mapping[str, FieldLimit]) -> RequestError:
        if key in self.refused:
            return refusal(f"{place}.{key}", f"is not accepted: {self.refused[key].why}", "unsupported_parameter")
        listed = [self.told_by, *keys] if self.told_by else keys
        takes = f"it takes {', '.join(listed)}"
        if self.names_keys and FIELD_NAME.fullmatch(key):
            return refusal(f"{place}.{key}", f"is not accepted; {takes}", "unknown_parameter")
        return refusal(place, f"has a key that is not accepted here; {takes}", "unknown_parameter")


def refusal(place: str, rule: str, code: str = "invalid_value") -> RequestError:
    """A 400 for a place such as `messages[0].content`. The refusal's `param` is the field, here `messages`."""
    return invalid(f"'{place}' {rule}.", re.split(r"[.\[]", place, maxsplit=1)[0], code)


def _whole(value: Any, types: tuple[JsonType, ...]) -> Any:
    """A whole number that JSON spells with a fraction, such as 4096.0, as the number that it is."""
    is_meant = "integer" in types and "number" not in types
    return int(value) if is_meant and isinstance(value, float) and value.is_integer() else value


def _check_type(place: str, value: object, types: tuple[JsonType, ...]) -> None:
    is_boolean = isinstance(value, bool)
    for kind in types:
        if isinstance(value, JSON_TYPES[kind]) and (kind == "boolean" or not is_boolean):
            return
    raise refusal(place, f"must be of type {' or '.join(types)}", "invalid_type")


def check_number(place: str, value: object, minimum: int | float | None, maximum: int | float | None) -> None:
    """Raises 400 where the value is a number out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if minimum is not None and value < minimum:
        raise refusal(place, f"must be at least {minimum}")
    if maximum is not None and value > maximum:
        raise refusal(place, f"must be at most {maximum}")

"""What the API server decides about a ModelDeployment at admission, decided offline with the same messages.

Called by `conclave validate` and the loader of manifest files. Takes a document as a file or the API has it: mappings,
lists and scalars. Checks that need more than the object alone are in `conclave.planning.checks`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_snake
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from conclave.api.formats import NEITHER_INTEGER_NOR_STRING
from conclave.api.modeldeployment import API_VERSION, KIND, ModelDeployment
from conclave.api.occurrences import Path as Path
from conclave.api.occurrences import find_occurrences, without_checks
from conclave.api.rules import BROKEN_RULES
from conclave.policy.arguments import admission_rules

_METADATA = {
    *("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences", "managedFields"),
    *("uid", "resourceVersion", "generation", "selfLink"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
}
_NO_RULES = {
    *("missing", "string_type", "int_type", "int_parsing", "int_from_float", "bool_type", "bool_parsing"),
    *("model_type", "dict_type", "tuple_type", NEITHER_INTEGER_NOR_STRING),
}
"""Errors beside which no further rule is evaluated: rules rely on types. The API server then checks no rule at all, and
neither does it beside a value that is too long or none of the choices."""
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


class Problem(NamedTuple):
    """One reason why a document is refused."""

    path: Path
    """Where in the document."""
    message: str

    @property
    def field(self) -> str:
        """The path as Kubernetes writes it, for instance spec.hardware.tolerations[0].key."""
        text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return text.removeprefix(".")

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.path else self.message


def read_deployment(
    document: object, before: ModelDeployment | None = None
) -> tuple[ModelDeployment | None, tuple[Problem, ...]]:
    """The deployment, and everything for which admission refuses it; the deployment is None where there is anything.

    Without `before` the document is judged as a new object, with it as an update of that one.
    """
    if not isinstance(document, Mapping):
        return None, (Problem((), f"a document must be a mapping, not {_json_type(document)}"),)
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind != (API_VERSION, KIND):
        return None, (
            Problem(
                ("kind",),
                f"apiVersion {_json(kind[0])} and kind {_json(kind[1])} are not those of a ModelDeployment: "
                f"write apiVersion: {API_VERSION} and kind: {KIND}",
            ),
        )
    candidate = {name: value for name, value in document.items() if name != "status"}  # the server drops it as well
    if isinstance(metadata := candidate.get("metadata"), Mapping):  # of another type, where null is unset
        candidate["metadata"] = {name: value for name, value in metadata.items() if value is not None}
    nulls = list(_nulls((), candidate))
    problems = [*nulls, *_unknown_metadata(candidate), *_refused_entries(candidate)]
    deployment = None
    try:
        deployment = ModelDeployment.model_validate_json(
            json.dumps(candidate), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        at_null = {problem.path for problem in nulls}
        problems += [problem for problem in explain(error, ModelDeployment) if problem.path not in at_null]
        if not nulls and not any(details["type"] in _NO_RULES for details in error.errors(include_url=False)):
            problems += _broken_rules(without_checks(ModelDeployment, candidate), before)
    else:
        problems += _broken_change_rules(deployment, before)
    ordered = tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.field))
    return (None if ordered else deployment), ordered


def _broken_rules(unchecked: ModelDeployment, before: ModelDeployment | None) -> Iterator[Problem]:
    """Those that pydantic did not come to, since a field of the same object is wrong, among all others."""
    for found in find_occurrences(unchecked):
        yield from (Problem(found.path, message) for message in found.messages)
    yield from _broken_change_rules(unchecked, before)


def _broken_change_rules(deployment: ModelDeployment, before: ModelDeployment | None) -> Iterator[Problem]:
    for path, rules in deployment.change_rules.items():
        was, is_ = (value_at(path, each) for each in (before, deployment))
        yield from (Problem(path, message) for rule in rules for message in rule.violations(was, is_))


def value_at(path: tuple[str, ...], value: Any) -> Any:
    """The value at a path of an object's field names; None if there is no such value."""
    for name in path:
        value = None if value is None else getattr(value, to_snake(name))
    return value


def _nulls(path: Path, value: object) -> Iterator[Problem]:
    """A null is refused or replaced by a default, by fields that look alike: nobody should have to know which."""
    if value is None:
        yield Problem(path, "is null: give a value, or leave the field out")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _nulls((*path, name), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nulls((*path, index), item)


def _unknown_metadata(document: Mapping[str, Any]) -> Iterator[Problem]:
    metadata = document.get("metadata")
    for name in metadata if isinstance(metadata, Mapping) else ():
        if name not in _METADATA:
            yield Problem(("metadata", name), _undeclared(name, _METADATA))


def _refused_entries(document: Mapping[str, Any]) -> Iterator[Problem]:
    for path, rules in admission_rules().items():
        entries: Any = document
        for name in path:
            entries = entries.get(name) if isinstance(entries, Mapping) else None
        if isinstance(entries, Mapping) and all(isinstance(value, str) for value in entries.values()):
            for name, value in entries.items():
                yield from (
                    Problem((*path, name), message) for rule in rules for message in rule.violations({name: value})
                )


def explain(error: ValidationError, root: type[BaseModel]) -> tuple[Problem, ...]:
    """What pydantic found wrong with a `root`, in the API server's words."""
    return tuple(problem for details in error.errors(include_url=False) for problem in _explain(details, root))


def _explain(details: ErrorDetails, root: type[BaseModel]) -> Iterator[Problem]:
    path: Path = details["loc"]
    if details["type"] == BROKEN_RULES:
        yield from (Problem(path, message) for message in details["ctx"]["messages"])
    elif details["type"] == "missing":
        yield Problem(path, f"Required value{_meaning(root, path)}")
    elif details["type"] == "extra_forbidden":
        yield Problem(path, _undeclared(str(path[-1]), set(_fields(_type_at(root, path[:-1])))))
    elif details["type"] in _WORDING:
        field = Problem(path, "").field
        if details["type"] in ("enum", "literal_error") and type(details["input"]) is not _type_of_choices(details):
            words = _whole_number if _type_of_choices(details) is int else _of_type("string")
            yield Problem(path, words(field, details["input"], {}))
        yield Problem(path, _WORDING[details["type"]](field, details["input"], details.get("ctx", {})))
    elif details["type"] != "default_factory_not_called":  # follows from another error
        yield Problem(path, f"Invalid value: {_json(details['input'])}: {details['msg']}")


def _of_type(json_type: str) -> Callable[..., str]:
    return lambda field, value, _context: (
        f"Invalid value: {_json(_json_type(value))}: {field} in body must be of type {json_type}: "
        f"{_json(_json_type(value))}"
    )


def _whole_number(field: str, value: Any, _context: dict[str, Any]) -> str:
    """Of a text or a list the API server names the type. Of any other value it names the number's format: only a
    fraction has one."""
    if isinstance(value, str | list):
        return _of_type("integer")(field, value, {})
    seen = "float64" if isinstance(value, float) else ""
    return f'Invalid value: "{seen}": {field} in body must be of type int64: "{seen}"'


_WORDING: Mapping[str, Callable[[str, Any, dict[str, Any]], str]] = {
    "string_type": _of_type("string"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _whole_number),
    **dict.fromkeys(("bool_type", "bool_parsing"), _of_type("boolean")),
    NEITHER_INTEGER_NOR_STRING: _of_type("integer,string"),
    "model_type": _of_type("object"),
    "dict_type": _of_type("object"),
    "tuple_type": _of_type("array"),
    "enum": lambda _field, value, context: _unsupported(value, context["expected"]),
    "literal_error": lambda _field, value, context: _unsupported(value, context["expected"]),
    "string_too_long": lambda _field, _value, context: f"Too long: may not be more than {context['max_length']} bytes",
    "too_long": lambda _field, value, context: (
        f"Too many: {len(value)}: must have at most {context['max_length']} items"
    ),
    "string_too_short": lambda field, value, context: (
        f"Invalid value: {_json(value)}: {field} in body should be at least {context['min_length']} chars long"
    ),
    "greater_than": lambda field, value, context: (
        f"Invalid value: {_json(value)}: {field} in body should be greater than {context['gt']:g}"
    ),
    "greater_than_equal": lambda field, value, context: (
        f"Invalid value: {_json(value)}: {field} in body should be greater than or equal to {context['ge']}"
    ),
    "less_than_equal": lambda field, value, context: (
        f"Invalid value: {_json(value)}: {field} in body should be less than or equal to {context['le']}"
    ),
}


def _type_of_choices(details: ErrorDetails) -> type:
    return str if details["ctx"]["expected"].startswith("'") else int


def _unsupported(value: object, expected: str) -> str:
    """`expected` is pydantic's list, for instance "'auto', 'bfloat16' or 'float16'", or "1, 8 or 16"."""
    words = re.findall(r"[^\s',]+", expected.replace(" or ", ", "))
    return f"Unsupported value: {_json(value)}: supported values: {', '.join(map(_json, words))}"


def _undeclared(name: str, declared: set[str]) -> str:
    close = get_close_matches(name, declared, n=1)
    meant = f": did you mean {close[0]}?" if close else f"; declared are {', '.join(sorted(declared))}"
    return f"field not declared in schema{meant}"


def _meaning(root: type[BaseModel], path: Path) -> str:
    """What a missing field says, as its remedy."""
    field = _fields(_type_at(root, path[:-1])).get(str(path[-1]))
    return f": {' '.join(field.description.split())}" if field and field.description else ""


def _fields(owner: type[BaseModel] | None) -> dict[str, FieldInfo]:
    """By their names in a document."""
    return {field.alias or name: field for name, field in owner.model_fields.items()} if owner else {}


def _type_at(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The type of the object at a path below `root`, None for what is no object of it."""
    current: type[BaseModel] | None = root
    for step in path:
        if isinstance(step, str):
            field = _fields(current).get(step)
            current = _model_in(field.annotation) if field else None
    return current


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, getattr(annotation, "__args__", ()))), None)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _json_type(value: object) -> str:
    return "null" if value is None else _JSON_TYPES.get(type(value), type(value).__name__)

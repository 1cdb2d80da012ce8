"""Finds every rule that applies to a document or to a value in it, as the API server does.

pydantic checks the rules of an object only when all fields of the object are valid. The API server checks all rules of
a document whose types are right. `conclave.policy.admission` calls this to report the same problems as the API server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from conclave.api.base import ApiModel
from conclave.api.rules import Fact

Path = tuple[str | int, ...]


class Occurrence(NamedTuple):
    """One rule and one value of the document that the rule applies to."""

    path: Path
    rule: Fact
    value: Any

    @property
    def messages(self) -> list[str]:
        """What the rule says about the value; empty when the rule holds."""
        return self.rule.violations(self.value)


def find_occurrences(resource: ApiModel) -> Iterator[Occurrence]:
    """Every rule of the object and of all values in it."""
    return _of_object((), resource)


def without_checks(model: type[ApiModel], document: Mapping[str, Any]) -> Any:
    """The object of a document with its defaults and without any check. The types of all values must be right."""
    given = {
        name: _construct(field.annotation, document[field.alias or name])
        for name, field in model.model_fields.items()
        if (field.alias or name) in document
    }
    return model.model_construct(**given)


def _construct(annotation: Any, value: Any) -> Any:
    type_, _ = _unwrap(annotation)
    if _is_model(type_):
        return without_checks(type_, value)
    if get_origin(type_) is tuple:
        return tuple(_construct(get_args(type_)[0], item) for item in value)
    return value


def _of_object(path: Path, resource: ApiModel) -> Iterator[Occurrence]:
    yield from (Occurrence(path, rule, resource) for rule in resource.rules)
    for name, field in type(resource).model_fields.items():
        value = getattr(resource, name)
        yield from _of_value((*path, field.alias or name), field.annotation, tuple(field.metadata), value)


def _of_value(path: Path, annotation: Any, metadata: tuple[Any, ...], value: Any) -> Iterator[Occurrence]:
    if value is None:
        return
    type_, further = _unwrap(annotation)
    for item in (*metadata, *further):
        yield from (Occurrence(path, rule, value) for rule in getattr(item, "rules", ()))
    if _is_model(type_):
        yield from _of_object(path, value)
    elif get_origin(type_) is tuple:
        for index, item in enumerate(value):
            yield from _of_value((*path, index), get_args(type_)[0], (), item)
    elif get_origin(type_) is dict:
        for key, item in value.items():
            yield from _of_value((*path, key), get_args(type_)[1], (), item)


def _unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """A field's type without `None` and without its metadata, and the metadata."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        type_, further = _unwrap(inner)
        return type_, (*further, *metadata)
    arms = [arm for arm in get_args(annotation) if arm is not type(None)]
    if len(arms) == 1 and type(None) in get_args(annotation):
        return _unwrap(arms[0])
    return annotation, ()


def _is_model(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, ApiModel)

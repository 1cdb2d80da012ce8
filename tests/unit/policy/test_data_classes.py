"""Data classes: the default order, a configured one, and names that are in none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from conclave.errors import InvalidInput
from conclave.policy.data_classes import DEFAULT_DATA_CLASSES, DataClasses


@pytest.mark.parametrize(
    ("store", "data", "may"),
    [("internal", "public", True), ("internal", "internal", True), ("internal", "confidential", False)],
    ids=["less sensitive data", "data of the same class", "more sensitive data"],
)
def test_data_goes_only_where_its_class_is_allowed(store: str, data: str, may: bool) -> None:
    assert DEFAULT_DATA_CLASSES.may_hold(store, data) is may


def test_a_configured_order_replaces_the_default() -> None:
    classes = DataClasses(names=("open", "secret"))
    assert classes.problem("secret") is None
    assert classes.problem("public") == (
        'spec.access.dataClass "public" is not one of open < secret: '
        "use one of these, or add public to the chart's value dataClasses"
    )
    with pytest.raises(InvalidInput, match='"public" is not one of open < secret'):
        classes.may_hold("public", "open")


@pytest.mark.parametrize("names", [(), ("a", "a"), ("A",), ("a b",)], ids=["none", "one twice", "a capital", "a space"])
def test_a_list_that_is_no_order_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        DataClasses(names=names)

"""Data classes: the default order, a configured one, and names that are in none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from conclave.policy.data_classes import DataClasses


def test_a_configured_order_replaces_the_default() -> None:
    classes = DataClasses(names=("open", "secret"))
    assert classes.problem("secret") is None
    assert classes.problem("public") == (
        'spec.access.dataClass "public" is not one of open < secret: '
        "use one of these, or add public to the chart's value dataClasses"
    )


@pytest.mark.parametrize("names", [(), ("a", "a"), ("A",), ("a b",)], ids=["none", "one twice", "a capital", "a space"])
def test_a_list_that_is_no_order_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        DataClasses(names=names)

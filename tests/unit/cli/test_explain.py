"""What `conclave explain` takes from the operator's own report."""

from __future__ import annotations

import pytest

from conclave_cli.explain import _only_reported


@pytest.mark.parametrize(
    ("ready", "reported"),
    [
        ({"status": "Unknown", "reason": "InternalError"}, "InternalError"),
        ({"status": "False", "reason": "WriteRejected"}, "WriteRejected"),
        ({"status": "True", "reason": "AsWanted"}, ""),
        ({}, ""),
    ],
)
def test_a_reason_that_only_the_operator_can_know_is_told(ready: dict[str, str], reported: str) -> None:
    assert _only_reported(ready, ()) == reported

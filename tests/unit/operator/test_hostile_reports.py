"""What a pod may report of itself: whatever it is, the pass over its deployment ends with conditions of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.unit.operator.hostile_worlds import downloading, in_trouble, inspecting, serving
from tests.unit.operator.simulation import NAMESPACE, Simulation

from conclave_cluster.resources import POD

REPORTS = {
    "more bytes than a float holds": json.dumps({"doneBytes": 10**4000, "totalBytes": 1}),
    "of fewer bytes than none": json.dumps({"doneBytes": -1, "totalBytes": -(10**4000)}),
    "truths for bytes": json.dumps({"doneBytes": True, "totalBytes": False}),
    "only line breaks": "\n\n\n",
    "only a space": " ",
    "an error of line breaks": json.dumps({"error": "DigestMismatch", "message": "\n"}),
    "an error that is a list": json.dumps({"error": ["DigestMismatch"], "message": {"a": 1}}),
    "control characters": json.dumps({"error": "DigestMismatch", "message": "\x1b[31m\u202e\n\x00"}),
    "half a character": '{"error": "DigestMismatch", "message": "\\ud800"}',
    "a deep nest": '{"error": "DigestMismatch", "message": ' + "[" * 2000 + "]" * 2000 + "}",
    "a target that is none": json.dumps({"egress": "open", "target": "\x1b[31m:1"}),
    "a number": "1" + "0" * 4000,
}


def ends(world: Simulation) -> Iterator[dict[str, Any]]:
    """How containers of the namespace's pods ended."""
    for (kind, namespace, _), pod in world.cluster.objects.items():
        if (kind, namespace) == (POD, NAMESPACE):
            status = pod["status"]
            for container in (*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])):
                for state in (container.get("state", {}), container.get("lastState", {})):
                    if "terminated" in state:
                        yield state["terminated"]


@pytest.mark.parametrize("exit_code", [0, 1], ids=["it ended well", "it failed"])
@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
@pytest.mark.parametrize("make_world", [downloading, inspecting, in_trouble, serving], ids=lambda make: make.__name__)
def test_a_report_of_any_kind_ends_no_pass(make_world: Callable[[], Simulation], report: str, exit_code: int) -> None:
    world = make_world()
    for end in ends(world):
        end.update(message=report, exitCode=exit_code)
    world.step()
    conditions = world.deployment()["status"]["conditions"]
    assert all(condition["message"].isprintable() for condition in conditions)
    assert "InternalError" not in [condition["reason"] for condition in conditions]

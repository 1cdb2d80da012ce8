"""Whoever names or writes something may hide characters in it: what people read of it spells each one out."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import redirect_stdout
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cli.test_terminal import STEERING
from tests.unit.operator.hostile_worlds import WORLDS, Path, downloading, fields_of, foreign_objects, with_field
from tests.unit.operator.simulation import Simulation
from tests.unit.operator.test_fuzz_foreign_objects import UNREAD, look

from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.failures import ApiFailure, Outcome
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.root_cause import explain as find_causes
from conclave.modeldeployment.status import derive_status
from conclave.modeldeployment.sync import decide
from conclave.visible_text import one_line
from conclave_cli import explain, status
from conclave_cli.terminal import say_table
from conclave_cluster.observe import observe
from conclave_operator.model_deployments import model_deployments
from conclave_operator.transitions import build_events

HIDDEN = (
    *"\x00\x07\x08\x0b\x1b\x7f\x85\x9b\xad\r\n\t",
    *"\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u2028\u202e\u2060\u2066\u3164\ufe0f\ufeff\ufff9\U000e0041",
)
"""Controls, zero width, writing directions, line separators, fillers, variants and tags."""
HIDING = st.text(st.sampled_from(HIDDEN), min_size=1, max_size=3)


@cache
def texts_of(number: int) -> list[tuple[Any, Path, str]]:
    """Each text of each object that others made, with where it is."""
    world = _world(number)[0]
    found = []
    for key, item in foreign_objects(world):
        for path in fields_of(item):
            at: Any = item
            for step in path:
                at = at[step]
            if isinstance(at, str) and (key[0], path[0]) not in UNREAD and path[:2] != ("data", "rayservice"):
                found.append((key, path, at))
    return found


@cache
def _world(number: int) -> tuple[Simulation, ModelDeployment]:
    world = WORLDS[number]()
    return world, ModelDeployment.model_validate(world.deployment())


def sentences(world: Simulation, status: JsonObject) -> list[str]:
    """All that a status and the events about it say."""
    plan = status.get("plan", {})
    item = {**world.deployment(), "status": {}}
    events = build_events(item, status, world.now, model_deployments(world.settings))
    return [
        *(condition["message"] for condition in status["conditions"]),
        *plan.get("because", ()),
        *(text for option in plan.get("rejected", ()) for text in (option["option"], option["reason"])),
        *(event["message"] for event in events),
    ]


@settings(max_examples=200)
@given(data=st.data())
def test_conditions_plans_events_and_commands_spell_out_what_others_hide(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(WORLDS) - 1))
    world, deployment = _world(number)
    before = dict(world.cluster.objects)
    try:
        for key, path, text in data.draw(st.lists(st.sampled_from(texts_of(number)), min_size=1, max_size=4)):
            at, hiding = data.draw(st.integers(0, len(text))), data.draw(HIDING)
            world.cluster.objects[key] = with_field(world.cluster.objects[key], path, text[:at] + hiding + text[at:])
        said = look(world, deployment)
        assert [text for text in sentences(world, said) if one_line(text) != text] == []
        assert STEERING.search(_commands(world, deployment, said)) is None
    finally:
        world.cluster.objects = before


def _commands(world: Simulation, deployment: ModelDeployment, said: JsonObject) -> str:
    """What `conclave status` and `conclave explain` print."""
    item = world.deployment()
    item["metadata"]["creationTimestamp"] = "2026-11-23T00:00:00Z"
    item["status"] = said
    with redirect_stdout(io.StringIO()) as printed:
        status._show(item)
        say_table(status._table([item], all_namespaces=True))
        observed = asyncio.run(observe(world.cluster, deployment))
        for cause in find_causes(deployment, observed, world.now):
            explain._print(1, cause)
    return printed.getvalue()


REPORTS = {
    "an error of a download": {"error": "DigestMismatch", "message": "model\u200b.safetensors differs\u202e"},
    "no error that is known": {"error": "Other", "message": "\u2066x\u3164"},
}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_what_a_report_hides_behind_escapes_of_json_is_spelled_out(report: dict[str, str]) -> None:
    """A pod's words are ASCII until they are read."""
    world = downloading()
    for (_, _, name), pod in world.cluster.objects.items():
        if name == "the-pod":
            end = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
            end["message"] = json.dumps(report)
    world.step()
    said = world.condition("WeightsReady")["message"]
    assert one_line(said) == said
    assert one_line(report["message"]) in said


def test_an_answer_of_the_api_server_is_spelled_out() -> None:
    world, deployment = _world(0)
    failure = ApiFailure(verb="create", resource="jobs", code=400, reason="Invalid", message="a\u200bb\u202e")
    observed = asyncio.run(observe(world.cluster, deployment))
    decision = decide(deployment, observed, world.settings, "token")
    said = derive_status(deployment, observed, decision, Outcome(failures=(failure,)), world.now).to_wire()
    assert [text for text in sentences(world, said) if one_line(text) != text] == []
    assert any(r"a\u200bb\u202e" in condition["message"] for condition in said["conditions"])

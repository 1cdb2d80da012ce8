"""What the operator tells besides the status: events, log lines, spans, probes."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry import trace
from tests.scenes import SETTINGS

from conclave_operator.logs import JsonFormatter
from conclave_operator.metrics import Metrics
from conclave_operator.model_deployments import model_deployments
from conclave_operator.probes import serve_probes, stale_watch
from conclave_operator.tracing import set_up_tracing, span
from conclave_operator.transitions import BURST, MOST_REMEMBERED, REFILL_S, Budget, build_events

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KIND = model_deployments(SETTINGS)


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": f"{reason} it is"}


def deployment(*conditions: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "m", "namespace": "n", "uid": "u", "resourceVersion": "1"}
    status = {"conditions": list(conditions)} if conditions else None
    return {"apiVersion": "conclave.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "status": status}


PLANNED = condition("PlanReady", "True", "Planned")
STARTING = condition("Ready", "False", "PodsStarting")
STUCK = condition("Ready", "False", "ClaimMissing")
STALLED = condition("Stalled", "True", "ClaimMissing")
CURRENT = condition("UpdateAvailable", "False", "UpToDate")
OUTDATED = condition("UpdateAvailable", "True", "BuilderChanged")
UNTESTED = condition("EgressEnforced", "Unknown", "EgressUntested")
OPEN = condition("EgressEnforced", "False", "EgressOpen")
CLOSED = condition("EgressEnforced", "True", "EgressClosed")
KEPT = condition("WithinPolicy", "True", "AsWanted")
FORGED = condition("WithinPolicy", "False", "RecordRefused")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], [PLANNED, STARTING, CURRENT], [("Normal", "Planned"), ("Normal", "PodsStarting")]),
        ([PLANNED, STARTING, CURRENT], [PLANNED, STARTING, CURRENT], []),
        ([PLANNED, STARTING], [PLANNED, STUCK, STALLED], [("Warning", "ClaimMissing")]),
        ([CURRENT], [OUTDATED], [("Normal", "BuilderChanged")]),
        ([STARTING], [{**STARTING, "message": "another message"}], []),
        ([UNTESTED], [OPEN], [("Warning", "EgressOpen")]),
        ([OPEN], [OPEN], []),
        ([OPEN], [UNTESTED], []),
        ([UNTESTED], [CLOSED], []),
        ([], [KEPT], []),
        ([KEPT], [FORGED], [("Warning", "RecordRefused")]),
        ([FORGED], [KEPT], []),
    ],
    ids=[
        "a first status",
        "nothing new",
        "a cause that needs somebody",
        "an update",
        "another message only",
        "egress is found open",
        "egress is still open",
        "the pod that found egress open goes",
        "egress is found closed",
        "nothing is refused",
        "a record is refused",
        "the refused record is deleted",
    ],
)
def test_events_are_transitions(before: list[Any], after: list[Any], told: list[tuple[str, str]]) -> None:
    events = build_events(deployment(*before), {"conditions": after}, NOW, KIND)
    assert [(event["type"], event["reason"]) for event in events] == told


def test_a_long_message_is_cut_to_what_an_event_may_hold() -> None:
    long = {**STUCK, "message": "x" * 5000}
    (event,) = build_events(deployment(), {"conditions": [long]}, NOW, KIND)
    assert len(event["message"]) == 1024


def test_a_flapping_object_spends_its_budget_and_earns_it_back_slowly() -> None:
    budget = Budget()
    assert [budget.take("u", 0) for _ in range(BURST + 2)] == [True] * BURST + [False, False]
    assert budget.take("other", 0)
    assert not budget.take("u", REFILL_S / 2)
    assert budget.take("u", REFILL_S)


def test_budgets_of_objects_that_are_gone_are_forgotten() -> None:
    budget = Budget()
    for number in range(MOST_REMEMBERED):
        budget.take(f"gone-{number}", 0.0)
    later = BURST * REFILL_S + 1
    assert budget.take("new", later)
    assert list(budget._left) == ["new"]


def test_json_log_lines_carry_the_fields_and_the_traceback() -> None:
    record = logging.LogRecord("conclave_operator", logging.WARNING, "f.py", 1, "%s failed", ("it",), None)
    record.deployment = "m"
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["deployment"]) == ("it failed", "warning", "m")
    assert "ValueError: why" in line["exception"]


def test_without_an_endpoint_no_span_is_recorded() -> None:
    assert set_up_tracing({}) is False
    with span("reconcile", {"k": "v"}) as current:
        assert not current.is_recording()
    assert not isinstance(current, trace.NonRecordingSpan) or current.get_span_context().trace_id == 0


@pytest.mark.parametrize(
    ("ages_s", "lag_s", "told"),
    [
        ([("pods", 10), ("nodes", 59)], 0, ""),
        ([], 0, ""),
        ([("pods", 10), ("nodes", 61)], 0, "nodes"),
        ([("pods", 10)], 61, "modeldeployments"),
    ],
    ids=["all fresh", "none yet", "one silent", "kopf's own behind a list"],
)
def test_a_watch_that_is_not_heard_is_named(ages_s: list[tuple[str, float]], lag_s: float, told: str) -> None:
    problem = stale_watch(ages_s, lag_s, allowed_s=60)
    assert (told in problem) if told else problem == ""


def test_probes_answer_with_what_is_wrong() -> None:
    problem = ""

    def get(port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def main() -> None:
        nonlocal problem
        metrics = Metrics()
        metrics.watch(lambda: 3, lambda: 2, lambda: True, lambda: 0.5)
        metrics.watch_ages(lambda: [("pods", 1.5)])
        async with serve_probes(0, metrics.registry, lambda: problem, lambda: "the caches") as port:
            assert await asyncio.to_thread(get, port, "/healthz") == (200, "ok\n")
            assert await asyncio.to_thread(get, port, "/readyz") == (503, "the caches\n")
            problem = "the watch of pods has been silent for 400 s"
            assert await asyncio.to_thread(get, port, "/healthz") == (503, f"{problem}\n")
            text = (await asyncio.to_thread(get, port, "/metrics"))[1]
        assert "conclave_queue_length 3.0" in text
        assert 'conclave_watch_age_seconds{resource="pods"} 1.5' in text
        assert "conclave_leader 1.0" in text

    asyncio.run(main())

"""Texts that anybody may write, as long as an object may be: what is looked for in them is found in bounded work."""

from __future__ import annotations

import time

import pytest
from tests.scenes import make_event, make_rayservice

from conclave.engine.exceptions import find_cause
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.shapes import LONGEST_REPORT, read_event, read_raycluster, read_rayservice
from conclave.modeldeployment.serving.failed_pods import _read
from conclave.visible_text import one_line

MOST_CPU_S = 5.0
"""Of texts that took minutes and more; seen now are hundredths of a second."""
STATE = "Ray container terminated status: &ContainerStateTerminated{ExitCode:1,Signal:0,Reason:x,Message:"
EVENTS = {
    "many beginnings": "Deleted head Pod a/b; " * 50_000,
    "many states": "Deleted head Pod a/b; " + STATE * 20_000,
    "many ends": "Deleted head Pod a/b; " + STATE + ",StartedAt:,FinishedAt:" * 50_000,
    "many of each": "Deleted head Pod a/b; " * 100 + STATE * 30 + ",StartedAt:,FinishedAt:" * 150,
    "long names": "Deleted head Pod " + "a" * 500_000 + "/b; ",
}
MESSAGES = {
    "a level and digits": "ERROR " + "1" * 1_000_000,
    "levels and digits on each line": ("INFO " + "1 " * 150 + "\n") * 3000,
    "a process without an end": "(a pid=1" * 100_000,
    "dots": "a." * 500_000 + "Error",
    "brackets": "ERROR 1" + "[" * 1_000_000,
    "exceptions of one line": "OutOfMemoryError: " * 50_000,
    "exceptions of many lines": "ImportError: x\n" * 50_000,
    "counts": "1 validation error for " * 50_000,
    "line breaks as two characters": "ValueError: x\\n" * 50_000,
    "colours": "\x1b[1" * 300_000,
}


def served(message: str) -> str:
    """As it is looked through."""
    found = read_rayservice(make_rayservice(applicationStatuses={"a": {"status": "x", "message": message}}))
    assert found is not None
    text: str = found["status"]["pendingServiceStatus"]["applicationStatuses"]["a"]["message"]
    return text


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_an_exception_is_looked_for_in_bounded_work(message: str) -> None:
    text = served(message)
    assert len(text) <= LONGEST_REPORT + 1
    began = time.process_time()
    find_cause(text)
    assert time.process_time() - began < MOST_CPU_S


@pytest.mark.parametrize("message", EVENTS.values(), ids=EVENTS)
def test_an_event_about_a_deleted_pod_is_read_in_bounded_work(message: str) -> None:
    cluster: JsonObject = {"kind": "RayCluster", "metadata": {"name": "c", "uid": "u"}}
    began = time.process_time()
    event = read_event(make_event(cluster, "DeletedHeadPod", message))
    assert event is not None
    _read(event)
    assert time.process_time() - began < MOST_CPU_S


def test_the_exception_behind_a_long_log_is_still_found() -> None:
    words = "INFO 11-27 12:00:00 [core.py:1] loading\n" * 20_000 + "torch.cuda.OutOfMemoryError: CUDA out of memory"
    cause = find_cause(served(words))
    assert cause is not None
    assert cause.line == "torch.cuda.OutOfMemoryError: CUDA out of memory"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines", r"two\nlines"),
        ("a\tb\rc\x00d", r"a\tb\rc\x00d"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("half \ud800", r"half \ud800"),
        ("x" * 50, "x" * 19 + "…"),
        ("x" * 20, "x" * 20),
        ("\u200b" * 20, r"\u200b\u200b\u200b" + "\\…"),
        ("Grüße", "Grüße"),
    ],
)
def test_words_of_others_are_made_fit_for_one_line(text: str, shown: str) -> None:
    assert one_line(text, 20) == shown
    assert one_line(shown, 20) == shown


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("two\nlines", "two\nlines"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\u200b" * 4096, (r"\u200b" * 4096)[:4096]),
    ],
    ids=["colours go", "what steers is spelled out", "lines stay lines", "what hides is spelled out", "cut"],
)
def test_words_of_objects_are_read_as_people_may_see_them(words: str, kept: str) -> None:
    cluster: JsonObject = {"kind": "RayCluster", "metadata": {"name": "c", "uid": "u"}}
    found = read_raycluster({**cluster, "status": {"conditions": [{"type": "a", "status": "True", "message": words}]}})
    assert found is not None
    assert found["status"]["conditions"][0]["message"] == kept

"""The one line of a long failure that says what was wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conclave_cli.local.logs import LogFollower
from conclave_cli.local.root_cause import LOGGED_WITHIN_S, POLL_INTERVAL_S, logged_root_cause, root_cause

ENGINE_LOG = """\
(EngineCore pid=42) ERROR 11-23 23:39:57 [core.py:1321] EngineCore failed to start.
(EngineCore pid=42) ERROR 11-23 23:39:57 [core.py:1321] Traceback (most recent call last):
(EngineCore pid=42) ERROR 11-23 23:39:57 [core.py:1321]   File "worker.py", line 7, in load
(EngineCore pid=42) ERROR 11-23 23:39:57 [core.py:1321] ValueError: heads 5 must be divisible by tensor parallel size 2
(EngineCore pid=42) Process EngineCore:
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
SERVE_MESSAGE = """\
The deployment failed to start 1 times in a row. Retrying.
ray::ServeReplica:mixtral:engine.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
ray.exceptions.RayTaskError: ray::Engine.start() failed
RuntimeError: Engine core initialization failed. See root cause above.
"""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        pytest.param(ENGINE_LOG, "ValueError: heads 5 must be divisible by tensor parallel size 2", id="engine's log"),
        pytest.param(
            SERVE_MESSAGE,
            "RuntimeError: Engine core initialization failed. See root cause above.",
            id="only consequences: the outermost is better than none",
        ),
        pytest.param("torch.OutOfMemoryError: no memory\n", "torch.OutOfMemoryError: no memory", id="a qualified name"),
        pytest.param(
            "ERROR 2026-11-24 10:00:00,123 mixtral_engine x1y2 -- KeyError: 'gate'\n",
            "KeyError: 'gate'",
            id="a line of Serve's log",
        ),
        pytest.param(
            r"RayTaskError: Traceback:\n  File x\nKeyError: 'gate'\n", "KeyError: 'gate'", id="a representation"
        ),
        pytest.param("\x1b[31mKeyError: 'x'\x1b[0m\n", "KeyError: 'x'", id="coloured"),
        pytest.param(
            "RuntimeError: Traceback (most recent call last):\n  File x\nKeyError: 'gate'\n",
            "KeyError: 'gate'",
            id="a wrapped one",
        ),
        pytest.param("INFO all is well\nErrors: 0\n", None, id="no error"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_root_cause(text: str, cause: str | None) -> None:
    assert root_cause(text) == cause


def test_a_cause_in_a_later_text_comes_before_a_consequence_in_an_earlier_one() -> None:
    assert root_cause(SERVE_MESSAGE, "nothing", ENGINE_LOG) == root_cause(ENGINE_LOG)
    assert root_cause() is None


def growing(logs: Path, *added: tuple[str, str]) -> Callable[[float], None]:
    """A sleep during which the next text is added to a file of the logs; no more of them are expected."""
    left = list(added)

    def sleep(_seconds: float) -> None:
        name, text = left.pop(0)
        with (logs / name).open("a") as file:
            file.write(text)

    return sleep


WRAPPER, CAUSE = ENGINE_LOG.splitlines(keepends=True)[-1], ENGINE_LOG.splitlines(keepends=True)[3]


@pytest.mark.parametrize(
    ("message", "added"),
    [
        pytest.param(SERVE_MESSAGE, [("worker-1.out", "INFO loading\n"), ("worker-1.out", CAUSE)], id="after a while"),
        pytest.param(SERVE_MESSAGE, [("worker-2.err", CAUSE)], id="in a file that was not there"),
        pytest.param(
            SERVE_MESSAGE, [("worker-1.out", WRAPPER), ("worker-1.out", CAUSE)], id="after one more consequence"
        ),
        pytest.param(ENGINE_LOG, [], id="Serve's message has it: nothing is waited for"),
    ],
)
def test_a_cause_that_is_written_later_is_waited_for(
    tmp_path: Path, message: str, added: list[tuple[str, str]]
) -> None:
    (tmp_path / "worker-1.out").write_text(WRAPPER)
    cause = logged_root_cause(message, LogFollower(tmp_path).texts, growing(tmp_path, *added))
    assert cause == "ValueError: heads 5 must be divisible by tensor parallel size 2"


def test_a_cause_that_is_never_written_is_waited_for_no_longer_than_the_bound(tmp_path: Path) -> None:
    (tmp_path / "worker-1.out").write_text(WRAPPER)
    waits: list[float] = []
    cause = logged_root_cause(SERVE_MESSAGE, LogFollower(tmp_path).texts, waits.append)
    assert cause == WRAPPER.strip()
    assert waits == [POLL_INTERVAL_S] * round(LOGGED_WITHIN_S / POLL_INTERVAL_S)


def test_where_no_exception_is_told_nothing_is_waited_for(tmp_path: Path) -> None:
    assert logged_root_cause("no such module", LogFollower(tmp_path).texts, growing(tmp_path)) is None

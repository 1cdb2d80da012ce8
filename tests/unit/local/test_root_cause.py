"""The one line of a long failure that says what was wrong."""

from __future__ import annotations

import pytest

from conclave_cli.local.root_cause import root_cause

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

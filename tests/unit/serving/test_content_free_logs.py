"""What a client sent reaches no log: the real functions of vLLM and xgrammar write it, and the guard takes it out."""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.serving.leaks import CANARY, ID, LEAKS

from conclave.engine.exceptions import find_cause
from conclave_models.content_free_logs import REQUEST_CODE, REQUEST_FUNCTIONS, REQUEST_LOGGERS
from conclave_openai.logs.content_free import Withheld, guarded, without_content

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    """What each leak wrote to file descriptor 2, by `when: name`."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.unit.serving.leaks"],
        cwd=ROOT,
        env={**os.environ, "VLLM_PLUGINS": "none", "VLLM_LOGGING_LEVEL": "INFO"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    parts = [part.partition("\n") for part in ended.stdout.split("\n== ")[1:]]
    return {name: text for name, _, text in parts}


@pytest.mark.parametrize("leak", [leak.__name__ for leak in LEAKS])
def test_what_leaks_by_itself_is_taken_out(written: dict[str, str], leak: str) -> None:
    assert CANARY in written[f"bare: {leak}"], "nothing leaks here any more: drop the case"
    assert CANARY not in written[f"guarded: {leak}"]


def test_place_and_kind_of_a_failure_stay(written: dict[str, str]) -> None:
    step = written["guarded: failed_step"]
    assert "Dumping scheduler output for model execution: <str, " in step
    call = written["guarded: earlier_tool_call"]
    assert "Tool call <str, 11 characters> has arguments that are not valid JSON (1 chars)" in call
    grammar = written["guarded: refused_grammar"]
    assert f"Failed to compile grammar for request {ID}" in grammar
    assert "in _create_grammar" in grammar
    assert "RuntimeError: (withheld: " in grammar
    for leak in ("logged_by_anybody", "uncaught_in_a_child", "uncaught_in_a_thread", "uncaught", "behind_another"):
        text = written[f"guarded: {leak}"]
        assert "in run_busy_loop" in text
        assert "ValueError: (withheld: 21 characters)" in text
    assert "RuntimeError: (withheld: " in written["guarded: behind_another"]


def test_the_cause_of_a_failed_start_and_of_too_little_memory_is_still_found(written: dict[str, str]) -> None:
    for name, message in (
        ("failed_start", "ValueError: No available memory for the cache blocks"),
        ("out_of_memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"),
    ):
        cause = find_cause(written[f"guarded: {name}"])
        assert cause is not None
        assert message in cause.line
    assert "with config: {'model': 'tiny'}" in written["guarded: settings"]
    assert "words of the code, and 5 of None" in written["guarded: settings"]


@pytest.mark.parametrize(
    ("message", "args", "shown"),
    [
        pytest.param("Request %s failed: %s", (ID, "x"), f"Request {ID} failed: <str, 1 characters>", id="an id"),
        pytest.param("100 %% of %s", ("x",), "100 % of <str, 1 characters>", id="a per cent"),
        pytest.param("%-5s|%5.1f|%d", ("x", 2.5, 3), "<str, 1 characters>|  2.5|3", id="numbers"),
        pytest.param("%(a)s %(b)d", {"a": "x", "b": 2}, "<str, 1 characters> 2", id="by name"),
        pytest.param("%s", (ValueError("x"),), "<ValueError>", id="an exception"),
        pytest.param("%s", (["x"],), "<list>", id="a list"),
        pytest.param("%s", (int,), "<class 'int'>", id="a type"),
    ],
)
def test_a_records_values(message: str, args: object, shown: str) -> None:
    text, values = without_content(message, args, __file__)
    assert str(text) % values == shown


def test_a_message_without_values_stays_where_the_code_has_it_word_for_word() -> None:
    assert without_content("stands in this file", (), __file__) == ("stands in this file", ())
    told = "".join(["stands ", "in no ", "file"])
    assert without_content(told, (), __file__) == ("(withheld: 17 characters)", ())
    assert without_content("x", (), "/nowhere.py") == ("(withheld: 1 characters)", ())
    assert isinstance(without_content(ValueError("x"), (), __file__)[0], Withheld)


def test_a_record_that_comes_from_another_process_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """`logging.makeLogRecord` calls the factory without a name, and sets all attributes afterwards."""
    monkeypatch.setattr(logging, "_logRecordFactory", guarded(logging.LogRecord, REQUEST_CODE))
    record = logging.makeLogRecord({"name": "conclave", "msg": "event of %s", "args": ("x",)})
    assert (record.name, record.getMessage()) == ("conclave", "event of x")


def test_the_loggers_and_functions_are_those_of_this_vllm() -> None:
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None
    assert vllm.origin is not None
    folder = Path(vllm.origin).parent
    for name in REQUEST_LOGGERS:
        module = folder.parent.joinpath(*name.split("."))
        assert name == "asyncio" or module.is_dir() or module.with_suffix(".py").is_file(), name
    sources = [
        *(ROOT / "serving/conclave_serving").glob("*.py"),
        *(folder / "entrypoints/openai").rglob("serving.py"),
        *(folder / "v1/engine").glob("*.py"),
        folder / "v1/structured_output/__init__.py",
        folder / "v1/worker/gpu_worker.py",
    ]
    defined = {
        node.name
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert defined >= REQUEST_FUNCTIONS

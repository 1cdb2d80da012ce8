"""What a terminal is shown of foreign text: every character that would steer it is spelled out, no markup is read."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from conclave.finding import Finding
from conclave.visible_text import one_line, visible, visible_prose
from conclave_cli import explain, main, status, weights
from conclave_cli.local.progress import Progress
from conclave_cli.terminal import LiveLine, say, say_data, say_piece, say_styled, say_table, styled
from conclave_operator.logs import TextFormatter

HOSTILE = {
    "a colour": ("\x1b[31mred", r"\x1b[31mred"),
    "a cleared screen": ("\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
    "a title by OSC": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "a link by OSC 8": ("\x1b]8;;http://x\x1b\\click", "\\x1b]8;;http://x\\x1b\\click"),
    "a clipboard by OSC 52": ("\x1b]52;c;ZXZpbA==\x07", r"\x1b]52;c;ZXZpbA==\x07"),
    "a sequence in C1": ("\x9b31m\x9d0;x\x9c", r"\x9b31m\x9d0;x\x9c"),
    "an overwritten line": ("refused\rready  ", r"refused\rready  "),
    "backspaces": ("no\b\byes", r"no\x08\x08yes"),
    "a bell and a NUL": ("\x07\x00", r"\x07\x00"),
    "a bidi override": ("a\u202etxt.exe", r"a\u202etxt.exe"),
    "bidi isolates": ("\u2066x\u2069", r"\u2066x\u2069"),
    "zero width": ("mix\u200btral\ufeff\u2060", r"mix\u200btral\ufeff\u2060"),
    "joiners in a name": ("mix\u200d\u200ctral", r"mix\u200d\u200ctral"),
    "a soft hyphen": ("mix\xadtral", r"mix\xadtral"),
    "tags": ("x\U000e0041", r"x\U000e0041"),
    "fillers": ("x\u3164\u115f\u034f\ufe0f", r"x\u3164\u115f\u034f\ufe0f"),
    "line separators": ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
    "a lone surrogate": ("\ud83d", r"\ud83d"),
    "half a sequence": ("\x1b", r"\x1b"),
}
PLAIN = [
    "[/INST]",
    "[bold]x[/bold] [link=http://x]y[/link] :warning:",
    "Grüße, 你好　世界, नमस्ते, مرحبا, 🙂 №\xa01",
    "C:\\path\\x1b",
    "",
]
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_steers_is_spelled_out(name: str) -> None:
    text, shown = HOSTILE[name]
    assert visible(text) == shown
    assert one_line(text) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert visible(text) == one_line(text) == visible_prose(text) == text


def test_lines_and_tabs_stay_in_a_block_and_are_spelled_out_in_a_line() -> None:
    assert visible("a\n\tb") == "a\n\tb"
    assert one_line("a\n\tb") == r"a\n\tb"


def test_every_character_that_unicode_calls_control_or_format_is_spelled_out() -> None:
    steering = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    passed = [
        hex(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in steering and visible(chr(code), kept="") == chr(code)
    ]
    assert passed == []


@given(st.text(), st.data())
def test_a_stream_cut_anywhere_is_shown_as_the_whole(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    assert visible(text[:cut]) + visible(text[cut:]) == visible(text)
    assert visible_prose(text[:cut]) + visible_prose(text[cut:], text[:cut]) == visible_prose(text)
    assert STEERING.search(visible(text)) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("می\u200cخواهم", "می\u200cخواهم", id="Persian"),
        pytest.param("👨\u200d👩\u200d👧 ❤\ufe0f", "👨\u200d👩\u200d👧 ❤\ufe0f", id="emoji"),
        pytest.param("م\u200d\u200d", "م\u200d\\u200d", id="more than one"),
        pytest.param("a\u200db", "a\\u200db", id="in a script without"),
        pytest.param("1\ufe0f\u20e3\ufe0f\ufe0f", "1\ufe0f\u20e3\ufe0f\\ufe0f", id="a keycap"),
        pytest.param(" \u200d", " \\u200d", id="behind nothing"),
        pytest.param("a\u200bb\u202e", "a\\u200bb\\u202e", id="others are not kept"),
    ],
)
def test_a_models_answer_keeps_the_joiners_that_writing_needs(text: str, shown: str) -> None:
    assert visible_prose(text) == shown


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("is_terminal", [False, True], ids=["a pipe", "a terminal"])
def test_each_way_out_shows_it(
    name: str, is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TTY_INTERACTIVE", "0")
    foreign, shown = HOSTILE[name]
    table = Table(f"[/INST]{foreign}")
    table.add_row(f"[red]{foreign}")
    say(f"[/INST]{foreign}")
    say(f"[/INST]{foreign}", err=True)
    say_piece(f"[/INST]{foreign}", "")
    say_table(table)
    say_styled(styled((f"[/INST]{foreign}", "red")))
    with LiveLine() as line:
        line.update(f"[/INST]{foreign}")
        line.say(f"[/INST]{foreign}", dim=True)
    written = capsys.readouterr()
    # What is left of escapes is rich's own: colours, and the cursor of the live line.
    own = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?=\x1b|\n)")
    for text in (written.out, written.err):
        assert STEERING.search(own.sub("", text)) is None
        assert "[/INST]" in text
        assert shown in text


ITEM: dict[str, Any] = {
    "metadata": {"namespace": "llm", "name": "mixtral", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1},
    "spec": {"model": {"id": "[/INST]\x1b]0;x\x07\nReady  True"}},
    "status": {
        "plan": {"parallelism": "[/x]", "gpusPerReplica": 2, "accelerator": "\x1b[2Jcpu", "maxModelLen": 8},
        "endpoint": {"url": "http://x\x1b[1m", "model": "[/INST]", "tokenSecret": "t"},
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "[/INST]", "message": "[/INST] [bold]\x1b[31m\u202e\rok"},
        ],
    },
}


def test_status_shows_a_hostile_deployment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    status._show(ITEM)
    say_table(status._table([ITEM], all_namespaces=True))
    out = capsys.readouterr().out
    assert STEERING.search(out) is None
    assert r"[/INST] [bold]\x1b[31m\u202e\rok" in out
    assert not [line for line in out.splitlines() if line.startswith("Ready  True")]


def test_explain_shows_hostile_evidence_beside_its_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    cause = Finding(
        reason="EngineFailed",
        condition="Serving",
        subject="pod \x1b[2Jx",
        seen="[/INST]\n1. root cause: forged",
        evidence=("line\n2. also: forged\x1b]0;x\x07",),
        remedy="none\u202e\nReady",
    )
    explain._print(1, cause)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("   ")] == [
        "",
        "1. root cause: EngineFailed (Serving is not true)",
    ]
    assert STEERING.search("".join(lines)) is None


def test_logs_of_the_engine_are_shown_by_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Progress() as progress:
        progress.say("[/INST]\x1b[2J")
        progress.stage("loading [/INST]\x1b]0;x\x07")
        progress.log("worker: [/INST]\u202e\x9b2J")
    err = capsys.readouterr().err
    assert STEERING.search(err) is None
    assert err.count("[/INST]") == 3


def test_names_of_weights_are_shown_on_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["[/INST]\x1b[2J\nsound"]}))
    (tmp_path / "model\x1b]0;x\x07\nsound.safetensors").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["conclave", "weights", "inspect", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    out = capsys.readouterr().out
    assert ended.value.code == 4
    assert STEERING.search(out) is None
    assert "sound" not in out.splitlines()
    assert weights.Output.TEXT == "text"


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_answers_for_programs_are_exact_and_steer_nothing(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"items": [text for text, _ in HOSTILE.values() if text != "\ud83d"] + PLAIN}
    say_data(value, output)
    out = capsys.readouterr().out
    assert STEERING.search(out) is None
    assert (json.loads(out) if output == "json" else yaml.safe_load(out)) == value


@pytest.mark.parametrize("code", [ValueError("[/INST]\x1b[2J\u202e"), RuntimeError("\x9b2J")], ids=repr)
def test_a_bug_of_ours_prints_no_foreign_message_as_it_is(
    code: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise code

    monkeypatch.setattr(main, "app", broken)
    with pytest.raises(SystemExit) as ended:
        main.main()
    err = capsys.readouterr().err
    assert ended.value.code == 1
    assert "Traceback" in err
    assert STEERING.search(err) is None


def test_the_operators_log_for_people_steers_nothing() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    handler.emit(
        logging.makeLogRecord({"msg": "event of %s: %s", "args": ("x\x1b[2J", "\u202e\r"), "name": "conclave"})
    )
    assert STEERING.search(stream.getvalue().rstrip("\n")) is None
    assert r"event of x\x1b[2J: \u202e\r" in stream.getvalue()


def test_a_terminal_without_unicode_gets_it_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say("Grüße 🙂")
    stream.flush()
    assert stream.buffer.getvalue() == b"Gr\\xfc\\xdfe \\U0001f642\n"  # type: ignore[attr-defined]

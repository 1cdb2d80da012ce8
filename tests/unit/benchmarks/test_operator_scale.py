"""The benchmark of the operator: how its table reads, and that its sampler finds where time goes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.operator_scale import TABLE, ratio, table, verdict
from benchmarks.sampled import Sampler

CREATED = next(row for row in TABLE if row.figure == "a_second")
RESYNC = next(row for row in TABLE if (row.phase, row.figure) == ("resync", "requests"))


@pytest.mark.parametrize(
    ("row", "value", "told"),
    [
        (CREATED, 50.0, "at least 50: met"),
        (CREATED, 49.9, "at least 50: MISSED"),
        (RESYNC, 0, "at most 0: met"),
        (RESYNC, 1, "at most 0: MISSED"),
        (RESYNC, None, ""),
        (TABLE[0], 7, ""),
    ],
    ids=["as fast as wanted", "slower", "no write", "a write", "not measured", "no goal"],
)
def test_a_goal_is_met_or_missed(row: Any, value: float | None, told: str) -> None:
    assert verdict(row, value) == told


def test_the_table_shows_both_sides_with_their_ratio_and_what_was_not_measured() -> None:
    measured = {
        "before": {"bare": {"created": {"a_second": 10.0}}, "crowded": {"created": {"a_second": 2.0}}},
        "now": {"bare": {"created": {"a_second": 60.0}}, "crowded": {"created": {"a_second": 50.0}}},
    }
    lines = list(table(measured))
    (bare,) = (line for line in lines[: len(TABLE) + 1] if line.strip().startswith("objects a second"))
    assert bare.split()[3:] == ["10.0", "60.0", "6.00", "at", "least", "50:", "met"]
    assert any(line.strip().startswith("an edit applied, p50 s") and " - " in line for line in lines)
    assert lines[-1] == "now: the crowd makes it 1.20 times slower (goal: at most 1.5)"


def test_one_side_alone_has_no_ratio() -> None:
    assert (ratio([1.0, 2.0]), ratio([2.0]), ratio([None, 1.0]), ratio([0.0, 1.0])) == ("2.00", "-", "-", "-")


def test_the_sampler_names_the_function_that_works_and_those_that_called_it(tmp_path: Path) -> None:
    def busy() -> None:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass

    sampler = Sampler()
    sampler.start()
    try:
        busy()
    finally:
        sampler.stop()
    sampler.write(tmp_path / "samples.json")
    found = json.loads((tmp_path / "samples.json").read_text())
    mine = [name for name in found["itself_s"] if name.endswith("<locals>.busy")]
    assert mine
    assert found["with_callees_s"][mine[0]] >= found["itself_s"][mine[0]] > 0
    assert found["cpu_s"] > 0

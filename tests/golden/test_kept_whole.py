"""Base and difference give back each object whole, wherever it differs; and the program prints it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.golden.differences import BASE, DifferenceError, Item, differences, whole, whole_items

ROOT = Path(__file__).parents[2]
LINES = st.lists(
    st.sampled_from(["a: 1", "a: 2", "b:", "  - c: 1", "    d: @@", "  e: |", "    -f", "    +g"]), min_size=1
)
TEXTS = LINES.map(lambda lines: "".join(f"{line}\n" for line in lines))
"""Few lines, so that most places of a text are like others of it."""
POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: one\nspec:\n  containers:\n  - image: x\n    name: main\n"


@given(st.dictionaries(st.sampled_from(["Pod", "Job.weights", "Secret-token"]), st.tuples(TEXTS, TEXTS), min_size=1))
def test_base_and_difference_give_back_the_whole(texts: dict[str, tuple[str, str]]) -> None:
    bases = {BASE / f"{role}.yaml": base for role, (base, _) in texts.items()}
    made = [Item("apply", role, text) for role, (_, text) in texts.items()]
    assert whole_items(differences(made, bases), bases) == made


def test_only_what_differs_is_kept_under_the_keys_that_it_stands_under() -> None:
    made = Item("apply", "Pod", POD.replace("image: x", "image: y"))
    assert differences([made], {BASE / "Pod.yaml": POD}).splitlines() == [
        "apply Pod:",
        "@@ spec @@",
        "   containers:",
        "-  - image: x",
        "+  - image: y",
        "     name: main",
    ]


def test_an_edit_of_the_base_leaves_a_difference_elsewhere_as_it_is() -> None:
    base = {BASE / "Pod.yaml": POD}
    kept = differences([Item("apply", "Pod", POD.replace("image: x", "image: y"))], base)
    edited = {BASE / "Pod.yaml": POD.replace("name: one", "name: two\n  namespace: llm")}
    (item,) = whole_items(kept, edited)
    assert item.text == edited[BASE / "Pod.yaml"].replace("image: x", "image: y")


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ("apply Pod:\n@@ spec @@\n-  - image: z\n", "not in the base:\n  - image: z"),
        ("applies Pod:\n", "'applies Pod:': expected create, apply, delete or status"),
    ],
    ids=["a line that is not there", "no header"],
)
def test_a_difference_of_another_base_is_refused(difference: str, message: str) -> None:
    with pytest.raises(DifferenceError) as refusal:
        whole_items(difference, {BASE / "Pod.yaml": POD})
    assert message in str(refusal.value)


def test_the_program_prints_a_case_whole() -> None:
    command = [sys.executable, "-m", "tests.golden", "adapters"]
    said = subprocess.run([*command, "objects"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(said) == whole(ROOT / "tests/golden/adapters", "objects")
    both = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert both.startswith(said)
    assert "# status of adapters\nconditions:" in both


def test_an_unknown_case_is_named_with_those_that_are_known() -> None:
    command = [sys.executable, "-m", "tests.golden", "adapter"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("case 'adapter': unknown; the cases are adapters, aks, amd, ")

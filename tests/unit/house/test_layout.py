"""The house rules that a tool can hold: where files lie, what lock files carry, what never enters the project."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("source_root", ["operator", "serving"])
def test_source_roots_are_never_packages(source_root: str) -> None:
    """`operator/__init__.py` would shadow the standard library's `operator` (docs/adr/0002)."""
    assert [path.name for path in (ROOT / source_root).glob("*.py")] == []
    assert list((ROOT / source_root).rglob("conftest.py")) == []


LOCK_LINE = re.compile(
    r"^(?:#.*|"
    r"[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[a-z0-9,_-]+\])?==[^\s;]+(?: ; [^\\]+)?(?: \\)?|"
    r"    --hash=sha256:[0-9a-f]{64}(?: \\)?|)$"
)


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_lock_files_carry_names_versions_and_hashes_only(lock: Path) -> None:
    if lock.name.endswith(".overrides.txt"):
        return
    lines = lock.read_text().splitlines()
    assert [line for line in lines if not LOCK_LINE.match(line)] == []
    packages = [index for index, line in enumerate(lines) if "==" in line]
    assert packages
    assert [lines[index] for index in packages if "--hash" not in lines[index + 1]] == []


def test_nothing_in_the_project_names_a_path_of_one_machine() -> None:
    forbidden = re.compile("|".join(["/" + "root/", "/" + r"work/(?:main|shared|\.)", "/" + "opt/wheels"]))
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in forbidden.finditer(text)]
    assert found == []


def test_every_module_says_what_it_owns() -> None:
    import ast

    silent = []
    for path in tracked_files():
        if path.suffix != ".py" or path.relative_to(ROOT).parts[0] not in {
            "operator",
            "serving",
            "tools",
            "benchmarks",
        }:
            continue
        if path.name != "__init__.py" and ast.get_docstring(ast.parse(path.read_text())) is None:
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_contributing_has_one_line_for_every_room() -> None:
    """A room is a folder with modules; the readers of single architectures are listed with their catalogue."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = re.findall(r"^\| \**`((?:operator|serving)/[a-z0-9_/]+)`", text, re.MULTILINE)
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in tracked_files() if path.name == "__init__.py"}
    shown = {room for room in rooms if room.startswith(("operator/", "serving/"))}
    within = {
        "operator/conclave/catalogue/architectures",
        "operator/conclave/catalogue/architectures/quantization",
        "operator/conclave/api/modeldeployment",
    }
    assert sorted(listed) == sorted(shown - within)


def test_every_module_of_a_model_deployment_is_a_cause_or_a_builder() -> None:
    """So that the contract "no cause imports a builder" holds for a new module too."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(each for each in contracts if each["name"] == "no cause imports a builder")
    causes, builders = set(contract["source_modules"]), set(contract["forbidden_modules"])
    room = ROOT / "operator" / "conclave" / "modeldeployment"
    modules = {
        ".".join(path.relative_to(ROOT / "operator").with_suffix("").parts)
        for path in room.rglob("*.py")
        if path.name != "__init__.py" and path.parent.name != "records"
    }
    assert causes & builders == set()
    assert sorted(modules - causes - builders) == []
    assert sorted(name for name in (causes | builders) - modules if name.startswith("conclave.modeldeployment.")) == [
        "conclave.modeldeployment.records"
    ]

"""What is generated is committed as its source would make it now: run tools/generate.py after a change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.generate import GENERATED

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("path", "text"), GENERATED.items(), ids=GENERATED)
def test_a_generated_file_is_current(path: str, text: Callable[[], str]) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == text(), "run `make verify`"


def test_a_review_hides_what_a_program_writes_and_nothing_else() -> None:
    """.gitattributes marks the generated pages and CRDs, the locks and what golden cases expect."""
    listed = _git(ROOT, "ls-files", "-z").split("\0")
    tracked = {name for name in listed if name and (ROOT / name).is_file()}
    attributes = _git(ROOT, "check-attr", "-z", "linguist-generated", "--", *sorted(tracked)).split("\0")
    hidden = {name for name, value in zip(attributes[0::3], attributes[2::3], strict=False) if value in ("set", "true")}
    written = {name for name in tracked if _is_lock(name) or _is_golden_result(name) or _is_frozen(name)}
    assert hidden == GENERATED.keys() | written


def _is_lock(name: str) -> bool:
    path = Path(name)
    return path.name == "go.sum" or (path.match("requirements/*.txt") and not path.match("*.overrides.txt"))


def _is_golden_result(name: str) -> bool:
    path = Path(name)
    is_case = path.parts[:2] == ("tests", "golden") and len(path.parts) == 4
    return is_case and path.name != "input.yaml" and path.suffix in (".yaml", ".diff")


def _is_frozen(name: str) -> bool:
    """What a released version wrote to an API server."""
    return re.fullmatch(r"tests/data/[0-9][^/]*/[^/]*\.yaml", name) is not None


GENERATOR = """from pathlib import Path

GENERATED = ("crds/a.yaml", "docs/b.md")
if __name__ == "__main__":
    for name in GENERATED:
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("generated")
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The project's Makefile over a generator of two files."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "generate.py").write_text(GENERATOR, encoding="utf-8")
    (tmp_path / "tools" / "environment.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "tools" / "environment.sh").chmod(0o755)
    for name in ("crds", "docs"):
        (tmp_path / name).mkdir()
    _git(tmp_path, "init", "--quiet")
    return tmp_path


VERIFIED: dict[str, tuple[dict[str, str], str, str]] = {
    "all are tracked and current": ({"crds/a.yaml": "generated", "docs/b.md": "generated"}, "", ""),
    "a file of somebody's own is none of its business": (
        {"crds/a.yaml": "generated", "docs/b.md": "generated"},
        "docs/notes.md",
        "",
    ),
    "one is not tracked": (
        {"crds/a.yaml": "generated"},
        "",
        "generated but not tracked; git add, then commit: docs/b.md",
    ),
    "one is ignored": (
        {"docs/b.md": "generated", ".gitignore": "crds/"},
        "",
        "generated but not tracked; git add, then commit: crds/a.yaml",
    ),
    "one is out of date": ({"crds/a.yaml": "of yesterday", "docs/b.md": "generated"}, "", "-of yesterday"),
}


@pytest.mark.parametrize(("tracked", "stray", "complaint"), VERIFIED.values(), ids=VERIFIED)
def test_make_verify_wants_every_generated_file_tracked_and_current(
    tracked: dict[str, str], stray: str, complaint: str, repository: Path
) -> None:
    for name, text in tracked.items():
        (repository / name).write_text(text, encoding="utf-8")
    _git(repository, "add", *tracked)
    if stray:
        (repository / stray).write_text("mine", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "MAKE", "MFLAGS"))}
    make = subprocess.run(["make", "verify"], cwd=repository, env=environment, capture_output=True, text=True)
    assert (make.returncode != 0, complaint in make.stdout + make.stderr) == (bool(complaint), True), make.stderr


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout

"""Trees of released versions: the commits in versions.yaml are those versions, and a missing commit is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools.released import ReleasedError, environment, released, unpack, version_before, versions

ABSENT = "0123456789" * 4


@pytest.mark.parametrize("version", versions())
def test_the_tree_of_a_version_is_that_version(version: str) -> None:
    tree = released(version)
    said = [sys.executable, "-c", "import conclave; print(conclave.__version__, conclave.__file__)"]
    done = subprocess.run(said, env=environment(tree), capture_output=True, text=True, check=True)
    assert done.stdout.split() == [version, str(tree / "operator" / "conclave" / "__init__.py")]
    assert released(version) == tree
    assert (tree / "charts" / "conclave" / "Chart.yaml").is_file()


def test_the_version_before_is_the_newest_other_one() -> None:
    assert version_before("99.0.0") == list(versions())[-1]


def test_a_version_that_was_never_released_is_told_with_those_that_were() -> None:
    with pytest.raises(ReleasedError, match=r"version 99\.0\.0 .* expected one of 0\.1\.0"):
        released("99.0.0")


def test_a_commit_that_the_clone_lacks_is_named_with_the_remedy(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    with pytest.raises(ReleasedError, match=f"commit {ABSENT} .*git fetch --unshallow"):
        unpack(ABSENT, tmp_path)

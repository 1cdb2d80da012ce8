"""Trees of released versions, unpacked from this repository's history into a cache outside the tree, keyed by commit.

`python -m tools.released 0.1.0` prints the directory. Imported by what runs an older Conclave: the tests with frozen
data, the upgrade in e2e, benchmarks. tests/data/versions.yaml names the commits.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml
from tools.build_tools import cache_dir, emptied, locked

REPOSITORY = Path(__file__).resolve().parents[1]
VERSIONS = REPOSITORY / "tests" / "data" / "versions.yaml"


class ReleasedError(Exception):
    """The tree of a version cannot be had; the message names the commit and the remedy."""


def versions() -> dict[str, str]:
    """Full commit by version, oldest first."""
    found: dict[str, str] = yaml.safe_load(VERSIONS.read_text(encoding="utf-8"))
    return found


def version_before(current: str) -> str:
    """The newest released version that is not this one: what an upgrade comes from and a rollback goes to."""
    return [version for version in versions() if version != current][-1]


def released(version: str) -> Path:
    """The whole tree of a version."""
    commits = versions()
    if version not in commits:
        raise ReleasedError(f"version {version} is not in {VERSIONS}, expected one of {', '.join(commits)}")
    return unpack(commits[version])


def unpack(commit: str, repository: Path = REPOSITORY) -> Path:
    """The tree of any commit of a repository."""
    target = cache_dir() / "released" / commit
    with locked(target.with_name(f"{commit}.lock")):
        if not target.is_dir():
            partial = emptied(target)
            with tarfile.open(fileobj=io.BytesIO(_archive(commit, repository))) as archive:
                archive.extractall(partial, filter="data")
            partial.rename(target)
    return target


def environment(tree: Path) -> dict[str, str]:
    """Has `python -m conclave_cli.main` of this Python run the Conclave of that tree."""
    return {"PYTHONPATH": os.pathsep.join(str(tree / root) for root in ("operator", "serving"))}


def _archive(commit: str, repository: Path) -> bytes:
    git = ("git", "-C", str(repository))
    if subprocess.run([*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True).returncode:
        raise ReleasedError(
            f"commit {commit} is not in the git repository {repository}, expected a clone with its whole history; "
            "`git fetch --unshallow` completes a shallow one"
        )
    return subprocess.run([*git, "archive", "--format=tar", commit], check=True, capture_output=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Unpack the tree of a released version into the cache, and print where."
    )
    parser.add_argument("version", choices=versions())
    try:
        print(released(parser.parse_args().version))
    except ReleasedError as error:
        print(f"released: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

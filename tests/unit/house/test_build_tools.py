"""tools/build_tools.py with a Go that only pretends: what is built when, from where, and what a failure leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import build_tools

GO = """#!/bin/sh
case "$1" in
  version) echo "go version go1.99.0 linux/amd64" ;;
  build)
    echo built >> {log}
    while [ "$1" != -o ]; do shift; done
    for name in {names}; do echo "$name" > "$2/$name"; done
    {then} ;;
esac
"""


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of the builds that were asked for, with an empty cache and no programs of the user's."""
    monkeypatch.setenv("CONCLAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    (tmp_path / "bin").mkdir()
    log = tmp_path / "builds"
    log.touch()
    return log


def _pretend(builds: Path, names: str, then: str = "true") -> None:
    go = builds.parent / "bin" / "go"
    go.write_text(GO.format(log=builds, names=names, then=then))
    go.chmod(0o755)


def test_every_group_with_a_lock_has_its_programs_named() -> None:
    groups = {path.parent.name for path in build_tools.TOOLS.glob("*/go.mod")}
    assert groups == set(build_tools.PROGRAMS)


def test_a_second_call_builds_nothing(builds: Path) -> None:
    _pretend(builds, "helm")
    first = build_tools.program("helm")
    assert first.read_text() == "helm\n"
    assert first == build_tools.program("helm")
    assert builds.read_text() == "built\n"


def test_a_program_gets_its_own_name_where_go_chooses_another(builds: Path) -> None:
    _pretend(builds, "server")
    assert build_tools.program("etcd").read_text() == "server\n"


def test_another_go_release_builds_anew(builds: Path) -> None:
    _pretend(builds, "helm")
    first = build_tools.build("helm")
    go = builds.parent / "bin" / "go"
    go.write_text(go.read_text().replace("1.99.0", "1.99.1"))
    assert build_tools.build("helm") != first


def test_programs_of_the_user_are_taken_and_not_built(
    builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(builds, "helm")
    (tmp_path / "etcd").write_text("mine")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert build_tools.program("etcd") == tmp_path / "etcd"
    assert build_tools.program("helm").is_file()
    assert builds.read_text() == "built\n"


def test_a_failed_build_says_why_and_leaves_nothing_that_looks_whole(builds: Path) -> None:
    _pretend(builds, "helm", then="echo 'no space left on device' >&2; exit 1")
    with pytest.raises(build_tools.BuildError, match=r"helm: .* exited 1:\nno space left on device"):
        build_tools.program("helm")
    _pretend(builds, "helm")
    assert build_tools.program("helm").read_text() == "helm\n"


def test_a_build_without_the_program_is_named(builds: Path) -> None:
    _pretend(builds, "something-else")
    with pytest.raises(build_tools.BuildError, match="go build made no helm"):
        build_tools.program("helm")


@pytest.mark.parametrize(
    ("release", "suits"),
    [("1.25.9", False), ("1.26.0", True), ("1.26.8", True), ("2.0", True)],
    ids=["older", "the same", "newer", "much newer"],
)
def test_go_of_the_path_is_used_where_it_is_new_enough(release: str, suits: bool, builds: Path) -> None:
    _pretend(builds, "helm")
    go = builds.parent / "bin" / "go"
    go.write_text(go.read_text().replace("1.99.0", release))
    assert (build_tools.go_in_path((1, 26, 0)) == go) is suits

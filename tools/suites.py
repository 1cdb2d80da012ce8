"""The suites that are remembered as passed: the parts of `make e2e`, and the test bed's own in `make test`.

    python -m tools.suites e2e [--part NAME] [--only WORDS] [--force] [--keep]
    python -m tools.suites testbed [--force]

The tables say what each part runs and what it covers; tools/passed.py remembers. The cluster stays from one part to
the next, unless a part failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tools.build_tools import cache_dir
from tools.passed import Memory, Passed, content_key

ROOT = Path(__file__).resolve().parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-v", "--durations=0", "--durations-min=20")
GIVEN_CLUSTER = "CONCLAVE_E2E_KUBECONFIG"
KEEP = "CONCLAVE_E2E_KEEP"

ENVIRONMENT = ("pyproject.toml", "requirements", "tests/conftest.py", "tests/eventually.py")
BED = ("tools", "images", "e2e/bed", "e2e/platform", "e2e/Dockerfile", "e2e/conftest.py")
PRODUCT = ("operator", "serving", "charts")
REFERENCES = ("tests/serving/models",)
"""Runs bare vLLM, whose tokens the pods' are held against."""
HUB = ("tests/hub",)
"""Runs in a pod."""
RELEASES = ("tests/data/versions.yaml",)
"""Which versions an upgrade runs from."""
COVERED = (*PRODUCT, *BED, *REFERENCES, *HUB, *RELEASES, *ENVIRONMENT)
"""By each part of e2e: more than it needs, rather than too little."""


@dataclass(frozen=True)
class Part:
    """Tests that run in one session of pytest, in this order."""

    modules: tuple[str, ...]
    covers: tuple[str, ...]
    """Files and folders, beside the modules, whose change makes a pass count no more."""

    def paths(self) -> tuple[str, ...]:
        return (*self.modules, *self.covers)


E2E: Mapping[str, Part] = {
    name: Part(tuple(modules), COVERED)
    for name, modules in {
        "models": (
            "e2e/test_smoke.py",
            "e2e/test_dense_object_store.py",
            "e2e/test_dense_weights_swapped.py",
            "e2e/test_two_nodes.py",
            "e2e/test_weights.py",
        ),
        "autoscaling": ("e2e/test_dense_autoscaling.py",),
        "tracing": ("e2e/test_dense_tracing.py",),
        "causes": ("e2e/test_causes.py", "e2e/test_smoke_head.py", "e2e/test_smoke_hostile.py"),
        "upgrade": ("e2e/test_upgrade.py",),
    }.items()
} | {"testbed": Part(("tests/testbed", "e2e/cluster/test_cluster.py"), (*COVERED, "e2e/cluster"))}
"""Modules that share a model stand side by side. At most 40 minutes each on two cores, and two engines at a time."""
PORTS = ("operator/conclave_cli/local/ports.py", "operator/conclave/errors.py")
"""All that the test bed takes from the product."""
TESTBED = Part(("tests/testbed",), ("tools", "images", "e2e/Dockerfile", *PORTS, *ENVIRONMENT))
"""Of the bed what needs neither root nor a cluster."""


PASSED, REMEMBERED, FAILED, NOTHING = "passed now", "remembered", "failed", "has no such test"
NO_TESTS_RAN = 5
"""pytest's exit code where no test has the words of `--only`."""


@dataclass(frozen=True)
class Result:
    """What became of one part."""

    how: str
    """PASSED, REMEMBERED, FAILED or NOTHING."""
    run: Passed


def run_parts(
    parts: Mapping[str, Part],
    memory: Memory | None,
    key_of: Callable[[Part], str | None],
    run: Callable[[str, Part], tuple[int, Passed]],
    *,
    force: bool,
) -> dict[str, Result]:
    """Each part that is not remembered, or with `force` every one; a part that passed is remembered at once.

    Not remembered is what was edited while its tests ran. `run` returns pytest's exit code.
    """
    results = {}
    for name, part in parts.items():
        key = key_of(part)
        known = memory.find(name, key) if memory and key and not force else None
        if known:
            results[name] = Result(REMEMBERED, known)
            continue
        print(f"== {name}: {' '.join(part.modules)}", flush=True)
        code, done = run(name, part)
        results[name] = Result({0: PASSED, NO_TESTS_RAN: NOTHING}.get(code, FAILED), done)
        if memory and key and not code and key_of(part) == key:
            memory.keep(name, key, done)
    return results


def table(results: Mapping[str, Result]) -> str:
    """One line a part."""
    lines = []
    for name, result in results.items():
        when = f" from {result.run.date}" if result.how == REMEMBERED else ""
        minutes = f"{result.run.seconds / 60:.1f} min"
        lines.append(f"{name:<12} {result.how + when:<38} {minutes:>9}  {result.run.summary}")
    return "\n".join(lines)


def run_pytest(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> tuple[int, Passed]:
    """Its exit code, and how it went, whether or not it passed."""
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        code = subprocess.run([*PYTEST, f"--junit-xml={report}", *arguments], cwd=ROOT, env=environment).returncode
        summary = summary_of(report.read_text(encoding="utf-8")) if report.is_file() else f"pytest ended with {code}"
    date = datetime.now(UTC).isoformat(timespec="minutes")
    return code, Passed(date, round(time.monotonic() - begun_s), summary)


def summary_of(report: str) -> str:
    """`1 failed, 40 passed, 2 skipped`, of pytest's report in JUnit's format."""
    suite = ElementTree.fromstring(report).find("testsuite")
    assert suite is not None
    failed, errors, skipped = (int(suite.attrib[kind]) for kind in ("failures", "errors", "skipped"))
    counts = {
        "failed": failed,
        "passed": int(suite.attrib["tests"]) - failed - errors - skipped,
        "skipped": skipped,
        "errors": errors,
    }
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no tests"


def end_cluster() -> None:
    """`make cluster-down`."""
    subprocess.run([sys.executable, "-m", "tools.cluster", "down"], cwd=ROOT, check=True)


def run_e2e(
    parts: Mapping[str, Part],
    only: str,
    *,
    force: bool,
    keep: bool,
    given: Mapping[str, str] = os.environ,
    memory: Memory | None = None,
    pytest: Callable[[Sequence[str], Mapping[str, str]], tuple[int, Passed]] = run_pytest,
    end: Callable[[], None] = end_cluster,
) -> dict[str, Result]:
    """On one cluster for all, which begins and ends with them unless it is to be kept or is somebody else's.

    Not remembered is what ran on another cluster, and what ran in part: it says nothing of the rest.
    """
    is_ours = GIVEN_CLUSTER not in given
    begins_and_ends = is_ours and not keep
    environment = {**given, KEEP: "1"} if is_ours else dict(given)
    is_stale = True  # what is there may be left of a session that was cut off

    def run(_name: str, part: Part) -> tuple[int, Passed]:
        nonlocal is_stale
        if begins_and_ends and is_stale:
            end()
        code, done = pytest([*part.modules, *(["-k", only] if only else [])], environment)
        is_stale = code not in (0, NO_TESTS_RAN)
        return code, done

    known = None if only or not is_ours else memory
    try:
        return run_parts(parts, known, key_of, run, force=force)
    finally:
        if begins_and_ends:
            end()


def key_of(part: Part) -> str | None:
    return content_key(ROOT, part.paths())


def run_testbed(memory: Memory, *, force: bool) -> dict[str, Result]:
    return run_parts(
        {"testbed-unit": TESTBED}, memory, key_of, lambda _name, part: run_pytest(part.modules), force=force
    )


def chosen(names: str) -> Mapping[str, Part]:
    """The parts of these names, in the table's order; all without any. Exits where one is unknown."""
    wanted = names.replace(",", " ").split()
    if unknown := [name for name in wanted if name not in E2E]:
        sys.exit(f"part {', '.join(unknown)}: unknown; the parts of e2e are {', '.join(E2E)}")
    return {name: part for name, part in E2E.items() if name in wanted or not wanted}


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["e2e", "testbed"])
    parser.add_argument("--part", default="", help="some parts of e2e, by name; all where none is named")
    parser.add_argument("--only", default="", help="only tests with these words in their names, as pytest's -k")
    parser.add_argument(
        "--force", action="store_true", help="also the parts whose files have not changed since they passed"
    )
    parser.add_argument("--keep", action="store_true", help="on the cluster that is there, which stays")
    given = parser.parse_args(None if arguments is None else list(arguments))
    memory = Memory(cache_dir() / "passed")
    if given.suite == "testbed":
        results = run_testbed(memory, force=given.force)
    else:
        keep = given.keep or KEEP in os.environ
        results = run_e2e(chosen(given.part), given.only, force=given.force, keep=keep, memory=memory)
    print(f"\n{table(results)}")
    ends = {result.how for result in results.values()}
    if ends == {NOTHING}:
        sys.exit(f"ONLY={given.only}: no test of {', '.join(results)} has these words in its name")
    sys.exit(FAILED in ends)


if __name__ == "__main__":
    main()

"""`make e2e` in parts: which tests are in which part, what a pass covers, and what is remembered of it."""

from __future__ import annotations

import ast
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from tools.passed import Memory, Passed, content_key
from tools.suites import E2E, NO_TESTS_RAN, TESTBED, Part, chosen, main, run_e2e, run_parts, summary_of, table

ROOT = Path(__file__).parents[3]
RUN = Passed("2026-11-30T08:00+00:00", 754, "41 passed, 2 skipped")


def modules_of(part: Part) -> Iterator[Path]:
    for name in part.modules:
        path = ROOT / name
        yield from path.rglob("test_*.py") if path.is_dir() else [path]


def test_every_module_of_e2e_is_in_one_part() -> None:
    found = Counter(path for part in E2E.values() for path in modules_of(part))
    expected = [*(ROOT / "e2e").rglob("test_*.py"), *(ROOT / "tests/testbed").rglob("test_*.py")]
    assert found == Counter(expected)


@pytest.mark.parametrize("part", [*E2E.values(), TESTBED], ids=[*E2E, "unit tests of the test bed"])
def test_what_a_part_names_is_there(part: Part) -> None:
    assert [name for name in part.paths() if not (ROOT / name).exists()] == []


@cache
def imported(path: Path) -> tuple[Path, ...]:
    """Files of this project that a module imports, wherever in it."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            for root in (ROOT, ROOT / "operator", ROOT / "serving"):
                module = root / name.replace(".", "/")
                yield from (file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file())


@pytest.mark.parametrize("part", [*E2E.values(), TESTBED], ids=[*E2E, "unit tests of the test bed"])
def test_a_part_covers_all_that_its_tests_import(part: Part) -> None:
    conftests = [ROOT / "e2e/conftest.py"] if part is not TESTBED else []
    left, seen = [*modules_of(part), *conftests, ROOT / "tests/conftest.py"], set[Path]()
    while left:
        path = left.pop()
        if path not in seen:
            seen.add(path)
            left += imported(path)
    covered = [ROOT / name for name in part.paths()]
    assert len(seen) > 10
    assert [path for path in seen if not any(path.is_relative_to(each) for each in covered)] == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree of git with two files in a folder and one beside it."""
    tree = tmp_path / "tree"
    (tree / "covered").mkdir(parents=True)
    for name in ("covered/one", "covered/two", "beside"):
        (tree / name).write_text(name)
    (tree / ".gitignore").write_text("*.pyc\n")
    for command in (("init", "--quiet"), ("add", ".")):
        subprocess.run(["git", *command], cwd=tree, check=True)
    return tree


def rename(tree: Path) -> None:
    (tree / "covered/one").rename(tree / "covered/three")


CHANGES: dict[str, Callable[[Path], object]] = {
    "an edit that is not committed": lambda tree: (tree / "covered/one").write_text("other"),
    "a new file that is not added": lambda tree: (tree / "covered/new").write_text(""),
    "a file that is gone": lambda tree: (tree / "covered/one").unlink(),
    "another name": rename,
    "a file that can be executed": lambda tree: (tree / "covered/one").chmod(0o755),
}
OTHERS: dict[str, Callable[[Path], object]] = {
    "an edit beside it": lambda tree: (tree / "beside").write_text("other"),
    "what git ignores": lambda tree: (tree / "covered/one.pyc").write_text(""),
    "a commit of what is there": lambda tree: subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "--message=all"], cwd=tree, check=True
    ),
    "the same text again": lambda tree: (tree / "covered/one").write_text("covered/one"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_what_is_covered_makes_another_key(tree: Path, change: Callable[[Path], object]) -> None:
    before = content_key(tree, ["covered"])
    change(tree)
    assert content_key(tree, ["covered"]) != before


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_anything_else_leaves_the_key(tree: Path, change: Callable[[Path], object]) -> None:
    before = content_key(tree, ["covered"])
    change(tree)
    assert content_key(tree, ["covered"]) == before


def test_without_git_there_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert content_key(tmp_path, ["."]) is None


PARTS = {"first": Part(("a",), ()), "second": Part(("b",), ())}


class Runs:
    """Stands for pytest: notes what was run."""

    def __init__(self, *codes: int) -> None:
        self.codes, self.names = list(codes), list[str]()

    def __call__(self, name: str, _part: Part) -> tuple[int, Passed]:
        self.names.append(name)
        return (self.codes.pop(0) if self.codes else 0), RUN


def key_of(part: Part) -> str:
    return f"key-of-{part.modules[0]}"


def test_what_passed_is_not_run_again_and_what_failed_is(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    first = run_parts(PARTS, memory, key_of, Runs(0, 1), force=False)
    assert [result.how for result in first.values()] == ["passed now", "failed"]
    again = Runs()
    second = run_parts(PARTS, memory, key_of, again, force=False)
    assert again.names == ["second"]
    assert [result.how for result in second.values()] == ["remembered", "passed now"]
    assert second["first"].run == RUN


def test_by_force_everything_is_run(tmp_path: Path) -> None:
    memory, runs = Memory(tmp_path), Runs()
    for _ in range(2):
        run_parts(PARTS, memory, key_of, runs, force=True)
    assert runs.names == ["first", "second"] * 2


def test_another_content_is_run_and_the_one_before_it_stays_known(tmp_path: Path) -> None:
    memory, runs = Memory(tmp_path), Runs()
    for version in ("1", "2", "1"):
        run_parts({"first": PARTS["first"]}, memory, lambda _, version=version: version, runs, force=False)
    assert runs.names == ["first", "first"]


def test_what_is_edited_while_it_runs_is_not_remembered(tmp_path: Path) -> None:
    keys = iter(["before", "after"])
    run_parts({"first": PARTS["first"]}, Memory(tmp_path), lambda _: next(keys), Runs(), force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_remembered_before_the_next_one_begins(tmp_path: Path) -> None:
    class CutOff(Runs):
        def __call__(self, name: str, part: Part) -> tuple[int, Passed]:
            if name == "second":
                raise KeyboardInterrupt
            return super().__call__(name, part)

    with pytest.raises(KeyboardInterrupt):
        run_parts(PARTS, Memory(tmp_path), key_of, CutOff(), force=False)
    assert Memory(tmp_path).find("first", "key-of-a") == RUN


def test_without_a_key_or_a_memory_nothing_is_remembered(tmp_path: Path) -> None:
    runs = Runs()
    for memory, key in ((Memory(tmp_path), None), (None, "key")):
        for _ in range(2):
            run_parts({"first": PARTS["first"]}, memory, lambda _, key=key: key, runs, force=False)
    assert runs.names == ["first"] * 4
    assert list(tmp_path.iterdir()) == []


CLUSTERS: dict[str, tuple[list[int], dict[str, str], bool, list[str]]] = {
    "one for all parts, without what was there": ([0, 0], {}, False, ["end", "a", "b", "end"]),
    "another one after a failure": ([1, 0], {}, False, ["end", "a", "end", "b", "end"]),
    "the one that is there, and stays": ([1, 0], {}, True, ["a", "b"]),
    "somebody else's": ([0, 0], {"CONCLAVE_E2E_KUBECONFIG": "/theirs"}, False, ["a", "b"]),
}


@pytest.mark.parametrize(("codes", "given", "keep", "expected"), CLUSTERS.values(), ids=CLUSTERS)
def test_the_cluster_begins_and_ends(
    tmp_path: Path, codes: list[int], given: dict[str, str], keep: bool, expected: list[str]
) -> None:
    done: list[str] = []

    def run(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, Passed]:
        done.extend(arguments)
        assert dict(environment) == {**given, **({} if given else {"CONCLAVE_E2E_KEEP": "1"})}
        return codes[len([name for name in done if name != "end"]) - 1], RUN

    memory, end = Memory(tmp_path), lambda: done.append("end")
    run_e2e(PARTS, "", force=True, keep=keep, given=given, memory=memory, pytest=run, end=end)
    assert done == expected


def test_a_cut_off_run_ends_its_cluster(tmp_path: Path) -> None:
    ended: list[str] = []

    def run(_arguments: Sequence[str], _environment: Mapping[str, str]) -> tuple[int, Passed]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_e2e(PARTS, "", force=True, keep=False, given={}, pytest=run, end=lambda: ended.append("end"))
    assert ended == ["end", "end"]


@pytest.mark.parametrize(
    ("only", "given"), [("hostile", {}), ("", {"CONCLAVE_E2E_KUBECONFIG": "/theirs"})], ids=["in part", "elsewhere"]
)
def test_what_ran_in_part_or_elsewhere_is_not_remembered(tmp_path: Path, only: str, given: dict[str, str]) -> None:
    asked: list[list[str]] = []

    def run(arguments: Sequence[str], _environment: Mapping[str, str]) -> tuple[int, Passed]:
        asked.append(list(arguments))
        return 0, RUN

    run_e2e(PARTS, only, force=False, keep=False, given=given, memory=Memory(tmp_path), pytest=run, end=lambda: None)
    assert asked == [[name, *(["-k", only] if only else [])] for name in ("a", "b")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", '{"date": 1}'], ids=["empty", "a list", "of another shape"])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "first-key.json").write_text(text)
    assert Memory(tmp_path).find("first", "key") is None


def test_the_table_says_what_ran_and_what_is_remembered(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.keep("first", "key-of-a", RUN)
    parts = {**PARTS, "third": Part(("c",), ())}
    said = table(run_parts(parts, memory, key_of, Runs(1, NO_TESTS_RAN), force=False)).splitlines()
    assert [" ".join(line.split()) for line in said] == [
        "first remembered from 2026-11-30T08:00+00:00 12.6 min 41 passed, 2 skipped",
        "second failed 12.6 min 41 passed, 2 skipped",
        "third has no such test 12.6 min 41 passed, 2 skipped",
    ]


@pytest.mark.parametrize(
    ("counts", "summary"),
    [
        ('tests="43" failures="0" errors="0" skipped="2"', "41 passed, 2 skipped"),
        ('tests="43" failures="1" errors="1" skipped="0"', "1 failed, 41 passed, 1 errors"),
        ('tests="0" failures="0" errors="0" skipped="0"', "no tests"),
    ],
)
def test_the_summary_is_what_pytest_counted(counts: str, summary: str) -> None:
    assert summary_of(f'<testsuites><testsuite name="pytest" {counts}/></testsuites>') == summary


def test_parts_are_chosen_by_name_in_the_tables_order() -> None:
    assert list(chosen("tracing models")) == list(chosen("models,tracing")) == ["models", "tracing"]
    assert chosen("") == E2E


def test_an_unknown_part_is_named_with_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["e2e", "--part", "model"])
    assert ended.value.code == "part model: unknown; the parts of e2e are " + ", ".join(E2E)

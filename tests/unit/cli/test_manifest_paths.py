"""`conclave validate -f` takes what kubectl's -f takes: files, directories, patterns, standard input, a List."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from click.testing import Result
from tests.manifest_table import BASE, merge
from typer.testing import CliRunner

from conclave.errors import InvalidInput
from conclave_cli.manifest_files import UnreadableFileError, load_deployment, read_documents
from conclave_cli.manifest_paths import find_files
from conclave_cli.validate import validate

APP = typer.Typer()
APP.command()(validate)
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: llm}\n"


def model(name: str, **spec: Any) -> str:
    return yaml.safe_dump(merge(BASE, {"metadata": {"name": name}, "spec": spec}))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with models/ in it."""
    files = {
        "models/b.yaml": model("b"),
        "models/a.yml": model("a"),
        "models/c.json": json.dumps(merge(BASE, {"metadata": {"name": "c"}})),
        "models/notes.md": "- no: manifest\n  at: [all",
        "models/namespace.yaml": NAMESPACE,
        "models/comments.yaml": "# nothing yet\n",
        "models/team/z.yaml": f"{model('z')}---\n{model('y')}",
        "models/team/more/x.yaml": model("x"),
        "docs/readme.md": "# no manifest",
        "empty/a.yaml": "# nothing",
        "empty/b.yaml": "---\n---\n",
        "docs/nested/w.yaml": model("w"),
        "model.txt": model("named-itself"),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "models" / "team" / "around").symlink_to(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: Sequence[str], stdin: str | None = None) -> Result:
    return CliRunner().invoke(APP, list(arguments), input=stdin)


def names(result: Result) -> list[str | None]:
    return [document["name"] for document in json.loads(result.stdout)["documents"]]


FOUND: dict[str, tuple[list[str], list[str]]] = {
    "a file, whatever its name ends with": (["-f", "model.txt"], ["named-itself"]),
    "a directory, its files in the order of their names": (["-f", "models"], ["a", "b", "c"]),
    "a directory with a slash": (["-f", "models/"], ["a", "b", "c"]),
    "a directory and its subdirectories": (["-f", "models", "-R"], ["a", "b", "c", "x", "z", "y"]),
    "subdirectories only": (["--filename", "docs", "--recursive"], ["w"]),
    "several, in the order in which they are given": (["-f", "models/b.yaml", "-f", "models/a.yml"], ["b", "a"]),
    "a pattern": (["-f", "models/*.y*ml"], ["a", "b"]),
    "standard input beside a file": (["-f", "-", "-f", "model.txt"], ["of-stdin", "named-itself"]),
    "several documents of a file": (["-f", "models/team/z.yaml"], ["z", "y"]),
}


@pytest.mark.parametrize(("arguments", "expected"), FOUND.values(), ids=FOUND)
def test_the_manifests_are_found_in_kubectls_order(directory: Path, arguments: list[str], expected: list[str]) -> None:
    result = run([*arguments, "-o", "json"], stdin=model("of-stdin"))
    assert result.exit_code == 0
    assert names(result) == expected


def test_what_a_directory_holds_besides_is_skipped_by_name(directory: Path) -> None:
    result = run(["-f", "models"])
    assert result.exit_code == 0
    assert sorted(result.stderr.splitlines()) == [
        "models/comments.yaml:1: skipped: holds no document",
        "models/namespace.yaml:1: skipped: Namespace llm",
    ]


REFUSED: dict[str, tuple[list[str], str]] = {
    "a directory without manifests": (
        ["-f", "docs"],
        "docs:1: is a directory without a file that ends with .json, .yaml or .yml; -R reads its subdirectories too",
    ),
    "a pattern that matches nothing": (["-f", "models/*.toml"], "models/*.toml:1: matches no file: check the pattern"),
    "a file that does not exist": (["-f", "absent.yaml"], "absent.yaml:1: cannot be read: No such file or directory"),
    "an empty file that is named": (["-f", "models/comments.yaml"], "models/comments.yaml:1: holds no document"),
    "a directory of empty files": (["-f", "empty"], "empty:1: holds no document, expected a ModelDeployment"),
    "a name that no file can have": (["-f", "x" * 300], "cannot be read: File name too long"),
    "a URL": (
        ["-f", "https://example.com/model.yaml"],
        "is a URL, which is not fetched. Pipe its content: curl -fsSL https://example.com/model.yaml | conclave",
    ),
    "a Namespace alone": (["-f", "models/namespace.yaml"], 'kind "Namespace" are not those of a ModelDeployment'),
}


@pytest.mark.parametrize(("arguments", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_name_without_a_manifest_says_why(directory: Path, arguments: list[str], expected: str) -> None:
    result = run(arguments)
    assert result.exit_code == 2
    assert expected in result.stdout


def test_a_name_without_a_manifest_does_not_hide_the_others(directory: Path) -> None:
    result = run(["-f", "docs", "-f", "models/b.yaml", "-f", "http://example.com/a.yaml", "-o", "yaml"])
    answer = yaml.safe_load(result.stdout)
    assert [document["name"] for document in answer["documents"]] == [None, "b", None]
    assert [document["file"] for document in answer["documents"]] == [
        "docs",
        "models/b.yaml",
        "http://example.com/a.yaml",
    ]
    assert not answer["valid"]


def test_standard_input_is_given_once(directory: Path) -> None:
    result = run(["-f", "-", "-f", "-"], stdin=model("a"))
    assert isinstance(result.exception, InvalidInput)
    assert "-f - is given twice" in str(result.exception)


def test_the_items_of_a_list_are_judged_with_their_lines() -> None:
    """What `kubectl get modeldeployments -o yaml` prints."""
    items = [yaml.safe_load(model("good")), yaml.safe_load(model("bad", suspend="yes")), yaml.safe_load(NAMESPACE)]
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}})
    result = run(["-f", "-"], stdin=text)
    lines = text.splitlines()
    at = lines.index("    suspend: 'yes'") + 1
    assert result.stdout.splitlines()[0] == f"-:{lines.index('items:') + 2}: ModelDeployment good is valid"
    assert result.stdout.splitlines()[1].startswith(f"-:{at}: spec.suspend: Invalid value")
    assert result.stdout.splitlines()[-1] == "1 of 2 documents refused"
    assert result.stderr.endswith("skipped: Namespace llm\n")


def test_a_list_that_only_a_file_can_break_is_refused_whole() -> None:
    result = run(["-f", "-"], stdin="apiVersion: v1\nkind: List\nitems:\n- {a: 1, a: 2}\n")
    assert result.exit_code == 2
    assert "-:4: items[0].a: is given twice" in result.stdout


ONE: dict[str, tuple[str, str]] = {
    "a directory": ("models", "models:1: is a directory, expected a file: name one of its files"),
    "a URL": ("https://example.com/a.yaml", "is a URL, which is not fetched"),
}


@pytest.mark.parametrize(("name", "expected"), ONE.values(), ids=ONE)
def test_a_command_for_one_model_takes_one_file(directory: Path, name: str, expected: str) -> None:
    """`plan` and `up` are about one model."""
    with pytest.raises(UnreadableFileError) as refusal:
        load_deployment(name)
    assert expected in str(refusal.value)


def test_a_file_name_with_the_characters_of_a_pattern_is_itself(directory: Path) -> None:
    (directory / "model[1].yaml").write_text(model("one"), encoding="utf-8")
    (found,) = find_files("model[1].yaml", recursive=False)
    assert read_documents(found.path)[0].value == yaml.safe_load(model("one"))

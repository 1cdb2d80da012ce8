"""Manifest files: what YAML would let pass silently, each with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.manifest_table import BASE

from conclave.errors import InvalidInput
from conclave_cli.manifest_files import (
    MAX_FILE_BYTES,
    UnreadableFileError,
    load_deployment,
    load_deployments,
    read_documents,
)

GOOD = yaml.safe_dump(BASE)


def _file(directory: Path, content: str | bytes) -> str:
    path = directory / "model.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


BROKEN = {
    "a key that is given twice": ("a: 1\nb: 2\na: 3\n", "model.yaml:3: a: is given twice, in lines 1 and 3"),
    "a key that is given twice further down": (
        "spec:\n  model: {id: a, id: b}\n",
        "model.yaml:2: spec.model.id: is given twice",
    ),
    "not a number": ("a:\n  b: .nan\n", "model.yaml:2: a.b: .nan is not a finite number"),
    "infinity": ("a: -.inf\n", "model.yaml:1: a: -.inf is not a finite number"),
    "an exponent beyond all numbers": ("a: 1e999\n", "model.yaml:1: a: 1e999 is not a finite number"),
    "the same in JSON": ('{"a": [0,\n 1.0e+999]}', "model.yaml:2: a[1]: 1.0e+999 is not a finite number"),
    "a number for a key": ("1: a\n", "line 1: a key must be a string"),
    "a merge key": ("a: &a {b: c}\nd:\n  <<: *a\n", "line 3: a key must be a string"),
    "a Python object": ("a: !!python/object:os.system {}\n", "has the tag tag:yaml.org,2002:python/object:os.system"),
    "a binary": ("a: !!binary aGVsbG8=\n", "model.yaml:1: a: has the tag tag:yaml.org,2002:binary"),
    "half a surrogate pair": ('a: b\nc: "\\ud83d"\n', "model.yaml:2: c: holds half a surrogate pair"),
    "half a surrogate pair in a key": ('a:\n  "\\ude00": b\n', "model.yaml:1: a: line 2: a key holds half a surrogate"),
    "a hexadecimal integer of five thousand digits": (f"a: 0x{'f' * 5000}\n", "is no whole number of 64 bits"),
    "sixties of sixties": (f"a: {'1:' * 5000}1\n", "is no whole number of 64 bits"),
    "an integer of five thousand digits": (f"a: {'9' * 5000}\n", "is not a value of its type"),
    "aliases that grow": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
            for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "holds more than 20000 values",
    ),
    "an alias of itself": ("a: &a [*a]\n", "holds more than 20000 values or 64 levels"),
}


@pytest.mark.parametrize(("text", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_only_a_file_can_break_is_told_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load_deployments(_file(tmp_path, text))
    assert expected in str(refusal.value)


UNREADABLE: dict[str, tuple[str | bytes, int, str]] = {
    "no YAML": ("a: b\nc: [d\n", 3, "not YAML: "),
    "a tab for spaces": ("a:\n\tb: c\n", 2, "not YAML: found character"),
    "an unknown alias": ("a: *b\n", 1, "not YAML: found undefined alias"),
    "a NUL": ("a: \0\n", 1, "not YAML: "),
    "nothing": ("", 1, "holds no document"),
    "only separators": ("---\n---\n", 1, "holds no document"),
    "another encoding": (b"a: b\nc: \xff\n", 2, "byte 8 is not UTF-8"),
    "a deep nest": ("a: " + "[" * 100_000, 1, "nested deeper than 64 levels"),
    "a large file": ("#" * (MAX_FILE_BYTES + 1), 1, "is larger than 1048576 bytes"),
}


@pytest.mark.parametrize(("content", "line", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_judged_says_why(tmp_path: Path, content: str | bytes, line: int, reason: str) -> None:
    with pytest.raises(UnreadableFileError) as refusal:
        read_documents(_file(tmp_path, content))
    assert refusal.value.line == line
    assert reason in refusal.value.reason


def test_a_file_that_does_not_exist_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="no such file; correct the path"):
        read_documents(str(tmp_path / "absent.yaml"))


def test_snake_case_is_refused_though_the_types_take_it_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"spec\.model\.served_name: field not declared in schema: did you mean served"
    ):
        load_deployment(_file(tmp_path, GOOD.replace("  model:\n", "  model:\n    served_name: x\n")))


def test_several_documents_are_read_in_order(tmp_path: Path) -> None:
    second = GOOD.replace("name: mixtral\n", "name: other\n")
    file = _file(tmp_path, f"---\n{GOOD}---\n# nothing\n---\n{second}")
    assert [deployment.metadata.name for deployment in load_deployments(file)] == ["mixtral", "other"]
    with pytest.raises(InvalidInput, match=r"holds 2 ModelDeployments \(mixtral, other\), expected exactly one"):
        load_deployment(file)


def test_yaml_and_json_of_the_same_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(BASE), encoding="utf-8")
    assert load_deployment(tmp_path / "model.json") == load_deployment(_file(tmp_path, GOOD))


def test_a_character_that_json_escapes_as_a_pair_is_read(tmp_path: Path) -> None:
    (document,) = read_documents(_file(tmp_path, '{"\\ud83d\\ude00": "\\ud83d\\ude00!", "plain": "\ufeffa"}'))
    assert document.value == {"\U0001f600": "\U0001f600!", "plain": "\ufeffa"}


def test_anchors_that_stay_small_are_taken(tmp_path: Path) -> None:
    text = GOOD.replace("id: mistralai/Mixtral-8x7B-Instruct-v0.1", "id: &id mistralai/Mixtral-8x7B-Instruct-v0.1")
    assert load_deployment(_file(tmp_path, text.replace("    source:", "    servedName: *id\n    source:"))).served_name


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused_but_never_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = _file(tmp_path_factory.mktemp("any"), content)
    with pytest.raises(InvalidInput):
        load_deployments(file)

"""What is counted in a text before it is parsed, beside what the standard library finds in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conclave_openai.bodies.strict_json import Bounds, Outline, decode, parse_object
from conclave_openai.errors import RequestError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", ",", "[", "]", '"', "\\", '\\"', '",', "[{", "}:]", '","', "\\\\", '\\\\"', "\x00", "\u2028", "😀"]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(ANY_TEXT, inner, max_size=5),
    max_leaves=30,
)
OBJECTS = st.dictionaries(ANY_TEXT, VALUES, max_size=5)


def count(value: object) -> int:
    """Values and keys; an empty container counts for two, as if it might hold one."""
    if isinstance(value, dict):
        return 1 + max(1, sum(1 + count(item) for item in value.values()))
    if isinstance(value, list):
        return 1 + max(1, sum(count(item) for item in value))
    return 1


def depth(value: object) -> int:
    if isinstance(value, dict | list):
        return 1 + max((depth(item) for item in (value.values() if isinstance(value, dict) else value)), default=0)
    return 0


def containers(value: object) -> int:
    if isinstance(value, dict | list):
        return 1 + sum(containers(item) for item in (value.values() if isinstance(value, dict) else value))
    return 0


def parse(body: bytes, *, max_depth: int = 64, max_containers: int = 10**9, max_values: int = 10_000) -> dict[str, Any]:
    return parse_object(body, Bounds(max_depth, max_containers, max_values))


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]))
@example({"a": ",[{:" * 40_000}, True, None)
def test_an_object_is_read_as_the_standard_library_reads_it(value: dict[str, Any], ascii_: bool, indent: int) -> None:
    body = json.dumps(value, ensure_ascii=ascii_, indent=indent).encode()
    assert parse(body, max_depth=10_000) == json.loads(body)


@given(OBJECTS)
def test_values_are_counted_outside_of_strings(value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    assert Outline.of(body).values == count(value)
    assert parse(body, max_values=count(value)) == value
    with pytest.raises(RequestError, match="JSON values"):
        parse(body, max_values=count(value) - 1)


@given(OBJECTS)
def test_arrays_and_objects_are_counted_outside_of_strings(value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    assert parse(body, max_containers=containers(value)) == value
    with pytest.raises(RequestError, match="arrays and objects"):
        parse(body, max_containers=containers(value) - 1)


@given(OBJECTS)
def test_depth_is_found_before_anything_is_built(value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    assert parse(body, max_depth=depth(value)) == value
    if depth(value) > 1:
        with pytest.raises(RequestError, match="nested deeper"):
            parse(body, max_depth=depth(value) - 1)


@given(st.binary(max_size=60) | st.text('{}[],:"\\ntrue01.eE-u d8', max_size=60).map(str.encode))
def test_no_text_fails_otherwise_than_by_a_refusal(body: bytes) -> None:
    try:
        parsed = parse(body)
    except RequestError:
        return
    assert parsed == json.loads(body)


@given(st.text('{}[],:"\\a', max_size=60).map(str.encode))
def test_the_parser_never_finds_more_than_was_counted(body: bytes) -> None:
    """Of every prefix that a decoder accepts, the count and the depth are right."""
    parsed = decode(body)
    if parsed is not None:
        outline = Outline.of(body)
        assert count(parsed) <= outline.values
        assert depth(parsed) == 0 or b"[]" not in outline.beyond(depth(parsed))


REFUSED: dict[str, bytes] = {
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "a number beyond double": b'{"a": 1e999}',
    "a negative number beyond double": b'{"a": -1e999}',
    "a number of a million digits": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "a fraction of a million digits before the point": b'{"a": ' + b"9" * 1_000_000 + b".5}",
    "a number that begins with zero": b'{"a": 01}',
    "half of a surrogate pair": b'{"a": "\\ud800"}',
    "the other half": b'{"a": "\\udc00"}',
    "a half before a letter": b'{"a": "\\ud800x"}',
    "two first halves": b'{"a": "\\ud800\\ud800"}',
    "halves in the wrong order": b'{"a": "\\udc00\\ud800"}',
    "half of a pair as a key": b'{"\\uDBFF": 1}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "not UTF-8": b'{"a": "\xff"}',
    "an overlong encoding": b'{"a": "\xc0\xaf"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a control character": b'{"a": "\x00"}',
    "a line break in a string": b'{"a": "\n"}',
    "a comment": b'{"a": 1} // x',
    "two objects": b"{}{}",
    "a trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "null": b"null",
    "a string": b'"a"',
    "an array": b"[]",
    "nothing": b"",
    "a key twice": b'{"a": 1, "b": 2, "a": 3}',
    "a key twice, once escaped": b'{"a": 1, "\\u0061": 2}',
    "a nested key twice": b'{"a": [0, {"b": [{"c": 1, "c": 1}]}]}',
    "an empty key twice": b'{"a": {"": 1, "": 1}}',
    "a key twice with an object lost": b'{"a": {"b": 1}, "a": 2}',
    "10^5 open arrays": b'{"a":' + b"[" * 100_000,
    "10^5 levels of arrays": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "10^5 levels of objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "10^5 levels by turns": b'{"a":[' * 50_000 + b"]}" * 50_000,
    "10^5 open objects": b'{"a":' * 100_000,
    "10^5 closed brackets": b"{}" + b"]" * 100_000,
    "brackets that cross": b'{"a": [}]',
    "65 levels of objects and arrays by turns": b'{"a":[' * 33 + b"]}" * 33,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_strict_json_is_refused(name: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(REFUSED[name], max_values=10**9)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        pytest.param(b'{"a": "\\ud83d\\ude00"}', {"a": "😀"}, id="a surrogate pair"),
        pytest.param(b'{"a": "\\\\ud800"}', {"a": "\\ud800"}, id="what only looks like a surrogate"),
        pytest.param(b'{"a": "\\u0000"}', {"a": "\0"}, id="an escaped NUL"),
        pytest.param(b'{"a": 18446744073709551616}', {"a": 2**64}, id="a number of 65 bits"),
        pytest.param(b'{"a": "\\"[[[[,,,,\\\\"}', {"a": '"[[[[,,,,\\'}, id="brackets after an escaped quote"),
        pytest.param(b' \t\r\n{"a" : [ ] }\n', {"a": []}, id="white space"),
        pytest.param(b'{"a":[' * 32 + b"]}" * 32, None, id="64 levels"),
    ],
)
def test_odd_but_valid_json_is_read(body: bytes, parsed: dict[str, Any] | None) -> None:
    assert parse(body) == (json.loads(body) if parsed is None else parsed)

"""Answers of the API server with what anybody may write where no schema holds: the rest of a list stays readable."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave_cluster.json_answers import read_object

DEEP = b"[" * 5000 + b"]" * 5000
VALUES = {
    "5000 levels of lists": DEEP,
    "5000 levels of objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "5000 levels with brackets in texts between": b'["[\\"{", ' * 5000 + b'"]"' + b"]" * 5000,
    "a number of 5000 digits": b"9" * 5000,
    "a negative one": b"-" + b"9" * 5000,
    "both": b"[" + DEEP + b"," + b"9" * 5000 + b"]",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_that_python_does_not_read_leaves_its_neighbours(value: bytes) -> None:
    text = b'{"items": [{"name": "a"}, {"data": ' + value + b', "name": "b"}, {"name": "c"}], "end": "\\u005d"}'
    found = read_object(text)
    assert [item["name"] for item in found["items"]] == ["a", "b", "c"]
    assert found["end"] == "]"
    json.dumps(found)


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=4), below, max_size=4),
            max_leaves=20,
        ),
        max_size=5,
    )
)
def test_what_python_reads_is_read_as_python_does_beside_what_it_does_not(value: dict[str, object]) -> None:
    assert read_object(json.dumps(value).encode()) == value
    both = read_object(b'{"deep": ' + DEEP + b', "value": ' + json.dumps(value).encode() + b"}")
    assert both["value"] == value


@pytest.mark.parametrize("text", [b"", b"<html>", b"[]", b"3", b"null", b"[" * 5000, b'{"a": 1', b"\xff{}"])
def test_what_is_no_object_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        read_object(text)

"""What a safetensors header may claim: each lie is refused by name, at the cost of the bytes that were read."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.headers import MAX_HEADER_BYTES, read_header

DATA = bytes(16)


def file_of(header: object, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(**changes: object) -> bytes:
    return file_of({"a": tensor(**changes)})


LIES: dict[str, tuple[bytes, str]] = {
    "a length beyond the format's": (struct.pack("<Q", MAX_HEADER_BYTES + 1), "no safetensors header length"),
    "the greatest length there is": (b"\xff" * 8 + b"{}", "no safetensors header length"),
    "a length beyond the file": (struct.pack("<Q", MAX_HEADER_BYTES) + b"{}", "shorter than its header"),
    "no length": (b"\x10\0", "shorter than its header"),
    "text that is no JSON": (file_of(b"{" * 50), "header is invalid"),
    "text that is no UTF-8": (file_of(b'{"\xff": 1}'), "header is invalid"),
    "brackets without an end": (file_of(b'{"a": ' + b"[" * 100_000), "header is invalid"),
    "a number of 5000 digits": (file_of(b'{"a": ' + b"9" * 5000 + b"}"), "header is invalid"),
    "a list": (file_of([]), "header is invalid"),
    "nothing": (file_of(b""), "header is invalid"),
    "a tensor that is null": (file_of({"a": None}), "header is invalid"),
    "a tensor without offsets": (file_of({"a": {"dtype": "F32", "shape": [4]}}), "header is invalid"),
    "three offsets": (one(offsets=(0, 8, 16)), "header is invalid"),
    "data from before the file's": (one(offsets=(-16, 0)), "expected whole numbers in order"),
    "data that end before they begin": (one(offsets=(16, 0)), "expected whole numbers in order"),
    "data from beyond the file's end": (one(offsets=(2**40, 2**40 + 16)), "data from byte 1099511627776, expected 0"),
    "data up to beyond the file's end": (one(shape=(2**20,), offsets=(0, 2**22)), "its header says .*: truncated"),
    "two tensors that share data": (file_of({"a": tensor(), "b": tensor()}), "data from byte 0, expected 16"),
    "data with a gap": (one(shape=(2,), offsets=(8, 16)), "data from byte 8, expected 0"),
    "data that no tensor has": (one(shape=(2,), offsets=(0, 8)), "24|its header says"),
    "a shape of other bytes": (one(shape=(5,)), "16 bytes for shape"),
    "a dimension below 0": (one(shape=(-4,)), "expected whole numbers in order"),
    "a dimension that is a truth": (one(shape=(True, 4)), "expected whole numbers in order"),
    "a dimension with a point": (one(shape=(4.0,)), "expected whole numbers in order"),
    "a dimension that is no number": (one(shape=(float("nan"),)), "expected whole numbers in order"),
    "a dimension beyond 64 bits": (one(shape=(2**64, 0)), "expected whole numbers in order"),
    "a million dimensions, whose product takes hours": (one(shape=(2**62,) * 10**6), "1000000 dimensions"),
    "a shape that is a text": (one(shape="1234"), "expected whole numbers in order"),
    "a type that is a list": (one(dtype=[]), "header is invalid"),
    "a name of a million signs with a wrong shape": (file_of({"a" * 10**6: tensor(shape=(5,))}), "16 bytes for shape"),
}


@pytest.mark.parametrize(("content", "message"), LIES.values(), ids=LIES)
def test_a_lie_of_a_header_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsUnfit, match=message) as refusal:
        read_header(tmp_path / "x.safetensors")
    assert len(str(refusal.value)) < 1000


def test_the_header_that_the_lies_are_made_from_is_one(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(one())
    assert read_header(tmp_path / "x.safetensors")["a"].shape == (4,)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "F4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries({}, optional={"dtype": VALUES, "shape": VALUES, "data_offsets": VALUES})


@given(st.dictionaries(st.text(max_size=5), ENTRIES | VALUES, max_size=4), st.binary(max_size=20))
def test_whatever_the_header_says_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, object], data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(file_of(header, data))
    try:
        tensors = read_header(path)
    except WeightsUnfit:
        return
    assert sum(found.size_bytes for found in tensors.values()) == len(data)

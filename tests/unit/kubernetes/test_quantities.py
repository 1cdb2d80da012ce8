"""Quantities as the API server reads them: its grammar, its limits, and nothing that takes long."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity as parse_of_the_client

from conclave.kubernetes.quantities import LARGEST, parse_quantity, whole_units, write_quantity

AMOUNTS: dict[object, str] = {
    "8": "8",
    "0": "0",
    "+8": "8",
    "-8": "-8",
    "0.5": "0.5",
    "5.": "5",
    ".5": "0.5",
    "1k": "1000",
    "1e3": "1000",
    "1E3": "1000",
    "1E": "1000000000000000000",
    "1e-3": "0.001",
    "1Ki": "1024",
    "1.5Gi": "1610612736",
    "1000m": "1",
    "500m": "0.5",
    "1u": "0.000001",
    "1n": "0.000000001",
    "-1Mi": "-1048576",
    8: "8",
    0.5: "0.5",
    "1e999999999": str(LARGEST),
    "-1e999999999": str(-LARGEST),
    "9" * 60: str(LARGEST),
    "9223372036854775807Ei": str(LARGEST),
    10**400: str(LARGEST),
}
NONE: list[object] = [
    "", "k", "m", ".", "e3", "1e", "1e+", "1ki", "1mi", "1K", "1 k", " 1", "1\n", "0x10", "1_000", "NaN", "Infinity",
    "١", "--1", "1.2.3", "1Kim", "9" * 5000, "1e" + "9" * 5000, None, True, [], {}, float("nan"), float("inf"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "amount"), AMOUNTS.items(), ids=lambda value: repr(value)[:24])
def test_a_quantity_is_read_as_kubernetes_reads_it(text: object, amount: str) -> None:
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", NONE, ids=lambda value: repr(value)[:24])
def test_what_is_no_quantity_is_none(text: object) -> None:
    assert parse_quantity(text) is None
    assert whole_units(text, otherwise=7) == 7


def test_a_huge_exponent_with_nothing_before_it_is_nothing() -> None:
    assert parse_quantity("0e999999999") == 0
    assert whole_units("1e-999999999", otherwise=7) == 1


@pytest.mark.parametrize(("text", "count"), [("8", 8), ("1k", 1000), ("1500m", 2), ("-1", -1), ("0", 0), ("1e3", 1000)])
def test_gpus_are_had_whole(text: str, count: int) -> None:
    assert whole_units(text, otherwise=7) == count


@given(
    st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,3})?(m|k|M|G|Ki|Mi|Gi)?", fullmatch=True)
    | st.from_regex(r"[0-9]{1,4}[eE][0-9]", fullmatch=True)
)
def test_it_agrees_with_the_client_s_own_reader(text: str) -> None:
    if text.isascii():
        assert parse_quantity(text) == min(parse_of_the_client(text), LARGEST)


@given(st.text(max_size=200) | st.integers() | st.floats() | st.none() | st.lists(st.text(), max_size=2))
def test_no_text_is_too_odd(text: object) -> None:
    amount = parse_quantity(text)
    assert amount is None or -LARGEST <= amount <= LARGEST


WRITTEN = {
    "whole cores": ("4", "4"),
    "parts of a core": ("4.5", "4500m"),
    "less than a thousandth counts as one": ("0.0001", "1m"),
    "nothing": ("0", "0"),
    "memory in the largest unit that divides it": ("9663676416", "9Gi"),
    "memory that only a smaller unit divides": ("1610612736", "1536Mi"),
    "bytes": ("1000", "1000"),
}


@pytest.mark.parametrize(("amount", "text"), WRITTEN.values(), ids=WRITTEN)
def test_an_amount_is_written_as_people_write_it(amount: str, text: str) -> None:
    assert write_quantity(Decimal(amount)) == text


@given(st.integers(0, 2**63 - 1))
def test_what_is_written_is_read_as_the_same_amount(thousandths: int) -> None:
    amount = Decimal(thousandths) / 1000
    assert parse_quantity(write_quantity(amount)) == amount

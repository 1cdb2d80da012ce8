"""Amounts of a resource as Kubernetes writes them: 2, 0.5, 500m, 1k, 1e3, 64Gi.

The grammar is that of k8s.io/apimachinery/pkg/api/resource. The `kubernetes` package's reader, which the core must not
import, takes more than any API server does (NaN, 1_000) and numbers that take minutes to be used (1e999999).
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_MOST = 2**63 - 1
LARGEST = Decimal(_MOST)
"""Kubernetes cuts what is more, in either direction."""
BINARY, DECIMAL = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), ("", "k", "M", "G", "T", "P", "E")
_FACTORS = {
    **{suffix: Decimal(1).scaleb(-3 * power) for power, suffix in enumerate("mun", start=1)},
    **{suffix: Decimal(1000**power) for power, suffix in enumerate(DECIMAL)},
    **{suffix: Decimal(1024**power) for power, suffix in enumerate(BINARY)},
}
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]{1,64}(?:\.[0-9]{0,64})?|\.[0-9]{1,64}))"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]{1,64}))?"
)
_FARTHEST = 100
"""Exponents beyond it change nothing any more: the amount is the largest one, or nearly none."""


def parse_quantity(text: object) -> Decimal | None:
    """None where it is no quantity. A number that JSON holds as one is read as its text."""
    if isinstance(text, int) and not isinstance(text, bool):
        return Decimal(max(-_MOST, min(_MOST, text)))
    if isinstance(text, float):
        text = repr(text)
    found = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    number = Decimal(found["number"])
    if found["exponent"]:
        number = number.scaleb(max(-_FARTHEST, min(_FARTHEST, int(found["exponent"]))))
    else:
        number *= _FACTORS[found["suffix"] or ""]
    return max(-LARGEST, min(LARGEST, number))


def whole_units(text: object, otherwise: int) -> int:
    """Of what is only had whole, as GPUs are: a part counts as one. `otherwise` where it is no quantity."""
    amount = parse_quantity(text)
    return otherwise if amount is None else int(amount.to_integral_value(ROUND_CEILING))


def write_quantity(amount: Decimal, step: int = 1024, suffixes: tuple[str, ...] = BINARY) -> str:
    """With the largest suffix that divides the amount: 4, 4500m, 9Gi."""
    if amount % 1:
        return f"{(amount * 1000).to_integral_value(ROUND_CEILING):f}m"
    power = 0
    while power + 1 < len(suffixes) and amount and amount % step == 0:
        amount, power = amount / step, power + 1
    return f"{amount:f}".partition(".")[0] + suffixes[power]


def canonical(quantity: str) -> str:
    """A quantity as the API server writes it: 1024Gi becomes 1Ti, and the claim does not count as changed."""
    amount = parse_quantity(quantity)
    if amount is None:
        return quantity
    return (
        write_quantity(amount) if quantity.endswith("i") and amount >= 1024 else write_quantity(amount, 1000, DECIMAL)
    )

"""Whether two models say the same: the same tokens, and log-probabilities that differ by rounding only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.serving.models.references.grok1 import Token

TOLERANCE = 2e-3


def first_difference(
    said: Sequence[Sequence[Token]], expected: Iterable[Sequence[Token]], tolerance: float = TOLERANCE
) -> str | None:
    """Where `said` first departs from `expected`, which is only read that far; None where it does not."""
    for prompt, (answer, reference) in enumerate(zip(said, expected, strict=True)):
        for position, (token, wanted) in enumerate(zip(answer, reference, strict=True)):
            if token.id != wanted.id or not abs(token.logprob - wanted.logprob) <= tolerance:
                return (
                    f"prompt {prompt}, token {position}: {token.id} ({token.logprob:.6f}), "
                    f"expected {wanted.id} ({wanted.logprob:.6f}), tolerance {tolerance:g}"
                )
    return None

"""The bearer token's file: refused when missing or short, followed when it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from conclave.errors import EnvironmentUnfit
from conclave_serving import authorization
from conclave_serving.authorization import BearerToken, read_token
from conclave_serving.errors import RequestError

FIRST, SECOND = "first-token-0123456789", "second-token-0123456789"


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", f"Bearer {token}".encode())]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("", "0 characters"), ("\n\n", "0 characters"), ("short", "5 characters")],
    ids=["missing", "empty", "blank", "short"],
)
def test_no_start_without_a_token(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EnvironmentUnfit, match=said) as refusal:
        read_token(path)
    assert str(path) in str(refusal.value)


def test_a_changed_file_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "RECHECK_S", 0)
    path = tmp_path / "token"
    path.write_text(FIRST)
    token = BearerToken(path)
    token.require(bearer(FIRST))
    path.write_text(SECOND)
    token.require(bearer(SECOND))
    with pytest.raises(RequestError):
        token.require(bearer(FIRST))


def test_a_file_that_vanishes_leaves_the_last_token_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "RECHECK_S", 0)
    path = tmp_path / "token"
    path.write_text(FIRST)
    token = BearerToken(path)
    path.unlink()
    token.require(bearer(FIRST))
    with pytest.raises(RequestError):
        token.require(bearer(SECOND))

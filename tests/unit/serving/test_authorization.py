"""The bearer token's file: refused when missing or short, followed when it changes, and no token without it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conclave.errors import EnvironmentUnfit
from conclave_openai.authorization import LOOK_S, RECHECK_S, BearerToken, read_token
from conclave_openai.errors import RequestError

FIRST, SECOND = "first-token-0123456789", "other-token-0123456789"


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", f"Bearer {token}".encode())]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Laid out as kubelet does it: the name is a link into a directory that is itself a link."""
    mount(tmp_path, "1", FIRST)
    (tmp_path / "token").symlink_to("..data/token")
    return tmp_path / "token"


def mount(directory: Path, version: str, token: str) -> None:
    (directory / version).mkdir()
    (directory / version / "token").write_text(token)
    (directory / "next").symlink_to(version)
    (directory / "next").rename(directory / "..data")


def status(token: BearerToken, given: str) -> int:
    try:
        token.require(bearer(given))
    except RequestError as refusal:
        return refusal.status
    return 200


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


def test_another_token_counts_at_the_next_look(path: Path, clock: Clock) -> None:
    token = BearerToken(path, clock)
    assert status(token, FIRST) == 200
    mount(path.parent, "2", SECOND)
    clock.now += LOOK_S
    assert (status(token, SECOND), status(token, FIRST)) == (200, 401)


def test_another_token_of_the_same_size_and_time_is_seen(path: Path, clock: Clock) -> None:
    token = BearerToken(path, clock)
    before = path.stat()
    assert status(token, FIRST) == 200
    path.write_text(SECOND)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)
    clock.now += LOOK_S
    assert (status(token, SECOND), status(token, FIRST)) == (200, 401)


UNFIT: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_text(""),
    "cut short": lambda path: path.write_text(FIRST[:8]),
    "a link to nothing": lambda path: (path.parent / "..data").unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("pause_s", [0.25, LOOK_S, RECHECK_S, 3600], ids=lambda pause_s: f"a request every {pause_s} s")
def test_a_token_ends_with_its_file(
    path: Path, clock: Clock, name: str, pause_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    token = BearerToken(path, clock)
    assert status(token, FIRST) == 200
    UNFIT[name](path)
    revoked_at = clock.now
    with caplog.at_level(logging.ERROR, "conclave_openai"):
        while clock.now < revoked_at + RECHECK_S:
            clock.now += pause_s
            assert status(token, FIRST) in ((200, 503) if clock.now < revoked_at + RECHECK_S else (503,))
        assert [status(token, given) for given in (FIRST, SECOND, "")] == [503] * 3
    assert len([record for record in caplog.records if str(path) in record.message]) == 1
    assert FIRST not in caplog.text


def test_a_file_that_comes_back_counts_again(path: Path, clock: Clock) -> None:
    token = BearerToken(path, clock)
    path.write_text("")
    assert status(token, FIRST) == 503
    mount(path.parent, "2", SECOND)
    clock.now += LOOK_S
    assert (status(token, SECOND), status(token, FIRST)) == (200, 401)


def test_a_file_that_is_missing_while_it_is_replaced_changes_nothing(path: Path, clock: Clock) -> None:
    token = BearerToken(path, clock)
    assert status(token, FIRST) == 200
    content = path.read_text()
    path.unlink()
    clock.now += LOOK_S
    assert status(token, FIRST) == 200
    path.write_text(content)
    clock.now += RECHECK_S
    assert status(token, FIRST) == 200


def test_the_file_is_read_once_in_a_while_however_many_ask(path: Path, clock: Clock, tmp_path: Path) -> None:
    token = BearerToken(path, clock)
    assert status(token, FIRST) == 200
    path.unlink()
    for _ in range(1000):
        assert status(token, FIRST) == 200

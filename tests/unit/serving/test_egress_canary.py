"""The canary of worker pods: real connections for one attempt, a clock of the test's for when it gives up."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from conclave_serving.egress_canary import PATIENCE_S, PAUSE_S, Egress, attempt, watch


@pytest.fixture
def listener() -> Iterator[tuple[str, int]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        host, port = server.getsockname()
        yield host, port


@pytest.fixture
def closed_port() -> tuple[str, int]:
    """Of a socket that is gone; ports of the kernel's range are not given out again at once."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        host, port = server.getsockname()
    return host, port


def run(report: Path, host: str = "", port: str = "") -> tuple[int, dict[str, object]]:
    given = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    environment = {**os.environ, **{name: value for name, value in given.items() if value}}
    command = [sys.executable, "-m", "conclave_serving.egress_canary", str(report)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def test_what_listens_is_open_and_what_refuses_is_closed(
    listener: tuple[str, int], closed_port: tuple[str, int]
) -> None:
    assert attempt(*listener) == "open"
    assert attempt(*closed_port) == "closed"


def test_what_never_answers_is_closed() -> None:
    """A full backlog: the kernel drops what comes then, as a network plugin does."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as server:
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            assert one.connect_ex(server.getsockname()) == errno.EINPROGRESS
        assert attempt(*server.getsockname(), timeout_s=0.2) == "closed"
        for one in waiting:
            one.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_of_ipv6_is_tried() -> None:
    with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as server:
        assert attempt("::1", server.getsockname()[1]) == "open"


@pytest.mark.parametrize(
    ("host", "port"),
    [("name.invalid", 443), ("." * 70, 443)],
    ids=["a name without an address", "a name that is none"],
)
def test_what_tells_nothing_about_the_network_is_unknown(host: str, port: int) -> None:
    assert attempt(host, port, timeout_s=1) == "unknown"


class Clock:
    """Sleeping moves it; an attempt takes as long as the test says."""

    def __init__(self, found: list[Egress], attempt_s: float = 0.0) -> None:
        self.now_s = 100.0
        self._found, self._attempt_s = found, attempt_s
        self.attempts = 0

    def attempt(self) -> Egress:
        self.now_s += self._attempt_s
        self.attempts += 1
        return self._found[min(self.attempts, len(self._found)) - 1]

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def watched(self) -> tuple[Egress, int]:
        return watch(self.attempt, clock=lambda: self.now_s, sleep=self.sleep), self.attempts


WATCHED: dict[str, tuple[list[Egress], Egress, int]] = {
    "closed twice ends it": (["closed"], "closed", 2),
    "open at first, then the policy holds": (["open", "open", "closed"], "closed", 4),
    "closed once at the very beginning proves nothing": (["closed", "open"], "open", int(PATIENCE_S / PAUSE_S) + 1),
    "open to the end": (["open"], "open", int(PATIENCE_S / PAUSE_S) + 1),
    "unknown to the end": (["unknown"], "unknown", int(PATIENCE_S / PAUSE_S) + 1),
}


@pytest.mark.parametrize(("found", "result", "attempts"), WATCHED.values(), ids=WATCHED)
def test_it_watches_until(found: list[Egress], result: Egress, attempts: int) -> None:
    assert Clock(found).watched() == (result, attempts)


def test_slow_attempts_take_no_longer() -> None:
    clock = Clock(["unknown"], attempt_s=3.0)
    assert clock.watched() == ("unknown", 4)
    assert clock.now_s == 100 + PATIENCE_S


def test_the_report_is_one_line_of_json(tmp_path: Path, closed_port: tuple[str, int]) -> None:
    host, port = closed_port
    report = tmp_path / "termination-log"
    code, line = run(report, host, str(port))
    assert code == 0
    assert json.loads(report.read_text()) == line
    assert (line["egress"], line["target"]) == ("closed", f"{host}:{port}")


@pytest.mark.parametrize(
    ("host", "port"), [("", ""), ("127.0.0.1", "x"), ("", "443")], ids=["no variables", "no number", "no host"]
)
def test_without_an_api_server_to_try_it_ends_well_and_says_so(tmp_path: Path, host: str, port: str) -> None:
    code, line = run(tmp_path / "termination-log", host, port)
    assert (code, line["egress"]) == (0, "unknown")


def test_a_report_that_cannot_be_written_blocks_no_pod(tmp_path: Path) -> None:
    code, line = run(tmp_path / "absent" / "termination-log")
    assert (code, line["egress"]) == (0, "unknown")


def test_it_needs_the_standard_library_only() -> None:
    """It runs before every start of a worker, with little memory."""
    script = (
        "import sys; before = {*sys.modules}; import conclave_serving.egress_canary; print(*{*sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert packages - sys.stdlib_module_names == {"conclave", "conclave_serving"}

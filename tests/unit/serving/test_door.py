"""The door before uvicorn, over raw sockets: what one client may send, how long it may take, how often it may come."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any

import pytest
import uvicorn
import uvloop
from tests.eventually import eventually
from tests.unit.serving.listening import connect, listening, read_to_end, send_until_refused, status_of

from conclave.errors import EnvironmentUnfit
from conclave_openai.connections.door import REFUSED_AT_A_TIME, Door
from conclave_openai.connections.limits import CONNECTION_BYTES, ConnectionLimits
from conclave_serving.proxy import connection_limits, stand_at

LIMITS = ConnectionLimits()
PATIENT = replace(LIMITS, head_timeout_s=600, linger_s=600)
"""Where no deadline is to be the reason."""
HASTY = replace(LIMITS, head_timeout_s=1, leftover_timeout_s=0.2, linger_s=0.2)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST /whole HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
MIB = 1 << 20


@dataclass
class Application:
    """Answers at once, but below /whole when the body is whole, and below /held when it is let."""

    scopes: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    left: int = 0
    is_let: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        body = b""
        while scope["path"] == "/whole":
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        while scope["path"] == "/held" and not self.is_let:  # noqa: ASYNC110 - let by another thread
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Any:
    """Ray takes uvloop where it is installed."""
    return request.param


def is_ok(connection: socket.socket) -> bool:
    """Whether the application's answer comes, which is read to its end."""
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        piece = connection.recv(65536)
        if not piece:
            return False
        answer += piece
    return answer.startswith(b"HTTP/1.1 200")


def error_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    """60 MiB, as seen from here without end."""
    yield start
    yield from itertools.repeat(piece, 60 * MIB // len(piece))


HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n"
TOO_MUCH: dict[str, tuple[bytes, bytes]] = {
    "a header": (HEAD + b"x-long: ", b"a" * MIB),
    "a name of a header": (HEAD, b"a" * MIB),
    "many headers": (HEAD, b"a: b\r\n" * 100_000),
    "many long headers": (HEAD, b"x-long: " + b"a" * 4096 + b"\r\n"),
    "a path": (b"GET /", b"a" * MIB),
    "a trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nx-long: ", b"a" * MIB),
    "many trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 100_000),
    "an extension of a chunk": (CHUNKED + b"2;a=", b"a" * MIB),
    "an extension of the last chunk": (CHUNKED + b"0;", b"a" * MIB),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_no_body_is_refused_before_it_fills_memory(application: Application, new_loop: Any, name: str) -> None:
    with listening(application, PATIENT, new_loop) as port, connect(port) as connection:
        tracemalloc.start()
        try:
            # Refused bytes are dropped, so that the client, which reads when it has sent all, still gets its answer.
            assert send_until_refused(connection, endless(*TOO_MUCH[name])) > 60 * MIB - MIB
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        answer = read_to_end(connection)
        assert (status_of(answer), error_of(answer)["code"]) == (431, "headers_too_large")
        assert peak < 8 * MIB
        eventually(lambda: application.left == len(application.scopes))
        with connect(port) as other:
            other.sendall(GET)
            assert is_ok(other)


def test_a_refused_client_that_waits_to_be_asked_for_its_body_is_not_asked(new_loop: Any) -> None:
    failures: list[BaseException] = []
    received: list[str] = []

    async def late(_scope: Any, receive: Any, _send: Any) -> None:
        await asyncio.sleep(0.5)
        try:
            received.append((await receive())["type"])
        except RuntimeError as error:  # uvicorn would write `100 Continue` where nothing can be written
            failures.append(error)

    head = CHUNKED.replace(b"\r\n", b"\r\nexpect: 100-continue\r\n", 1)
    with listening(late, PATIENT, new_loop) as port, connect(port) as connection:
        connection.sendall(head + b"2;a=" + b"a" * (128 << 10))
        assert status_of(read_to_end(connection)) == 431
        eventually(lambda: bool(received or failures))
    assert (received, failures) == (["http.disconnect"], [])


def test_headers_up_to_the_bound_are_taken(application: Application, new_loop: Any) -> None:
    names = [b"x-%02d: " % number for number in range(99)]
    room = LIMITS.head_bytes - len("/") - len(b"host: x\r\n") - sum(len(name) + len(b"\r\n") for name in names)
    values = [b"a" * (room // 99)] * 98 + [b"a" * (room - room // 99 * 98)]
    lines = [name + value + b"\r\n" for name, value in zip(names, values, strict=True)]
    with listening(application, PATIENT, new_loop) as port:
        for more, status in ((b"", 200), (b"a", 431)):
            with connect(port) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(lines[:-1]))
                connection.sendall(lines[-1][:-2] + more + b"\r\n\r\n")
                assert status_of(connection.recv(65536)) == status
        assert len(application.scopes[0]["headers"]) == 100


def test_a_body_in_many_chunks_is_taken(application: Application, new_loop: Any) -> None:
    with listening(application, PATIENT, new_loop) as port, connect(port) as connection:
        connection.sendall(CHUNKED + b"1;a=b\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert is_ok(connection)
        connection.sendall(GET)
        assert is_ok(connection)
    assert [len(body) for body in application.bodies] == [100_000, 0]


def test_a_trailer_is_no_header(application: Application) -> None:
    with listening(application, PATIENT) as port, connect(port) as connection:
        connection.sendall(CHUNKED + b"0\r\nauthorization: Bearer x\r\nx-serve-a: b\r\n\r\n")
        assert is_ok(connection)
    (scope,) = application.scopes
    assert [name for name, _ in scope["headers"]] == [b"host", b"transfer-encoding"]


LATE: dict[str, tuple[bytes, int | None]] = {
    "silent": (b"", None),
    "one byte": (b"G", 408),
    "empty lines": (b"\r\n\r\n", 408),
    "half a head": (GET[:-2], 408),
}


@pytest.mark.parametrize("name", LATE)
def test_a_head_that_does_not_come_is_given_up(application: Application, new_loop: Any, name: str) -> None:
    sent, status = LATE[name]
    with listening(application, HASTY, new_loop) as port, connect(port) as connection:
        connection.sendall(sent)
        answer = read_to_end(connection)
    assert (status_of(answer), application.scopes) == (status, [])
    assert status is None or error_of(answer)["code"] == "request_timeout"


def test_one_byte_at_a_time_wins_no_time(application: Application, new_loop: Any) -> None:
    slow = HEAD + b"a: b\r\n" * 50
    with listening(application, HASTY, new_loop) as port, connect(port) as connection:
        connection.settimeout(0.02)
        answer = b""
        for byte in slow:
            send_until_refused(connection, [bytes([byte])])
            try:
                answer = connection.recv(65536)
                break
            except TimeoutError:
                continue
    assert (status_of(answer), error_of(answer)["code"]) == (408, "request_timeout")


def test_the_next_request_has_as_little_time_as_the_first(application: Application, new_loop: Any) -> None:
    with listening(application, HASTY, new_loop) as port, connect(port) as connection:
        connection.sendall(GET)
        assert is_ok(connection)
        connection.sendall(GET[:10])
        assert status_of(read_to_end(connection)) == 408


def test_an_answered_connection_may_idle_as_long_as_uvicorn_lets_it(application: Application, new_loop: Any) -> None:
    with listening(application, HASTY, new_loop, keep_alive_s=1) as port:
        for idle in (b"", b"\r\n"):
            with connect(port) as connection:
                connection.sendall(GET)
                assert is_ok(connection)
                connection.sendall(idle)
                assert read_to_end(connection) == b""


@pytest.mark.parametrize("drip", [b"", b"x", b"\r\n"], ids=["silent", "byte by byte", "empty lines"])
def test_the_body_of_an_answered_request_has_a_deadline(application: Application, new_loop: Any, drip: bytes) -> None:
    with listening(application, HASTY, new_loop) as port, connect(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")
        assert is_ok(connection)
        connection.settimeout(0.02)
        for _ in range(1000):
            try:
                send_until_refused(connection, [drip])
                assert connection.recv(1) == b""
                return
            except TimeoutError:
                continue
            except ConnectionResetError:
                return
    pytest.fail("the connection was kept")


def test_a_client_that_sends_the_rest_keeps_its_connection(application: Application, new_loop: Any) -> None:
    with (
        listening(application, replace(PATIENT, leftover_timeout_s=600), new_loop) as port,
        connect(port) as connection,
    ):
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")
        assert is_ok(connection)
        connection.sendall(b"x" * 999_999)
        connection.sendall(GET)
        assert is_ok(connection)
    assert application.bodies == [b"", b""]


def test_a_request_that_is_sent_before_the_last_is_answered_stays_unread(
    application: Application, new_loop: Any
) -> None:
    with listening(application, PATIENT, new_loop) as port, connect(port) as connection:
        connection.sendall(GET.replace(b" / ", b" /held ") + GET * 10_000)
        send_until_refused(connection, [GET * 10_000] * 10)
        application.is_let = True
        assert read_to_end(connection).count(b"HTTP/1.1 200") == 1
    assert len(application.scopes) == 1


def test_a_bad_request_behind_a_good_one_does_not_cut_its_answer(application: Application) -> None:
    with listening(application, PATIENT) as port, connect(port) as connection:
        connection.sendall(GET.replace(b" / ", b" /held ") + b"\x00\x01")
        eventually(lambda: application.scopes)
        application.is_let = True
        answer = read_to_end(connection)
    assert (answer.count(b"HTTP/1.1 "), answer[-2:]) == (1, b"ok")


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_upgrade_is_ignored_and_the_connection_ends(application: Application, protocol: bytes) -> None:
    head = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: %s\r\n" % protocol
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\ncontent-length: 26\r\n\r\n"
    with listening(application, PATIENT) as port, connect(port) as connection:
        connection.sendall(head + key + GET)
        answer = read_to_end(connection)
    assert (answer.count(b"HTTP/1.1 "), status_of(answer)) == (1, 200)
    assert [(scope["type"], scope["path"]) for scope in application.scopes] == [("http", "/a")]


def test_300_connections_of_one_address(application: Application, new_loop: Any, caplog: Any) -> None:
    limits = replace(PATIENT, connections_per_address=100)
    with caplog.at_level(logging.WARNING, "conclave_openai"), listening(application, limits, new_loop) as port:
        with ExitStack() as stack:
            connections = [stack.enter_context(connect(port)) for _ in range(300)]
            for connection in connections:
                send_until_refused(connection, [GET])
            answers = [first_answer(connection) for connection in connections]
        counted = Counter(status_of(answer) for answer in answers)
        assert (counted[200], counted[503] + counted[None]) == (100, 200)
        assert counted[503] == REFUSED_AT_A_TIME
        refused = next(answer for answer in answers if status_of(answer) == 503)
        assert error_of(refused)["code"] == "too_many_connections"
        assert b"retry-after: 5\r\n" in refused
        assert sum("refused connections since" in record.message for record in caplog.records) >= 1

        def is_served() -> bool:
            with connect(port) as connection:
                send_until_refused(connection, [GET])
                return status_of(first_answer(connection)) == 200

        eventually(is_served)


def test_512_streams_of_one_client_are_let_in(application: Application, new_loop: Any) -> None:
    with listening(application, LIMITS, new_loop) as port, ExitStack() as stack:
        connections = [stack.enter_context(connect(port)) for _ in range(512)]
        for connection in connections:
            connection.sendall(GET.replace(b" / ", b" /held "))
        eventually(lambda: len(application.scopes) == 512)
        application.is_let = True
        assert all(is_ok(connection) for connection in connections)


def first_answer(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def test_many_open_heads_hold_no_more_than_is_said(application: Application, new_loop: Any) -> None:
    head = HEAD + b"x-long: " + b"a" * (LIMITS.head_bytes - 1024)
    count = 200
    with listening(application, PATIENT, new_loop) as port, ExitStack() as stack:
        connections = [stack.enter_context(connect(port)) for _ in range(count)]
        for connection in connections:  # an exchange that is over leaves nothing
            connection.sendall(head + b"\r\n\r\n")
            assert is_ok(connection)
        application.scopes.clear()
        tracemalloc.start()
        try:
            for connection in connections:
                connection.sendall(head)
            eventually(lambda: tracemalloc.get_traced_memory()[0] > count * len(head))
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert held < count * (LIMITS.head_bytes + CONNECTION_BYTES)


EXEMPT = replace(
    LIMITS,
    connections=100,
    connections_per_address=3,
    exempt_networks=(ip_network("10.2.0.0/16"), ip_network("fd00:2::/32")),
)


@pytest.mark.parametrize(
    ("addresses", "admitted"),
    [
        pytest.param(["10.1.0.1"] * 3, 3, id="as many as one may have"),
        pytest.param(["10.1.0.1"] * 5, 3, id="two more"),
        pytest.param(["10.1.0.1", "10.1.0.2"] * 3, 6, id="two addresses"),
        pytest.param(["10.2.7.7"] * 50, 50, id="a gateway"),
        pytest.param(["fd00:2::7"] * 50, 50, id="a gateway of IPv6"),
        pytest.param(["fd00:1::7"] * 5, 3, id="another address of IPv6"),
        pytest.param(["10.2.7.7"] * 103, 100, id="a gateway beyond the bound of the process"),
        pytest.param([f"10.1.0.{host}" for host in range(103)], 100, id="many addresses"),
        pytest.param([*["10.2.7.7"] * 1000, "127.0.0.1"], 101, id="a probe of the pod's own beside a flood"),
        pytest.param([*["10.2.7.7"] * 1000, *[f"127.0.0.{n}" for n in range(99)]], 164, id="a flood of its own"),
        pytest.param([None] * 101, 100, id="a Unix socket"),
    ],
)
def test_who_is_let_in(addresses: list[str | None], admitted: int) -> None:
    door = Door(EXEMPT)
    for _ in range(2):  # who has left leaves no trace
        entries = [door.enter(address) for address in addresses]
        assert sum(entry.is_admitted for entry in entries) == admitted
        refused = [entry for entry in entries if not entry.is_admitted]
        assert sum(entry.is_answered for entry in refused) == min(len(refused), REFUSED_AT_A_TIME)
        for entry in entries:
            door.leave(entry)


def test_an_address_of_ipv4_in_ipv6s_clothes_is_itself() -> None:
    from conclave_openai.connections.door import _address_of

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return ("::ffff:10.2.7.7", 1, 0, 0) if name == "peername" else default

    assert _address_of(Transport()) == "10.2.7.7"


def test_serve_leaves_uvicorn_the_choice_which_is_ours() -> None:
    door = Door(LIMITS)
    protocols = {"auto": "uvicorn.protocols.http.auto:AutoHTTPProtocol"}
    stand_at(protocols, door)
    assert uvicorn.Config(Application(), http=protocols["auto"], lifespan="off", ws="none").http is door
    with pytest.raises(EnvironmentUnfit, match="expected 'auto'"):
        stand_at({"h11": ""}, door)


@pytest.mark.parametrize(
    ("environment", "per_address", "networks"),
    [
        ({}, 1024, []),
        ({"CONCLAVE_CONNECTIONS_PER_ADDRESS": "7"}, 7, []),
        ({"CONCLAVE_CONNECTIONS_EXEMPT_CIDRS": "10.2.0.0/16 fd00::/8"}, 1024, ["10.2.0.0/16", "fd00::/8"]),
    ],
    ids=["nothing", "a number", "networks"],
)
def test_the_environment_says_what_a_cluster_chose(
    environment: dict[str, str], per_address: int, networks: list[str]
) -> None:
    limits = connection_limits(environment)
    assert (limits.connections_per_address, [str(each) for each in limits.exempt_networks]) == (per_address, networks)


@pytest.mark.parametrize(
    "environment",
    [
        {"CONCLAVE_CONNECTIONS_PER_ADDRESS": "0"},
        {"CONCLAVE_CONNECTIONS_PER_ADDRESS": "many"},
        {"CONCLAVE_CONNECTIONS_PER_ADDRESS": ""},
        {"CONCLAVE_CONNECTIONS_EXEMPT_CIDRS": "10.2.0.1/16"},
        {"CONCLAVE_CONNECTIONS_EXEMPT_CIDRS": "10.2.0.0/16,10.3.0.0/16"},
    ],
    ids=["none", "no number", "empty", "a host's bits", "commas"],
)
def test_an_environment_that_says_nothing_usable_is_refused(environment: dict[str, str]) -> None:
    (variable,) = environment
    with pytest.raises(EnvironmentUnfit, match=variable):
        connection_limits(environment)

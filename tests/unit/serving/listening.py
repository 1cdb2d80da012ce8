"""A plain uvicorn on loopback behind the door, and raw sockets that speak to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from tests.eventually import eventually

from conclave_openai.connections.door import Door
from conclave_openai.connections.limits import ConnectionLimits

TIMEOUT_S = 60
"""Of a socket: nothing here takes so long, however busy the machine."""


@contextmanager
def listening(
    app: Any,
    limits: ConnectionLimits,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    keep_alive_s: int = 60,
) -> Iterator[int]:
    """The port of a server in a thread of its own."""
    config = uvicorn.Config(
        app, http=Door(limits), lifespan="off", access_log=False, log_config=None, timeout_keep_alive=keep_alive_s
    )  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # websockets warns of its own past when uvicorn imports it
        config.load()
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:

        def serve() -> None:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            eventually(lambda: server.started)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def send_until_refused(connection: socket.socket, pieces: Iterable[bytes]) -> int:
    """Bytes that were sent before the server would take no more."""
    sent = 0
    try:
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


def read_to_end(connection: socket.socket) -> bytes:
    """What the server answered until it closed the connection."""
    answer = b""
    try:
        while piece := connection.recv(65536):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


def status_of(answer: bytes) -> int | None:
    """None where there was no answer."""
    return int(answer.split(b" ", 2)[1]) if answer else None

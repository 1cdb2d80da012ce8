"""What `conclave up` leaves for `conclave chat`, and how chat speaks to an endpoint."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conclave.errors import EnvironmentUnfit, InvalidInput
from conclave_cli.chat import chat, stream_chat
from conclave_cli.local.endpoint import (
    Endpoint,
    find_endpoint,
    make_state_directory,
    running_endpoints,
    write_endpoint,
    write_private,
)

NOBODY = 2**22 + 1
"""Above any process id."""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "conclave"


def endpoint(model: str = "mixtral", process_id: int | None = None) -> Endpoint:
    return Endpoint("http://127.0.0.1:1/v1", "secret", model, os.getpid() if process_id is None else process_id)


def test_the_state_is_private(state: Path) -> None:
    directory = make_state_directory("mixtral")
    write_endpoint(directory, endpoint())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "endpoint.json").stat().st_mode) == 0o600
    assert find_endpoint(None) == endpoint()


def test_a_private_file_never_replaces_another(tmp_path: Path) -> None:
    write_private(tmp_path / "token", "one")
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "token", "two")


def test_what_ended_is_not_offered_and_is_cleared_away(state: Path) -> None:
    old = state / f"mixtral-{NOBODY}"
    old.mkdir(parents=True)
    write_endpoint(old, endpoint(process_id=NOBODY))
    assert running_endpoints() == ()
    make_state_directory("mixtral")
    assert not old.exists()


def test_a_model_that_does_not_run_is_told_with_those_that_do() -> None:
    write_endpoint(make_state_directory("mixtral"), endpoint())
    with pytest.raises(InvalidInput, match=r"model gemma: no running endpoint.*running: mixtral"):
        find_endpoint("gemma")


class Answers(BaseHTTPRequestHandler):
    """An endpoint that streams two pieces, or fails as asked by the model's name."""

    seen: list[Any] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers["Authorization"], body))
        status = 401 if body["model"] == "refused" else 200
        self.send_response(status)
        self.end_headers()
        if status == 401:
            self.wfile.write(b'{"error": {"message": "A valid bearer token is required"}}')
            return
        for text in ("Good ", "morning"):
            event = {"choices": [{"delta": {"content": text}}]}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if body["model"] == "breaks":
            self.wfile.write(b'data: {"error": {"message": "the engine failed"}}\n\n')
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_an_answer_arrives_in_pieces(url: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    assert list(stream_chat(url, "key", "mixtral", messages, 16)) == ["Good ", "morning"]
    path, authorization, body = Answers.seen[-1]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer key")
    assert body == {"model": "mixtral", "messages": messages, "max_tokens": 16, "stream": True}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param("refused", "status 401: A valid bearer token is required", id="refused"),
        pytest.param("breaks", "the answer broke off: the engine failed", id="an error within the stream"),
    ],
)
def test_errors_are_told(url: str, model: str, message: str) -> None:
    with pytest.raises(EnvironmentUnfit, match=message):
        list(stream_chat(url, "key", model, [], 16))


def test_nobody_answers() -> None:
    with pytest.raises(EnvironmentUnfit, match="is the endpoint running"):
        list(stream_chat("http://127.0.0.1:1/v1", "key", "mixtral", [], 16))


def test_a_url_needs_key_and_model() -> None:
    with pytest.raises(InvalidInput, match="--url needs --model and --key"):
        chat("Hello", url="http://127.0.0.1:1/v1", key=None, model=None, max_tokens=1)

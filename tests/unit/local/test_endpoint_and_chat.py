"""What `conclave up` leaves for `conclave chat`, and how chat speaks to an endpoint."""

from __future__ import annotations

import io
import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from conclave.errors import EnvironmentUnfit, InvalidInput
from conclave_cli import main
from conclave_cli.chat import chat, read_key, stream_chat
from conclave_cli.local.endpoint import (
    Endpoint,
    find_endpoint,
    make_state_directory,
    running_endpoints,
    write_endpoint,
    write_private,
)
from conclave_cli.local.progress import Progress

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
    with pytest.raises(InvalidInput, match=r"model gemma: no endpoint runs.*running: mixtral"):
        find_endpoint("gemma")


class Answers(BaseHTTPRequestHandler):
    """An endpoint that streams two pieces, or fails as asked by the model's name."""

    seen: list[Any] = []  # noqa: RUF012
    pieces: tuple[str, ...] = ("Good ", "morning")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers["Authorization"], body))
        status = 401 if body["model"] == "refused" else 200
        self.send_response(status)
        self.end_headers()
        if status == 401:
            self.wfile.write(b'{"error": {"message": "A valid bearer token is required"}}')
            return
        for text in self.pieces:
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
        pytest.param(
            "breaks", "the endpoint ended its answer early: the engine failed", id="an error within the stream"
        ),
    ],
)
def test_errors_are_told(url: str, model: str, message: str) -> None:
    with pytest.raises(EnvironmentUnfit, match=message):
        list(stream_chat(url, "key", model, [], 16))


def test_nobody_answers() -> None:
    with pytest.raises(EnvironmentUnfit, match="check that the endpoint runs"):
        list(stream_chat("http://127.0.0.1:1/v1", "key", "mixtral", [], 16))


def test_a_hostile_answer_is_shown_and_steers_nothing(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences are cut between events, and so is a character; line breaks and tabs are the answer's own."""
    monkeypatch.setenv("CONCLAVE_API_KEY", "key")
    monkeypatch.setattr(Answers, "pieces", ("[/INST] a\x1b", "]0;owned\x07\n\tb\x1b[", "2Jc\u202e\ud83d", "\ude42\rd"))
    chat("Hello", url=url, model="mixtral", max_tokens=16)
    assert capsys.readouterr().out == ("[/INST] a\\x1b]0;owned\\x07\n\tb\\x1b[2Jc\\u202e\\ud83d\\ude42\\rd\n")


def test_a_url_needs_key_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCLAVE_API_KEY", raising=False)
    with pytest.raises(InvalidInput, match="--url without --model"):
        chat("Hello", url="http://127.0.0.1:1/v1", max_tokens=1)
    with pytest.raises(InvalidInput, match="--url without a key: give --key-file PATH, or set CONCLAVE_API_KEY"):
        chat("Hello", url="http://127.0.0.1:1/v1", model="mixtral", max_tokens=1)
    with pytest.raises(InvalidInput, match="--key-file without --url"):
        chat("Hello", key_file="key", max_tokens=1)
    with pytest.raises(InvalidInput, match="give the message as an argument"):
        chat(None, url="http://127.0.0.1:1/v1", model="mixtral", key_file="-", max_tokens=1)


def test_the_key_comes_from_a_file_from_standard_input_or_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCLAVE_API_KEY", "of-the-environment")
    monkeypatch.setattr("sys.stdin", io.StringIO("of-stdin\n"))
    (tmp_path / "key").write_text("of-the-file\n")
    assert read_key(None) == "of-the-environment"
    assert read_key("-") == "of-stdin"
    assert read_key(str(tmp_path / "key")) == "of-the-file"


@pytest.mark.parametrize("key", ["", "\n", "two words", "two\nlines", "sécret", "a\x1b[2J"], ids=repr)
def test_what_is_no_key_is_refused_without_repeating_it(key: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(key)
    with pytest.raises(InvalidInput, match="expected a key") as refusal:
        read_key(str(tmp_path / "key"))
    assert not key.strip() or key.strip() not in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--key-file .*/none: cannot be read: No such file"):
        read_key(str(tmp_path / "none"))


def test_no_option_takes_a_secret_as_its_value() -> None:
    """What stands in an argument, every user of the machine can read in the list of processes."""
    seen = []
    commands = [("conclave", typer.main.get_command(main.app))]
    while commands:
        name, command = commands.pop()
        commands += [(f"{name} {each}", sub) for each, sub in getattr(command, "commands", {}).items()]
        seen.append(name)
        options = {option.lstrip("-") for each in command.params for option in each.opts}
        secret = {option for option in options if {"key", "token", "secret", "password"} & set(option.split("-"))}
        assert secret <= {"key-file"}, name
    assert "conclave chat" in seen


def test_the_example_of_up_hands_curl_the_key_in_a_private_file(capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_state_directory("mixtral")
    given = endpoint()
    write_endpoint(directory, given)
    Progress().ready(given, directory, Path("logs"))
    (example,) = [line for line in capsys.readouterr().out.splitlines() if "curl" in line]
    header = directory / "authorization"
    assert f"-H '@{header}'" in example
    assert given.key not in example
    assert header.read_text() == f"Authorization: Bearer {given.key}\n"
    assert stat.S_IMODE(header.stat().st_mode) == 0o600


def test_nothing_runs() -> None:
    with pytest.raises(InvalidInput, match=r"^No model runs on this machine\. Start one with `conclave up`, or"):
        find_endpoint(None)


def test_a_closed_port_is_named() -> None:
    with pytest.raises(EnvironmentUnfit, match=r"^nothing listens at http://127\.0\.0\.1:1; check"):
        list(stream_chat("http://127.0.0.1:1/v1", "key", "mixtral", [], 16))


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://x/v1", "localhost"])
def test_what_is_no_url_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCLAVE_API_KEY", "key")
    with pytest.raises(InvalidInput, match=r"--url .* expected a URL such as http://127\.0\.0\.1:8000/v1"):
        chat("Hello", url=url, model="mixtral", max_tokens=1)


def test_no_kubeconfig_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    for arguments in (["status"], ["explain", "x"]):
        refused = CliRunner().invoke(main.app, arguments)
        assert str(refused.exception) == (
            f"no cluster: {tmp_path / 'none'} does not exist. Give --kubeconfig, or set KUBECONFIG."
        )
        assert refused.output == ""

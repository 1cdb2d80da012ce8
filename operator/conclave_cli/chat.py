"""`conclave chat`: talk to a running endpoint, streamed; by default to the one that `conclave up` runs here.

Speaks the OpenAI API with the standard library, so that the bare installation can.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from conclave.errors import EnvironmentUnfit, InvalidInput
from conclave_cli.local.endpoint import find_endpoint
from conclave_cli.terminal import say, say_piece

KEY_VARIABLE = "CONCLAVE_API_KEY"

Message = dict[str, str]


def chat(
    prompt: Annotated[str | None, typer.Argument(help="One message; without it, a conversation.")] = None,
    url: Annotated[str | None, typer.Option(help="Base of the API, for instance http://127.0.0.1:8000/v1.")] = None,
    key_file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help=f"File with the endpoint's key; - is standard input. {KEY_VARIABLE} may have the key instead.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name; by default the only model that runs here.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
) -> None:
    """Talk to a running model."""
    if url is None and key_file is not None:
        raise InvalidInput(
            "--key-file without --url: give --url, or leave --key-file out (the command knows the "
            "key of an endpoint on this machine)"
        )
    if url is None:
        running = find_endpoint(model)
        url, key, model = running.url, running.key, running.model
    elif model is None:
        raise InvalidInput("--url without --model: give the model's name with --model")
    else:
        if key_file == "-" and prompt is None:
            raise InvalidInput("--key-file - needs standard input for the key: give the message as an argument")
        key = read_key(key_file)
        _check_url(url)
    conversation: list[Message] = []
    for message in [prompt] if prompt is not None else _typed():
        conversation.append({"role": "user", "content": message})
        answer = ""
        for text in stream_chat(url, key, model, conversation, max_tokens):
            say_piece(text, answer)
            answer += text
        say()
        conversation.append({"role": "assistant", "content": answer})


def _check_url(url: str) -> None:
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        seen = "is not a URL of HTTP" if "://" in url else "has no scheme"
        raise InvalidInput(f"--url {url} {seen}; expected a URL such as http://127.0.0.1:8000/v1")


def read_key(key_file: str | None) -> str:
    """The key from the file, or without a file from the environment: everybody can read the arguments of a process.

    Raises InvalidInput, whose message never contains what was read.
    """
    if key_file is None:
        key, where = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
        if not key:
            raise InvalidInput(f"--url without a key: give --key-file PATH, or set {KEY_VARIABLE}")
    else:
        where = f"--key-file {key_file}"
        try:
            key = sys.stdin.read() if key_file == "-" else Path(key_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{where}: cannot be read: {getattr(error, 'strerror', '') or 'no text'}") from None
    key = key.strip()
    if not re.fullmatch("[!-~]+", key):
        raise InvalidInput(
            f"{where}: has {len(key)} characters, expected a key: one line of printable ASCII without spaces"
        )
    return key


def _typed() -> Iterator[str]:
    """Lines that the user types, until the end of the input."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip():
            yield line


def stream_chat(url: str, key: str, model: str, conversation: list[Message], max_tokens: int) -> Iterator[str]:
    """The answer's text, piece by piece, as it arrives."""
    body = {"model": model, "messages": conversation, "max_tokens": max_tokens, "stream": True}
    request = urllib.request.Request(  # noqa: S310 - the URL is the user's own
        f"{url.rstrip('/')}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
            for line in answer:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield from _texts(json.loads(line.removeprefix(b"data: ")))
    except urllib.error.HTTPError as error:
        raise EnvironmentUnfit(f"{url}: status {error.code}: {_message(error.read())}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            base = "/".join(url.split("/")[:3])
            raise EnvironmentUnfit(f"nothing listens at {base}; check that the endpoint runs") from error
        raise EnvironmentUnfit(f"{url}: {error.reason}; check that the endpoint runs") from error
    except (OSError, http.client.HTTPException) as error:
        raise EnvironmentUnfit(f"{url}: {error}; check that the endpoint runs") from error


def _texts(event: dict[str, object]) -> Iterator[str]:
    if isinstance(error := event.get("error"), dict):
        raise EnvironmentUnfit(f"the endpoint ended its answer early: {error.get('message')}")
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if text := choice["delta"].get("content"):
            yield text


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:500]

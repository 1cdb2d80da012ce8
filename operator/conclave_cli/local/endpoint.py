"""The state that `conclave up` leaves for `conclave chat`: address, key and model of each running endpoint.

One directory a deployment below the user's state directory, readable by the user only.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from conclave.errors import InvalidInput

AUTHORIZATION_FILE = "authorization"
"""The header of a request, as `curl -H @FILE` reads it."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers on this machine."""

    url: str
    """Base of the OpenAI API, with /v1."""
    key: str
    model: str
    process_id: int
    """The `conclave up` that runs it."""

    def is_running(self) -> bool:
        return Path(f"/proc/{self.process_id}").exists()


def state_root() -> Path:
    """$XDG_STATE_HOME/conclave, by default ~/.local/state/conclave."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "conclave"


def make_state_directory(name: str) -> Path:
    """An empty private directory for one run of a deployment; what the last run left is removed."""
    directory = state_root() / f"{name}-{os.getpid()}"
    for old in state_root().glob(f"{name}-*"):
        if old.name.rpartition("-")[2].isdigit() and not Path("/proc", old.name.rpartition("-")[2]).exists():
            shutil.rmtree(old)
    directory.mkdir(parents=True, mode=0o700)
    return directory


def write_private(path: Path, text: str) -> None:
    """A file that only its owner can read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def write_endpoint(directory: Path, endpoint: Endpoint) -> None:
    write_private(directory / AUTHORIZATION_FILE, f"Authorization: Bearer {endpoint.key}\n")
    write_private(directory / "endpoint.json", json.dumps(asdict(endpoint)))


def running_endpoints() -> tuple[Endpoint, ...]:
    """Endpoints whose `conclave up` is alive, the latest first."""
    files = sorted(state_root().glob("*/endpoint.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = (Endpoint(**json.loads(path.read_text())) for path in files)
    return tuple(endpoint for endpoint in found if endpoint.is_running())


def find_endpoint(model: str | None) -> Endpoint:
    """The running endpoint, or the one of `model` where several run."""
    running = running_endpoints()
    matching = [endpoint for endpoint in running if model in (None, endpoint.model)]
    if not matching:
        remedy = "Start one with `conclave up`, or give --url, --model and --key-file."
        if not running:
            raise InvalidInput(f"No model runs on this machine. {remedy}")
        names = ", ".join(endpoint.model for endpoint in running)
        raise InvalidInput(f"model {model}: no endpoint runs on this machine (running: {names}). {remedy}")
    return matching[0]

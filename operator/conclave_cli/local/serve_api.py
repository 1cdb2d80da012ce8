"""Serve's REST API of a local Ray: put the config, read the status, take the applications down.

Types hold only what local mode reads of Ray's answers.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conclave.errors import ConclaveError, EnvironmentUnfit
from conclave_cli.local.ports import taken_meanwhile
from conclave_cli.local.root_cause import root_cause

PATH = "/api/serve/applications/"
PUT_TIMEOUT_S = 120.0
"""The first PUT starts Serve's controller and proxy."""
STATUS_ATTEMPTS = 5
CANNOT_BIND = "Failed to bind to address"
"""What Serve's proxy says of a port that somebody else has (ray/serve/_private/http_util.py)."""


class ServeRefused(ConclaveError):
    """Serve did not accept the config, or no longer answers."""


@dataclass(frozen=True)
class Deployment:
    """One deployment of the application."""

    name: str
    status: str
    message: str
    replica_states: tuple[str, ...]


@dataclass(frozen=True)
class Application:
    """The application as Serve reports it."""

    status: str
    message: str
    deployments: tuple[Deployment, ...]


@dataclass(frozen=True)
class ServeApi:
    """A Ray dashboard's address and token."""

    url: str
    token: str

    def is_up(self) -> bool:
        """Whether the API answers yet."""
        try:
            self._request("GET")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def put(self, config: Mapping[str, Any]) -> None:
        """Deploy; Serve itself, which listens on the config's port, is started by the first call.

        Raises EnvironmentUnfit if the port is in use, else ServeRefused with Serve's own reason.
        """
        try:
            self._request("PUT", json.dumps(config).encode(), timeout_s=PUT_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            answer = error.read().decode(errors="replace")
            if CANNOT_BIND in answer:
                raise EnvironmentUnfit(taken_meanwhile(config["http_options"]["port"])) from error
            cause = root_cause(answer) or answer.strip()[-1000:]
            raise ServeRefused(f"Ray Serve refused the config with status {error.code}: {cause}") from error
        except (OSError, http.client.HTTPException) as error:
            raise ServeRefused(f"Ray Serve did not accept the config within {PUT_TIMEOUT_S:.0f} s: {error}") from error

    def application(self, name: str) -> Application | None:
        """The application, once Serve knows it; a busy API is asked again a few times."""
        for attempt in range(STATUS_ATTEMPTS):
            try:
                found = json.loads(self._request("GET")).get("applications", {}).get(name)
            except (OSError, http.client.HTTPException) as error:
                if attempt == STATUS_ATTEMPTS - 1:
                    raise ServeRefused(f"Ray Serve's API no longer answers: {error}") from error
                time.sleep(1)
            else:
                break
        return None if found is None else read_application(found)

    def delete(self, timeout_s: float) -> None:
        """Remove all applications, and wait until they are gone."""
        self._request("DELETE", timeout_s=timeout_s)

    def _request(self, method: str, body: bytes | None = None, timeout_s: float = 30) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - always our own http://127.0.0.1
            self.url + PATH, data=body, method=method, headers={"Authorization": f"Bearer {self.token}"}
        )
        if body is not None:
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            return bytes(answer.read())


def read_application(found: Mapping[str, Any]) -> Application:
    """From the JSON of one application."""
    return Application(
        status=found["status"],
        message=found.get("message") or "",
        deployments=tuple(
            Deployment(
                name=name,
                status=deployment["status"],
                message=deployment.get("message") or "",
                replica_states=tuple(replica["state"] for replica in deployment.get("replicas", [])),
            )
            for name, deployment in sorted(found.get("deployments", {}).items())
        ),
    )

"""An engine that hangs is ended and replaced, though one that is only no longer needed may take minutes to finish."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from tests.eventually import eventually
from tests.serving.deployed import Endpoint

from conclave.engine.load_bounds import ENGINE, LAST_ANSWERS_S
from conclave_cli.local.ray_head import RayHead
from conclave_cli.local.serve_api import ServeApi

REPLACED_S = LAST_ANSWERS_S / 2
"""Three failed health checks, and a start of the engine; had Serve waited for the last answers, it could not be."""


def engines(head: RayHead, application: str) -> set[int]:
    """Process ids of the replicas of its engine."""
    title = f"ray::ServeReplica:{application}:{ENGINE}".encode()
    found = set()
    for process_id in head.processes():
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{process_id}/cmdline").read_bytes().startswith(title):
                found.add(process_id)
    return found


@pytest.mark.parametrize("endpoint", ["phi-3"], indirect=True)
def test_a_hung_engine_is_replaced(endpoint: Endpoint, ray: tuple[RayHead, ServeApi, int]) -> None:
    head, api, _port = ray
    (hung,) = engines(head, endpoint.architecture)
    os.kill(hung, signal.SIGSTOP)

    def another_answers() -> bool:
        """Asked only when the hung one is gone: a request to it would wait for its client's whole time-out."""
        application = api.application(endpoint.architecture)
        if application is None or application.status != "RUNNING" or hung in engines(head, endpoint.architecture):
            return False
        return endpoint.request("POST", "/v1/chat/completions", endpoint.chat(max_tokens=4)).status == 200

    eventually(another_answers, timeout=REPLACED_S, every=1)
    assert len(engines(head, endpoint.architecture)) == 1

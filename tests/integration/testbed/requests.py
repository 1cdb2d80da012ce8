"""Requests to the API server whose answers are looked at as they come, refusals among them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tests.integration.testbed.kube import Kube


class Answer(NamedTuple):
    """What the API server said, in bytes that no client has polished."""

    status: int
    warning: str
    body: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.body.get("message", "")).replace('\\"', '"')


def send(kube: Kube, method: str, path: str, content_type: str, body: object) -> Answer:
    """One request as administrator. An answer of 400 or more is returned too, not raised."""
    response = kube.api.call_api(
        method,
        kube.api.configuration.host + path,
        header_params={"Content-Type": content_type, "Accept": "application/json"},
        body=body,
    )
    text = response.read()
    return Answer(response.status, response.getheader("Warning", ""), json.loads(text))

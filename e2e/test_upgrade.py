"""The chart of the version before with a model that serves, then `helm upgrade` to this one: nothing is rolled.

Both images are built from the tree of their version. The Python environment of model pods is one claim for both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from e2e.bed.models import Model, Running, model_deployment
from e2e.bed.references import PROMPTS, completion
from e2e.bed.site import LOCAL_NETWORK, RESTRICTED, Site, import_images, install_chart
from tools.images.__main__ import project_version, references
from tools.released import released, version_before

BEFORE = version_before(project_version())
QUIET_S = 20.0
WRITTEN = ("controllerrevisions.apps", "networkpolicies.networking.k8s.io", "jobs.batch")
"""Kinds that only the operator writes: a write of any kind changes their `resourceVersion`."""


@pytest.fixture(scope="module")
def model(local_site: Site, running: Running) -> Iterator[Model]:
    """Ready under the operator of the version before, in pods of its image."""
    running.stop()
    root: Path = released(BEFORE)
    names = {**references(BEFORE), "serving-e2e": f"conclave/serving:{BEFORE}-e2e"}
    _, images = import_images(names, root)
    install_chart(local_site, images, LOCAL_NETWORK, root)
    try:
        local_site.checkpoint("mixtral")
        model = running.only(
            model_deployment(RESTRICTED, "upgraded", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral")
        )
        model.wait_until_ready()
        yield model
        running.stop()
    finally:
        install_chart(local_site, local_site.images, LOCAL_NETWORK)


class Caller:
    """Asks the endpoint for tokens, again and again, from a pod."""

    def __init__(self, model: Model) -> None:
        self._model, self._token = model, model.token()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.answers: list[tuple[int, str]] = []

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=180)

    def _ask(self) -> None:
        while not self._ended.wait(0.5):
            body = completion(self._model.name, PROMPTS[0])
            self.answers.append(self._model.ask("/v1/completions", body, token=self._token))


class Left(NamedTuple):
    """What an upgrade must leave as it is."""

    pods: dict[str, tuple[str, list[int]]]
    """UID and restarts of each container, by name."""
    rayservice: tuple[str, int]
    """UID and generation."""
    clusters: list[str]
    written: dict[str, str]
    """`resourceVersion` of what only the operator writes."""


def seen(model: Model) -> Left:
    kubectl, namespace = model.site.kubectl, model.namespace
    selector = f"conclave.dev/model-deployment={model.name}"
    rayservice: dict[str, Any] = kubectl.get("rayservices.ray.io", model.name, namespace) or {}
    return Left(
        pods={
            pod["metadata"]["name"]: (
                pod["metadata"]["uid"],
                [container["restartCount"] for container in pod["status"]["containerStatuses"]],
            )
            for pod in model.pods()
        },
        rayservice=(rayservice["metadata"]["uid"], rayservice["metadata"]["generation"]),
        clusters=sorted(item["metadata"]["uid"] for item in kubectl.list("rayclusters.ray.io", namespace)),
        written={
            f"{kind}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
            for kind in WRITTEN
            for item in kubectl.list(kind, namespace, selector)
        },
    )


def test_an_upgrade_restarts_no_pod_and_the_model_answers_all_the_while(model: Model) -> None:
    before = seen(model)
    assert before.pods
    assert before.written
    tokens = model.greedy_tokens()
    with Caller(model) as caller:
        install_chart(model.site, model.site.images, LOCAL_NETWORK)
        told = model.eventually_says("UpdateAvailable", "BuilderChanged", timeout_s=180)
        time.sleep(QUIET_S)
        ready = model.condition("Ready")
    assert BEFORE in told["message"]
    assert project_version() in told["message"]
    assert ready["status"] == "True"
    assert seen(model) == before
    assert len(caller.answers) >= 5
    assert {status for status, _ in caller.answers} == {200}, caller.answers
    assert model.greedy_tokens() == tokens

"""One local Ray for the session; each architecture is deployed on it in turn, by the modules of `conclave up`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.eventually import eventually
from tests.serving.deployed import TOKEN, Endpoint, log_text, serving_arguments
from tools.tiny_checkpoint import make_checkpoint

from conclave.engine.arguments import TOKEN_FILE_VARIABLE
from conclave_cli.local.ports import free_port
from conclave_cli.local.ray_head import RayHead
from conclave_cli.local.serve_api import ServeApi
from conclave_cli.local.serving import failure_of, local_ray

DEPLOY_TIMEOUT_S = 900


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory, token_path: Path) -> Iterator[tuple[RayHead, ServeApi, int]]:
    kept_logs = tmp_path_factory.mktemp("logs")
    environment = {"HF_HUB_OFFLINE": "1", TOKEN_FILE_VARIABLE: str(token_path)}
    with local_ray(environment, 2, kept_logs, lambda _stage: None) as (head, api):
        yield head, api, free_port()


@pytest.fixture(scope="session")
def token_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture(scope="session")
def endpoint(
    request: pytest.FixtureRequest,
    ray: tuple[RayHead, ServeApi, int],
    token_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Endpoint:
    """The application of the architecture that the test asks for; it replaces the one before."""
    head, api, port = ray
    architecture = str(request.param)
    checkpoint = make_checkpoint(architecture, tmp_path_factory.mktemp("checkpoint") / architecture)
    arguments = serving_arguments(architecture, checkpoint, token_path)
    api.put(
        {
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": [
                {
                    "name": architecture,
                    "route_prefix": "/",
                    "import_path": "conclave_serving.app:build",
                    "args": arguments.model_dump(mode="json"),
                }
            ],
        }
    )

    def is_running() -> bool:
        application = api.application(architecture)
        if application is None:
            return False
        failure = failure_of(application)
        if failure:
            pytest.fail(f"{failure}\n{os.linesep.join(log_text(head.logs).splitlines()[-200:])}")
        return application.status == "RUNNING"

    eventually(is_running, DEPLOY_TIMEOUT_S)
    return Endpoint(architecture, checkpoint, port, head.logs, log_text(head.logs))

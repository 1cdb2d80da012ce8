"""From a Serve config to a running endpoint on this machine, and back to nothing: start, wait, follow, stop.

Called by `conclave up`. Ends everything it started however it is left: error, Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conclave.errors import ConclaveError
from conclave_cli.local.endpoint import Endpoint
from conclave_cli.local.logs import LogFollower, stage_of
from conclave_cli.local.ray_head import START_TIMEOUT_S, RayHead
from conclave_cli.local.root_cause import logged_root_cause, root_cause
from conclave_cli.local.serve_api import Application, ServeApi

POLL_INTERVAL_S = 0.5
DRAIN_TIMEOUT_S = 10.0


class EngineFailed(ConclaveError):
    """Ray, Serve or the engine did not start, or ended by itself; the message carries the root cause."""


@dataclass(frozen=True)
class LocalRun:
    """One Serve application on a private Ray."""

    name: str
    """The application's name in the config."""
    endpoint: Endpoint
    head: RayHead
    api: ServeApi
    logs: LogFollower
    log_directory: Path
    """Where the logs are kept after the end."""

    def wait_until_ready(self, report: Callable[[str], None]) -> None:
        """Return once the endpoint answers; `report` gets what is being waited for. Raises EngineFailed."""
        stage = "starting the engine"
        while True:
            self._check_alive()
            for line in self.logs.new_lines():
                stage = stage_of(line) or stage
            application = self.api.application(self.name)
            if application is not None:
                if failure := failure_of(application):
                    raise self._failed("the engine did not start", failure)
                if application.status == "RUNNING" and self._answers():
                    return
            report(progress_of(application, stage))
            time.sleep(POLL_INTERVAL_S)

    def follow(self, print_line: Callable[[str], None]) -> None:
        """Print log lines until the run ends by itself, which is an EngineFailed, or is interrupted."""
        next_check_s = 0.0
        while True:
            self._check_alive()
            for line in self.logs.new_lines():
                print_line(line)
            if time.monotonic() > next_check_s:
                application = self.api.application(self.name)
                if application is None or application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                    raise self._failed("the engine failed", application.message if application else "it is gone")
                next_check_s = time.monotonic() + 5
            time.sleep(POLL_INTERVAL_S)

    def _answers(self) -> bool:
        request = urllib.request.Request(  # noqa: S310 - always our own http://127.0.0.1
            f"{self.endpoint.url}/models", headers={"Authorization": f"Bearer {self.endpoint.key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def _check_alive(self) -> None:
        if self.head.has_ended:
            raise self._failed("Ray ended", self.head.start_log()[-2000:])

    def _failed(self, what: str, message: str) -> EngineFailed:
        cause = logged_root_cause(message, self.logs.texts) or message.strip() or "no reason is in its logs"
        return EngineFailed(f"{self.name}: {what}: {cause}\n  logs: {self.log_directory}")


def failure_of(application: Application) -> str | None:
    """The message of a failure that waiting does not mend: on one machine a retried start fails the same way."""
    for deployment in application.deployments:
        if deployment.status in ("DEPLOY_FAILED", "UNHEALTHY") or "failed to start" in deployment.message:
            return deployment.message
    return application.message if application.status == "DEPLOY_FAILED" else None


def progress_of(application: Application | None, engine_stage: str) -> str:
    """What is being waited for, in a few words."""
    if application is None:
        return "starting Serve"
    if not application.deployments:
        return "building the application"
    starting = [deployment for deployment in application.deployments if deployment.status != "HEALTHY"]
    if not starting:
        return "waiting for the first answer"
    if all(deployment.name.startswith("ingress") for deployment in starting):
        return "starting the ingress"
    return engine_stage


@contextmanager
def local_ray(
    environment: Mapping[str, str], ranks: int, log_directory: Path, report: Callable[[str], None]
) -> Iterator[tuple[RayHead, ServeApi]]:
    """A private Ray with Serve's API up; nothing of it is left afterwards."""
    head = RayHead(environment, ranks)
    api = ServeApi(head.url, head.token)
    try:
        report("starting Ray")
        deadline = time.monotonic() + START_TIMEOUT_S
        while not api.is_up():
            if head.has_ended or time.monotonic() > deadline:
                log = head.start_log()
                raise EngineFailed(f"Ray did not start: {root_cause(log) or log.strip()[-1000:]}")
            time.sleep(0.2)
        yield head, api
    finally:
        report("stopping")
        head.stop(log_directory, drain=lambda: _drain(api))


def _drain(api: ServeApi) -> None:
    """Let replicas finish and engines free their shared memory; what does not in time is killed after."""
    try:
        api.delete(timeout_s=DRAIN_TIMEOUT_S)
    except (OSError, urllib.error.URLError):
        return

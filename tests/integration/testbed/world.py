"""One namespace under a running operator, as a user sees it; made by the fixture `world`."""

from __future__ import annotations

import time
from typing import Any

import yaml
from tests.eventually import eventually
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.operator import API, KIND, Operator

Json = dict[str, Any]
RAY = "ray.io/v1"


class World:
    """One namespace with a weights claim, under a running operator."""

    def __init__(self, kube: Kube, namespace: str, operator: Operator, user: str) -> None:
        self.kube, self.namespace, self.operator, self.user = kube, namespace, operator, user

    def apply(self, *objects: Json) -> None:
        self.kube.apply(*objects, namespace=self.namespace)

    def edit(self, name: str, **spec: Any) -> None:
        self.kube.patch(API, KIND, name, {"spec": spec}, self.namespace)

    def deployment(self, name: str) -> Json:
        return self.kube.get(API, KIND, name, self.namespace) or {}

    def status(self, name: str) -> Json:
        found: Json = self.deployment(name).get("status") or {}
        return found

    def condition(self, name: str, kind: str) -> Json:
        conditions = self.status(name).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def becomes(self, name: str, kind: str, reason: str, timeout: float = 40) -> Json:
        """The condition once it has this reason for the current generation."""

        def check() -> Json | None:
            item = self.deployment(name)
            conditions = (item.get("status") or {}).get("conditions", [])
            found = next((condition for condition in conditions if condition["type"] == kind), {})
            assert (found.get("reason"), found.get("observedGeneration")) == (reason, item["metadata"]["generation"]), (
                found
            )
            return found

        result = eventually(check, timeout=timeout)
        assert result is not None
        return result

    def rayservice(self, name: str) -> Json:
        return self.kube.get(RAY, "RayService", name, self.namespace) or {}

    def rayservice_spec(self, name: str) -> Any:
        """Without the empty fields that KubeRay's typed client adds when it sets its finalizer."""
        return filled(self.rayservice(name)["spec"])

    def has_rayservice(self, name: str, timeout: float = 40) -> Json:
        return eventually(lambda: self.rayservice(name), timeout=timeout)

    def serve_arguments(self, name: str) -> Json:
        arguments: Json = yaml.safe_load(self.rayservice(name)["spec"]["serveConfigV2"])["applications"][0]["args"]
        return arguments

    def load_bounds(self, name: str) -> Json:
        """The options of the engine's Serve deployment."""
        (application,) = yaml.safe_load(self.rayservice(name)["spec"]["serveConfigV2"])["applications"]
        engine: Json = application["deployments"][0]
        return engine

    def writes(self, since: int) -> list[tuple[str, str, str, str]]:
        """Verb, resource, namespace and name of the operator's mutating requests anywhere, the Lease's excepted."""
        requests = self.kube.audit.requests(user=self.user, since=since, mutating=True)
        return [
            (request.verb, request.resource, request.namespace, request.name)
            for request in requests
            if request.resource != "leases"
        ]

    def settle(self, *names: str) -> None:
        """Until all have a RayService and pods, and the operator has nothing more to write, here or elsewhere."""
        for name in names:
            self.has_rayservice(name)
            eventually(lambda name=name: self.pods(name), timeout=60)

        def is_quiet() -> bool:
            mark = self.kube.audit.mark()
            time.sleep(2)
            return not self.writes(mark)

        eventually(is_quiet, timeout=60)

    def pods(self, name: str) -> list[Json]:
        return self.kube.list("v1", "Pod", self.namespace, label_selector=f"conclave.dev/model-deployment={name}")


def filled(value: Any) -> Any:
    """Without empty fields."""
    if isinstance(value, dict):
        return {key: kept for key, item in value.items() if (kept := filled(item)) not in (None, {}, [], "")}
    return [filled(item) for item in value] if isinstance(value, list) else value

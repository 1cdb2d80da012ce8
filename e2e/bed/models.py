"""ModelDeployments of tiny models, and what is asked of their endpoints from a pod. Called by the tests of e2e."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from e2e.bed.site import CALLERS, GPU, WEIGHTS_CLAIM, Site
from tests.eventually import eventually

API_VERSION, KIND, PLURAL = "conclave.dev/v1alpha1", "ModelDeployment", "modeldeployments.conclave.dev"
READY_TIMEOUT_S = 600.0
MAX_MODEL_LEN = 512
REQUEST = """
import json, sys, urllib.error, urllib.request
given = json.load(sys.stdin)
body = json.dumps(given["body"]).encode() if given["body"] is not None else None
request = urllib.request.Request(given["url"], data=body, method=given["method"], headers=given["headers"])
try:
    with urllib.request.urlopen(request, timeout=given["timeout_s"]) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
except OSError as error:
    print(json.dumps([0, str(error)]))
"""


def model_deployment(namespace: str, name: str, model_id: str, path: str, **spec: Any) -> dict[str, Any]:
    """In float32, not compiled, on pods small enough for two cores; keywords replace whole parts of the spec."""
    base: dict[str, Any] = {
        "model": {"id": model_id, "source": {"persistentVolumeClaim": {"claimName": WEIGHTS_CLAIM, "path": path}}},
        "engine": {"maxModelLen": MAX_MODEL_LEN, "dtype": "float32", "extraArgs": {"enforce_eager": "true"}},
        "hardware": {"accelerators": [GPU]},
        "parallelism": {"tensor": 2},
        "runtime": {
            "resources": {"head": {"cpu": "400m", "memory": "4Gi"}, "worker": {"cpu": "700m", "memory": "10Gi"}}
        },
        "access": {"dataClass": "internal", "allowedNamespaces": [CALLERS]},
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": base | spec}


class Model:
    """One ModelDeployment of the cluster."""

    def __init__(self, site: Site, manifest: Mapping[str, Any]):
        self.site, self.manifest = site, manifest
        self.name, self.namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]

    def apply(self) -> None:
        self.site.kubectl.apply(self.manifest)

    def delete(self) -> None:
        """Returns when its pods are gone: the next engine needs their memory."""
        self.site.kubectl.delete(PLURAL, self.name, self.namespace)
        eventually(lambda: not self.pods(), timeout=180, every=1)

    def status(self) -> dict[str, Any]:
        found = self.site.kubectl.get(PLURAL, self.name, self.namespace)
        status: dict[str, Any] = (found or {}).get("status", {})
        return status

    def condition(self, kind: str) -> dict[str, Any]:
        conditions = self.status().get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def pods(self, component: str = "") -> list[dict[str, Any]]:
        selector = f"conclave.dev/model-deployment={self.name}"
        selector += f",ray.io/node-type={component}" if component else ""
        return self.site.kubectl.list("pods", self.namespace, selector)

    def wait_until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Fails with the conditions, the pods and what `conclave explain` would look at."""

        def ready() -> bool:
            condition = self.condition("Ready")
            assert condition.get("status") == "True", condition.get("message", "no condition yet")
            return True

        try:
            eventually(ready, timeout=timeout_s, every=2)
        except AssertionError as error:
            scope = f"--namespace={self.namespace}"
            pods = self.site.kubectl("get", "pods,events", scope, "--output=wide")
            raise AssertionError(f"{error}\n{json.dumps(self.status(), indent=1)}\n{pods}") from error

    def token(self) -> str:
        secret = self.status()["endpoint"]["tokenSecret"]
        scope = f"--namespace={self.namespace}"
        return self.site.kubectl("get", "secret", secret, scope, "--template={{.data.token | base64decode}}")

    def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        namespace: str = CALLERS,
        timeout_s: float = 120.0,
    ) -> tuple[int, str]:
        """Status and text of an answer of the endpoint that the status names, from a pod; 0 where nothing answers."""
        url = self.status()["endpoint"]["url"].removesuffix("/v1") + path
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        method = "GET" if body is None else "POST"
        given = {"url": url, "method": method, "headers": headers, "body": body, "timeout_s": timeout_s}
        status, text = json.loads(self.site.run_in_client(REQUEST, namespace=namespace, stdin=json.dumps(given)))
        return status, text

"""ModelDeployments of tiny models, and what is asked of their endpoints from a pod. Called by the tests of e2e."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from e2e.bed.references import PROMPTS, completion
from e2e.bed.site import (
    CALLERS,
    GPU,
    INCOMPLETE,
    PRIVILEGED,
    RESTRICTED,
    ROOT,
    RUNTIME_CLASS,
    SYSTEM,
    WEIGHTS_CLAIM,
    Site,
)
from tests.eventually import eventually

API_VERSION, KIND, PLURAL = "conclave.dev/v1alpha1", "ModelDeployment", "modeldeployments.conclave.dev"
READY_TIMEOUT_S = 420.0
MAX_MODEL_LEN = 512
LICENCES = {
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama-3-community-license",
}
"""What a deployment of these has to accept."""
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
    source = {"persistentVolumeClaim": {"claimName": WEIGHTS_CLAIM, "path": path}}
    licence = {"licence": {"accepted": LICENCES[model_id]}} if model_id in LICENCES else {}
    base: dict[str, Any] = {
        "model": {"id": model_id, "source": source, **licence},
        "engine": engine(),
        "hardware": {"accelerators": [GPU]},
        "parallelism": {"tensor": 2},
        "runtime": {
            "resources": {"head": {"cpu": "400m", "memory": "4Gi"}, "worker": {"cpu": "700m", "memory": "10Gi"}}
        },
        "access": {"dataClass": "internal", "allowedNamespaces": [CALLERS]},
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": base | spec}


def engine(max_model_len: int = MAX_MODEL_LEN, *, compiled: bool = False) -> dict[str, Any]:
    """In float32: greedy tokens are compared with those of bare vLLM."""
    eager = str(not compiled).lower()
    return {"maxModelLen": max_model_len, "dtype": "float32", "extraArgs": {"enforce_eager": eager}}


def mixtral() -> dict[str, Any]:
    """A tiny Mixtral at TP=2, both ranks in one pod; with labels, a RuntimeClass and more that its pods are given."""
    manifest = model_deployment(RESTRICTED, "mixtral", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral")
    manifest["spec"]["runtime"]["resources"]["worker"]["sharedMemory"] = "5Gi"
    manifest["spec"]["runtime"] |= {
        "runtimeClassName": RUNTIME_CLASS,
        "podLabels": {"example.com/cost-centre": "1234"},
        "podAnnotations": {"example.com/note": "a model of the tests"},
        "head": {"nodeSelector": {"kubernetes.io/os": "linux"}},
        "probes": {"timeoutSeconds": 15},
    }
    return manifest


def request(
    site: Site,
    url: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    namespace: str = CALLERS,
    timeout_s: float = 30.0,
) -> tuple[int, str]:
    """Status and text of an answer, asked from the client pod of a namespace; 0 where nothing answers."""
    method = "GET" if body is None else "POST"
    given = {"url": url, "method": method, "headers": dict(headers or {}), "body": body, "timeout_s": timeout_s}
    status, text = json.loads(site.run_in_client(REQUEST, namespace=namespace, stdin=json.dumps(given)))
    return status, text


class Model:
    """One ModelDeployment of the cluster."""

    def __init__(self, site: Site, manifest: Mapping[str, Any]):
        self.site, self.manifest = site, manifest
        self.name, self.namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        self._messages = site.weights.parent / "e2e-messages" / f"{self.namespace}.{self.name}"
        self._watch: subprocess.Popen[str] | None = None

    def apply(self, **spec: Any) -> None:
        """As it was given, or with whole parts of its spec replaced from now on."""
        self.manifest = {**self.manifest, "spec": {**self.manifest["spec"], **spec}}
        self.site.kubectl.apply(self.manifest)
        if self._watch is None:
            self._messages.parent.mkdir(exist_ok=True)
            with self._messages.open("w") as file:
                self._watch = self.site.kubectl.watch(PLURAL, self.name, self.namespace, file)

    def said(self, kind: str) -> dict[str, str]:
        """Each message that a condition has had since the first apply, with its reason."""
        states, text = [], self._messages.read_text()
        while text := text.lstrip():
            try:
                state, end = json.JSONDecoder().raw_decode(text)
            except json.JSONDecodeError:  # kubectl is writing it
                break
            states.append(state)
            text = text[end:]
        conditions = (one for state in states for one in state.get("status", {}).get("conditions", []))
        return {condition["message"]: condition["reason"] for condition in conditions if condition["type"] == kind}

    def delete(self) -> None:
        """Returns when its pods are gone: the next engine needs their memory."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            self._watch = None
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

    def running_pods(self) -> list[dict[str, Any]]:
        return [pod for pod in self.pods() if pod["status"]["phase"] == "Running"]

    def run(self, pod: Mapping[str, Any], program_text: str, stdin: str = "") -> str:
        """A program of Python in the Ray container of one of its pods."""
        command = ("exec", "--stdin", f"--namespace={self.namespace}", pod["metadata"]["name"], "--container=ray")
        return self.site.kubectl(*command, "--", "python", "-c", program_text, stdin=stdin)

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

    def sinks_with(self, words: str) -> list[str]:
        """Where words are found: events, objects, logs of its pods and of the operator, Ray's files."""
        kubectl, scope = self.site.kubectl, f"--namespace={self.namespace}"
        kinds = f"pods,events,{PLURAL},rayservices,rayclusters,jobs,controllerrevisions,configmaps"
        sinks = {"objects": kubectl("get", kinds, scope, "--output=yaml")}
        for pod in self.site.kubectl.list("pods", SYSTEM):
            name = pod["metadata"]["name"]
            sinks[f"log of {name}"] = kubectl("logs", f"--namespace={SYSTEM}", name, "--tail=-1")
        for pod in self.running_pods():
            name = pod["metadata"]["name"]
            sinks[f"log of {name}"] = kubectl("logs", scope, name, "--all-containers", "--tail=-1")
            assert kubectl("exec", scope, name, "--container=ray", "--", "sh", "-c", "ls /tmp/ray/session_latest/logs")
            search = f"grep -rl --binary-files=text -e {words} /tmp/ray/session_*/; test $? -lt 2"
            files = kubectl("exec", scope, name, "--container=ray", "--", "sh", "-c", search)
            sinks |= {f"{name}:{file}": words for file in files.splitlines()}
        assert not [sink for sink, text in sinks.items() if not text]
        return [sink for sink, text in sinks.items() if words in text]

    def eventually_says(self, kind: str, reason: str, timeout_s: float) -> dict[str, Any]:
        """The condition, once it has this reason."""

        def says() -> dict[str, Any]:
            condition = self.condition(kind)
            assert condition.get("reason") == reason, self.condition("Ready")
            return condition

        return eventually(says, timeout=timeout_s, every=1)

    def greedy_tokens(self, name: str | None = None) -> list[list[int]]:
        """The endpoint's continuation of each prompt of `references`, by the model or one of its adapters."""
        token, found = self.token(), []
        for prompt in PROMPTS:
            status, text = self.ask("/v1/completions", completion(name or self.name, prompt), token=token)
            assert status == 200, text
            found.append(json.loads(text)["choices"][0]["token_ids"])
        return found

    def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        more_headers: Mapping[str, str] | None = None,
        namespace: str = CALLERS,
        timeout_s: float = 120.0,
    ) -> tuple[int, str]:
        """Status and text of an answer of the endpoint that the status names, from a pod; 0 where nothing answers."""
        url = self.status()["endpoint"]["url"].removesuffix("/v1") + path
        authorization = {"authorization": f"Bearer {token}"} if token else {}
        headers = {"content-type": "application/json", **authorization, **(more_headers or {})}
        return request(self.site, url, body, headers, namespace=namespace, timeout_s=timeout_s)


class Running:
    """At most one model with an engine at a time: two cores have no room for more. Who asks for the one that runs gets
    it as it is."""

    def __init__(self, site: Site):
        self.site = site
        self._model: Model | None = None

    def only(
        self,
        manifest: Mapping[str, Any],
        gpus: Sequence[int] = (2, 2),
        prepare: Callable[[], None] = lambda: None,
    ) -> Model:
        """Applied, on nodes with so many GPUs; one of another manifest has gone first, then `prepare` was called."""
        if self._model is None or self._model.manifest != manifest:
            self.stop()
            for namespace in (RESTRICTED, INCOMPLETE, PRIVILEGED):  # what a run before this one has left
                for left in self.site.kubectl.list(PLURAL, namespace):
                    Model(self.site, left).delete()
            self.site.set_gpus(gpus)
            prepare()
            self._model = Model(self.site, manifest)
            self._model.apply()
        return self._model

    def stop(self) -> None:
        if self._model is not None:
            self._model.delete()
        self._model = None


def explain(model: Model) -> str:
    """What `conclave explain` prints of it."""
    command = [sys.executable, "-m", "conclave_cli.main", "explain", model.name, f"--namespace={model.namespace}"]
    config = f"--kubeconfig={model.site.kubectl.kubeconfig}"
    done = subprocess.run([*command, config], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    return " ".join(done.stdout.split())

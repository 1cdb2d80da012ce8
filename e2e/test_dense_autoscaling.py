"""Load brings a second replica and idleness takes it away, without a failed request; what does not fit is said."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from e2e.bed.dense import IDLE_SECONDS, NAME
from e2e.bed.models import PLURAL, Model
from e2e.bed.site import CALLERS, CLIENT, RESTRICTED
from tests.eventually import eventually
from tools.build_tools import program

from conclave.manifests.rayservice import IDLE_TIMEOUT_S

UP_S, DOWN_S = 420.0, 240.0 + IDLE_SECONDS + IDLE_TIMEOUT_S
MOST_S = 900
"""The load ends by itself after this time, whatever becomes of the test."""
LOAD = """
import collections, json, sys, threading, time, urllib.error, urllib.request
given = json.loads(sys.stdin.readline())
answers, stop = collections.Counter(), threading.Event()
def ask():
    while not stop.is_set():
        request = urllib.request.Request(given["url"], json.dumps(given["body"]).encode(), given["headers"])
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                answer.read()
                answers[answer.status] += 1
        except urllib.error.HTTPError as error:
            answers[f"{error.code} {error.read()[:300]}"] += 1
        except OSError as error:
            answers[repr(error)] += 1
        stop.wait(given["pause_s"])
threads = [threading.Thread(target=ask) for _ in range(given["clients"])]
for thread in threads:
    thread.start()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
stop.wait(given["most_s"])
stop.set()
for thread in threads:
    thread.join()
print(json.dumps(answers))
"""


class Load:
    """Clients in a pod that ask again and again."""

    def __init__(self, model: Model, clients: int, pause_s: float = 0.0):
        body = {"model": NAME, "prompt": [5] * 8, "max_tokens": 128, "ignore_eos": True}
        headers = {"authorization": f"Bearer {model.token()}", "content-type": "application/json"}
        url = model.status()["endpoint"]["url"] + "/completions"
        given = {"url": url, "body": body, "headers": headers, "clients": clients, "pause_s": pause_s, "most_s": MOST_S}
        kubectl = [program("kubectl"), f"--kubeconfig={model.site.kubectl.kubeconfig}"]
        command = [*kubectl, "exec", "--stdin", f"--namespace={CALLERS}", CLIENT, "--", "python", "-c", LOAD]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, int]:
        """How many requests had which answer."""
        try:
            said, _ = self._process.communicate("\n", timeout=180)
        finally:
            self._process.kill()
            self._process.wait()
        assert self._process.returncode == 0, said
        found: dict[str, int] = json.loads(said)
        return found


@contextlib.contextmanager
def load(model: Model, clients: int, pause_s: float = 0.0) -> Iterator[None]:
    """Fails where a single request was not answered."""
    asking = Load(model, clients, pause_s)
    try:
        yield
    finally:
        answers = asking.end()
    assert list(answers) == ["200"], answers


def scale(model: Model) -> dict[str, Any]:
    """What `kubectl get` and `kubectl scale` see."""
    status = model.status()
    return {key: status.get(key) for key in ("replicas", "readyReplicas")}


def set_floor(model: Model, replicas: int) -> None:
    model.site.kubectl("scale", PLURAL, NAME, f"--namespace={RESTRICTED}", f"--replicas={replicas}")


def test_load_raises_replicas_says_what_does_not_fit_and_lets_go_again(dense_model: Model) -> None:
    assert scale(dense_model) == {"replicas": 1, "readyReplicas": 1}
    with load(dense_model, clients=6):
        eventually(lambda: dense_model.status()["readyReplicas"] == 2, timeout=UP_S, every=2)
        assert {pod["spec"].get("nodeName") for pod in dense_model.pods("worker")} >= {"node-1", "node-2"}

        def short_of_a_gpu() -> dict[str, Any]:
            condition = dense_model.condition("Scaled")
            assert condition["reason"] == "Unschedulable", condition
            return condition

        condition = eventually(short_of_a_gpu, timeout=UP_S, every=2)
        assert condition["status"] == "False"
        assert re.search(r"2 of 3 replicas", condition["message"])
        assert "nvidia.com/gpu" in condition["message"]
        assert dense_model.condition("Ready")["status"] == "True"
        assert scale(dense_model) == {"replicas": 3, "readyReplicas": 2}
    with load(dense_model, clients=1, pause_s=1.0):
        engines = {pod["metadata"]["uid"] for pod in dense_model.running_pods()}
        set_floor(dense_model, 2)
        dense_model.site.set_gpus([2, 2])  # Ray's autoscaler takes back no pod that waits, only one that has run idle
        try:
            eventually(lambda: scale(dense_model) == {"replicas": 2, "readyReplicas": 2}, timeout=DOWN_S, every=2)
            assert dense_model.condition("Scaled")["status"] == "True"
            assert engines <= {pod["metadata"]["uid"] for pod in dense_model.running_pods()}  # none was started anew
        finally:
            set_floor(dense_model, 1)
        eventually(lambda: scale(dense_model) == {"replicas": 1, "readyReplicas": 1}, timeout=DOWN_S, every=2)
    assert dense_model.condition("Ready")["status"] == "True"

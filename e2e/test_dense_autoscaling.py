"""Load brings a second replica and idleness takes it away, without a failed request; what does not fit is said."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.bed.dense import IDLE_SECONDS, MAX_MODEL_LEN, NAME
from e2e.bed.models import PLURAL, Model
from e2e.bed.site import CALLERS, CLIENT, RESTRICTED
from tests.eventually import eventually
from tools.build_tools import program

from conclave.engine.load_bounds import IDLE_TIMEOUT_S, LAST_ANSWERS_S

UP_S = 420.0
DOWN_S = IDLE_SECONDS + LAST_ANSWERS_S + IDLE_TIMEOUT_S + 120
"""The most that a pod may outlive its need: Serve sees the need gone, a replica may take its whole grace to go (so may
one that still starts), Ray's autoscaler sees an idle node, Kubernetes deletes the pod.
"""
MOST_S, ANSWER_S = 2 * DOWN_S, 300
"""The load ends by itself after this time, whatever becomes of the test; and the most that one answer may take."""
LONG_TOKENS = MAX_MODEL_LEN - 48
SERVE_GRACE_S = 20
"""What Serve by itself leaves to a replica that it stops; an answer of that many tokens takes longer."""
LOAD = """
import collections, json, sys, threading, time, urllib.error, urllib.request
given = json.loads(sys.stdin.readline())
answers, seconds, stop = collections.Counter(), [0.0], threading.Event()
def ask():
    while not stop.is_set():
        start = time.monotonic()
        request = urllib.request.Request(given["url"], json.dumps(given["body"]).encode(), given["headers"])
        try:
            with urllib.request.urlopen(request, timeout=given["answer_s"]) as answer:
                answer.read()
                answers[answer.status] += 1
                seconds.append(time.monotonic() - start)
        except urllib.error.HTTPError as error:
            answers[f"{error.code} {error.read()[:300]}"] += 1
        except OSError as error:
            answers[repr(error)] += 1
threads = [threading.Thread(target=ask) for _ in range(given["clients"])]
for thread in threads:
    thread.start()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
stop.wait(given["most_s"])
stop.set()
for thread in threads:
    thread.join()
print(json.dumps([answers, max(seconds)]))
"""


class Load:
    """Clients in a pod that ask again and again."""

    def __init__(self, model: Model, clients: int, tokens: int):
        body = {"model": NAME, "prompt": [5] * 8, "max_tokens": tokens, "ignore_eos": True}
        headers = {"authorization": f"Bearer {model.token()}", "content-type": "application/json"}
        url = model.status()["endpoint"]["url"] + "/completions"
        bounds = {"clients": clients, "most_s": MOST_S, "answer_s": ANSWER_S}
        given = {"url": url, "body": body, "headers": headers, **bounds}
        kubectl = [program("kubectl"), f"--kubeconfig={model.site.kubectl.kubeconfig}"]
        command = [*kubectl, "exec", "--stdin", f"--namespace={CALLERS}", CLIENT, "--", "python", "-c", LOAD]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()

    def end(self) -> tuple[dict[str, int], float]:
        """How many requests had which answer, and the seconds of the longest."""
        try:
            said, _ = self._process.communicate("\n", timeout=ANSWER_S + 30)
        finally:
            self._process.kill()
            self._process.wait()
        assert self._process.returncode == 0, said
        answers, longest_s = json.loads(said)
        return answers, longest_s


@contextlib.contextmanager
def load(model: Model, clients: int, tokens: int, longer_than_s: float = 0) -> Iterator[None]:
    """Fails where a single request was not answered, or none took so long that the test means something."""
    asking = Load(model, clients, tokens)
    try:
        yield
    finally:
        answers, longest_s = asking.end()
    assert list(answers) == ["200"], answers
    assert longest_s > longer_than_s


def scale(model: Model) -> dict[str, Any]:
    """What `kubectl get` and `kubectl scale` see."""
    status = model.status()
    return {key: status.get(key) for key in ("replicas", "readyReplicas")}


@pytest.fixture
def set_floor(dense_model: Model) -> Iterator[Callable[[int], None]]:
    """`kubectl scale`; one replica again when the test is over, for the modules that share the model."""

    def scale_to(replicas: int) -> None:
        dense_model.site.kubectl("scale", PLURAL, NAME, f"--namespace={RESTRICTED}", f"--replicas={replicas}")

    yield scale_to
    scale_to(1)


def test_load_raises_replicas_says_what_does_not_fit_and_lets_go_again(
    dense_model: Model, set_floor: Callable[[int], None]
) -> None:
    assert scale(dense_model) == {"replicas": 1, "readyReplicas": 1}
    with load(dense_model, clients=6, tokens=128):
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
        set_floor(2)
    engines = {pod["metadata"]["uid"] for pod in dense_model.running_pods()}
    dense_model.site.set_gpus([2, 2])  # Ray's autoscaler takes back no pod that waits, only one that has run idle
    eventually(lambda: scale(dense_model) == {"replicas": 2, "readyReplicas": 2}, timeout=DOWN_S, every=2)
    assert dense_model.condition("Scaled")["status"] == "True"
    assert engines <= {pod["metadata"]["uid"] for pod in dense_model.running_pods()}  # none was started anew
    # As many clients as one replica is to carry.
    with load(dense_model, clients=2, tokens=LONG_TOKENS, longer_than_s=SERVE_GRACE_S):
        set_floor(1)
        eventually(lambda: scale(dense_model) == {"replicas": 1, "readyReplicas": 1}, timeout=DOWN_S, every=2)
        eventually(lambda: len(dense_model.pods("worker")) == 1, timeout=DOWN_S, every=2)
    assert dense_model.condition("Ready")["status"] == "True"

"""The Ray head is killed, or evicted, under a serving model: the status says so, and it serves again by itself."""

from __future__ import annotations

import json

from e2e.bed.models import Model, Running, explain, mixtral
from e2e.bed.site import Site
from tests.eventually import eventually

FILL = """
from pathlib import Path
with Path("/tmp/full").open("wb") as file:
    for _ in range(4200):
        file.write(bytes(2**20))
"""
"""A little more than the 4 GiB that a pod's /tmp may hold."""


def test_a_killed_head_is_named_and_the_model_serves_again(site: Site, running: Running) -> None:
    site.checkpoint("mixtral")
    model = running.only(mixtral())
    model.wait_until_ready()
    (head,) = model.pods("head")
    site.kubectl("delete", "pod", head["metadata"]["name"], f"--namespace={model.namespace}", "--now", "--wait=false")

    eventually(lambda: model.condition("Ready")["reason"] == "HeadReplaced", timeout=60, every=0.5)
    assert model.condition("Ready")["status"] == model.condition("Serving")["status"] == "False"
    assert model.status()["readyReplicas"] == 0
    assert "the Ray head pod was replaced" in explain(model)
    eventually(lambda: _other_head(model, head["metadata"]["uid"]), timeout=120, every=1)
    model.wait_until_ready()
    body = {"model": "mixtral", "prompt": [1, 2, 3], "max_tokens": 4}
    status, text = model.ask("/v1/completions", body, token=model.token())
    assert status == 200, text
    assert json.loads(text)["usage"]["completion_tokens"] == 4


def test_an_evicted_head_is_named_also_when_its_pod_is_gone(site: Site, running: Running) -> None:
    site.checkpoint("mixtral")
    model = running.only(mixtral())
    model.wait_until_ready()
    (head,) = model.pods("head")
    model.run(head, FILL)

    condition = model.eventually_says("Provisioned", "PodEvicted", 180)
    assert f"Pod {model.namespace}/{head['metadata']['name']}: the kubelet evicted the pod: " in condition["message"]
    assert 'EmptyDir volume "tmp" exceeds the limit "4Gi"' in condition["message"]
    eventually(lambda: _other_head(model, head["metadata"]["uid"]), timeout=120, every=1)
    assert model.condition("Ready")["reason"] == "PodEvicted"
    assert "the kubelet evicted the pod" in explain(model)
    model.wait_until_ready()


def _other_head(model: Model, uid: str) -> bool:
    return bool(model.pods("head")) and all(pod["metadata"]["uid"] != uid for pod in model.pods("head"))

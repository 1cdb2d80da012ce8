"""The Ray head's pod is killed under a serving model: the status says so, and the model serves again by itself."""

from __future__ import annotations

import json

from e2e.bed.models import Model, Running, explain, mixtral
from e2e.bed.site import Site
from tests.eventually import eventually


def test_a_killed_head_is_named_and_the_model_serves_again(site: Site, running: Running) -> None:
    site.checkpoint("mixtral")
    model = running.only(mixtral())
    model.wait_until_ready()
    (head,) = model.pods("head")
    site.kubectl("delete", "pod", head["metadata"]["name"], f"--namespace={model.namespace}", "--now", "--wait=false")

    eventually(lambda: model.condition("Ready")["reason"] == "HeadReplaced", timeout=60, every=0.5)
    assert model.condition("Ready")["status"] == model.condition("Serving")["status"] == "False"
    assert model.status()["readyReplicas"] == 0
    assert "its Ray head is gone" in explain(model)
    eventually(lambda: _other_head(model, head["metadata"]["uid"]), timeout=120, every=1)
    model.wait_until_ready()
    body = {"model": "mixtral", "prompt": [1, 2, 3], "max_tokens": 4}
    status, text = model.ask("/v1/completions", body, token=model.token())
    assert status == 200, text
    assert json.loads(text)["usage"]["completion_tokens"] == 4


def _other_head(model: Model, uid: str) -> bool:
    return bool(model.pods("head")) and all(pod["metadata"]["uid"] != uid for pod in model.pods("head"))

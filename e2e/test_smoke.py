"""One ModelDeployment from `kubectl apply` to tokens in real pods, under restricted Pod Security: what CI runs too."""

from __future__ import annotations

import json

import pytest
from e2e.bed.models import REQUEST, Model, Running, mixtral
from e2e.bed.site import RELEASE, RUNTIME_CLASS, STRANGERS, Site

CANARY = "canary-4e1b-in-the-prompt"
SHARED_MEMORY = "import os; seen = os.statvfs('/dev/shm'); print(seen.f_frsize * seen.f_blocks)"


@pytest.fixture(scope="module")
def model(site: Site, running: Running) -> Model:
    site.checkpoint("mixtral")
    model = running.only(mixtral())
    model.wait_until_ready()
    return model


@pytest.fixture(scope="module")
def token(model: Model) -> str:
    return model.token()


def test_the_endpoint_of_the_status_answers_in_tokens(model: Model, token: str) -> None:
    body = {"model": "mixtral", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 12}
    status, text = model.ask("/v1/chat/completions", body, token=token)
    assert status == 200, text
    answer = json.loads(text)
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["choices"][0]["message"]["content"]


def test_ready_is_of_this_generation_and_says_where(model: Model) -> None:
    ready = model.condition("Ready")
    assert ready["observedGeneration"] == model.status()["observedGeneration"]
    assert model.status()["endpoint"]["url"] in ready["message"]
    assert model.status()["readyReplicas"] == 1


@pytest.mark.parametrize("token", [None, "not-the-token-of-this-endpoint"], ids=["no token", "another token"])
def test_without_its_token_the_endpoint_refuses(model: Model, token: str | None) -> None:
    status, text = model.ask("/v1/models", token=token)
    assert status == 401, text
    assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/invocations", "/pause", "/metrics", "/-/routes", "/v1/../pause"])
def test_control_routes_are_not_there(model: Model, token: str, path: str) -> None:
    assert model.ask(path, token=token)[0] == 404


def test_both_ranks_run_in_the_one_worker_pod_that_the_plan_names(model: Model) -> None:
    plan = model.status()["plan"]
    assert (plan["tensor"], plan["nodesPerReplica"], plan["gpusPerReplica"]) == (2, 1, 2)
    (worker,) = model.pods("worker")
    (ray,) = (each for each in worker["spec"]["containers"] if each["name"] == "ray")
    assert ray["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_pods_are_restricted_and_only_the_autoscaler_has_a_token_of_the_cluster(model: Model) -> None:
    for pod in model.pods():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, container["name"]
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert ("/var/run/secrets/kubernetes.io/serviceaccount" in mounts) == (container["name"] == "autoscaler")


def test_pods_have_what_the_runtime_of_the_spec_adds(model: Model) -> None:
    (head,), (worker,) = model.pods("head"), model.pods("worker")
    for pod in (head, worker):
        labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
        assert labels["example.com/cost-centre"] == "1234"
        assert labels["sidecar.istio.io/inject"] == "false"
        assert (annotations["example.com/note"], annotations["linkerd.io/inject"]) == (
            "a model of the tests",
            "disabled",
        )
    assert (head["spec"].get("runtimeClassName"), worker["spec"]["runtimeClassName"]) == (None, RUNTIME_CLASS)
    assert head["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert int(model.run(worker, SHARED_MEMORY)) == 5 << 30


def test_a_namespace_that_is_not_allowed_reaches_nothing(model: Model, token: str) -> None:
    assert model.ask("/v1/models", token=token)[0] == 200
    assert model.ask("/v1/models", token=token, namespace=STRANGERS, timeout_s=10)[0] == 0


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/serve/applications/", "/api/v0/nodes"])
@pytest.mark.parametrize("is_the_endpoints", [False, True], ids=["no token", "the endpoint's token"])
def test_rays_own_api_refuses(model: Model, token: str, is_the_endpoints: bool, path: str) -> None:
    """Asked from the deployment's own worker, the only pod that the policies let come so near."""
    (head,), (worker,) = model.pods("head"), model.pods("worker")
    url = f"http://{head['status']['podIP']}:8265{path}"
    headers = {"authorization": f"Bearer {token}"} if is_the_endpoints else {}
    given = {"url": url, "method": "GET", "headers": headers, "body": None, "timeout_s": 30}
    status, text = json.loads(model.run(worker, REQUEST, stdin=json.dumps(given)))
    assert status in (401, 403), (status, text)
    assert json.loads(model.site.run_in_client(REQUEST, stdin=json.dumps(given)))[0] == 0


def test_the_charts_own_test_passes(site: Site) -> None:
    assert "Phase:          Succeeded" in site.helm("test", RELEASE, "--logs")


def test_network_policies_are_enforced_and_the_status_knows(model: Model) -> None:
    condition = model.condition("EgressEnforced")
    assert (condition["status"], condition["reason"]) == ("True", "EgressClosed"), condition


def test_the_prompt_is_in_no_log_event_or_status(model: Model) -> None:
    assert model.sinks_with(CANARY) == []


def test_a_word_that_is_in_every_kind_of_sink_is_found_there(model: Model) -> None:
    """Or the search for a prompt would prove nothing."""
    found = model.sinks_with(model.name)
    (worker,) = model.pods("worker")
    for sink in ("objects", "log of conclave-", f"{worker['metadata']['name']}:/tmp/ray/"):
        assert [each for each in found if each.startswith(sink)], (sink, found)

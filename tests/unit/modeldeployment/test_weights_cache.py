"""The cache claim, the download Job's steps and whom its pod may reach."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tests.scenes import DIGEST, SETTINGS, make_deployment, make_plan

from conclave import names
from conclave.api.modeldeployment import ModelDeployment, PersistentVolumeClaimSource
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.quantities import canonical
from conclave.modeldeployment.weights.cache import build_cache_claim, build_download_policy
from conclave.modeldeployment.weights.job import build_download_job, download_steps
from conclave.modeldeployment.weights.keys import adapter_keys, cached_source, download_key, weights_key

STORE = {"uri": "s3://models/mixtral", "secretName": "store"}


def stored(store: dict[str, Any] | None = None, cache: dict[str, Any] | None = None, **spec: Any) -> ModelDeployment:
    source = {"persistentVolumeClaim": None, "objectStore": STORE | (store or {})}
    model = {"source": source, "cache": {"size": "100Gi"} | (cache or {})} | spec.pop("model", {})
    return make_deployment({"model": model, **spec})


def job_of(deployment: ModelDeployment, kept_keys: tuple[str, ...] = (), claim_uid: str = "uid") -> JsonObject:
    assert deployment.spec.model.cache is not None
    return build_download_job(
        deployment,
        deployment.spec.model.cache,
        make_plan().roles,
        SETTINGS,
        claim_uid=claim_uid,
        kept_keys=kept_keys,
    )


def mounted(deployment: ModelDeployment) -> PersistentVolumeClaimSource | None:
    model = deployment.spec.model
    return cached_source(deployment, model.source, model.digest)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("300Gi", "300Gi"),
        ("1024Gi", "1Ti"),
        ("1536Gi", "1536Gi"),
        ("0.5Gi", "512Mi"),
        ("1000G", "1T"),
        ("1500M", "1500M"),
        ("1000000000", "1G"),
        ("1024", "1024"),
        ("0.5Ki", "512"),
        ("1.5", "1500m"),
    ],
)
def test_a_size_is_written_as_the_api_server_writes_it(given: str, written: str) -> None:
    assert canonical(given) == written


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ("1Gi", (100,)),
        ("15Gi", (100,)),
        ("16Gi", (50, 100)),
        ("0.1Ti", tuple(range(10, 101, 10))),
        ("300Gi", tuple(range(10, 101, 10))),
        ("2T", tuple(range(10, 101, 10))),
    ],
)
def test_progress_is_told_in_steps_that_are_worth_it(size: str, steps: tuple[int, ...]) -> None:
    assert download_steps(size) == steps


ENDPOINTS: dict[str, tuple[str | None, JsonObject]] = {
    "Amazon's, whose addresses are not known": (None, {"ports": [{"protocol": "TCP", "port": 443}]}),
    "a host on its scheme's port": ("https://store.example", {"ports": [{"protocol": "TCP", "port": 443}]}),
    "a host on a port of its own": ("http://store.example:9000", {"ports": [{"protocol": "TCP", "port": 9000}]}),
    "an address": (
        "https://192.0.2.7:9000",
        {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"protocol": "TCP", "port": 9000}]},
    ),
    **{
        what: (
            endpoint,
            {
                "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}],
                "ports": [{"protocol": "TCP"}],
            },
        )
        for what, endpoint, namespace in (
            ("a Service of the own namespace", "http://minio:9000", "llm"),
            ("a Service", "http://minio.storage.svc:9000", "storage"),
            ("a Service by its whole name", "https://minio.storage.svc.cluster.local", "storage"),
        )
    },
}


@pytest.mark.parametrize(("endpoint", "rule"), ENDPOINTS.values(), ids=ENDPOINTS.keys())
def test_the_download_reaches_dns_and_the_store_only(endpoint: str | None, rule: JsonObject) -> None:
    deployment = stored({"endpoint": endpoint})
    policy = build_download_policy(deployment, SETTINGS)
    dns, to_store = policy["spec"]["egress"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    assert to_store == rule
    assert "ingress" not in policy["spec"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    labels = job_of(deployment)["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert not names.pod_selector("mixtral").items() <= labels.items()


OTHERS = {
    "another address": stored({"uri": "s3://models/other"}),
    "another endpoint": stored({"endpoint": "https://store.example"}),
    "a digest": stored(model={"digest": DIGEST}),
}
SAME = {
    "another Secret": stored({"secretName": "other"}),
    "another region": stored({"region": "eu-west-1"}),
    "a larger cache": stored(cache={"size": "200Gi"}),
}


@pytest.mark.parametrize("deployment", OTHERS.values(), ids=OTHERS.keys())
def test_other_weights_are_kept_apart(deployment: ModelDeployment) -> None:
    assert weights_key(deployment) != weights_key(stored())
    assert mounted(deployment) != mounted(stored())


@pytest.mark.parametrize("deployment", SAME.values(), ids=SAME.keys())
def test_the_same_weights_are_not_fetched_twice(deployment: ModelDeployment) -> None:
    assert weights_key(deployment) == weights_key(stored())
    assert mounted(deployment) == mounted(stored())


def test_a_job_has_a_name_of_its_content() -> None:
    jobs = [
        job_of(stored()),
        job_of(stored({"secretName": "other"})),
        job_of(stored(), claim_uid="another"),
        job_of(stored(), kept_keys=("used",)),
    ]
    assert len({job["metadata"]["name"] for job in jobs}) == len(jobs)
    assert job_of(stored()) == job_of(stored())
    named = {"metadata": stored().metadata.model_copy(update={"name": "a" * 40})}
    longest = job_of(stored().model_copy(update=named))
    assert len(longest["metadata"]["name"]) <= 63


def test_no_credential_is_an_argument_and_no_token_is_mounted() -> None:
    pod = job_of(stored())["spec"]["template"]["spec"]
    containers = [*pod["initContainers"], *pod["containers"]]
    assert pod["automountServiceAccountToken"] is False
    assert all("AWS" not in part and part != "store" for item in containers for part in item["command"])
    assert all(
        item["env"][0]["valueFrom"] == {"secretKeyRef": {"name": "store", "key": "AWS_ACCESS_KEY_ID"}}
        for item in containers
    )


@pytest.mark.parametrize(("mode", "is_bound_to_gpus"), [("ReadWriteMany", False), ("ReadWriteOnce", True)])
def test_a_volume_of_one_node_is_made_where_the_accelerators_are(mode: str, is_bound_to_gpus: bool) -> None:
    deployment = stored(cache={"accessMode": mode})
    assert deployment.spec.model.cache is not None
    assert build_cache_claim(deployment, deployment.spec.model.cache)["spec"]["accessModes"] == [mode]
    pod = job_of(deployment)["spec"]["template"]["spec"]
    assert ("nvidia.com/gpu.product" in str(pod.get("affinity"))) == is_bound_to_gpus
    assert ("tolerations" in pod) == is_bound_to_gpus


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"repository": "acme/tiny", "revision": COMMIT}


def from_hub(hub: dict[str, Any] | None = None, **spec: Any) -> ModelDeployment:
    source = {"persistentVolumeClaim": None, "objectStore": None, "huggingFace": HUB | (hub or {})}
    model = {"source": source, "cache": {"size": "10Gi"}} | spec.pop("model", {})
    return make_deployment({"model": model, **spec})


def adapter(name: str, source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "source": source, **more}


def containers_of(deployment: ModelDeployment) -> list[JsonObject]:
    pod = job_of(deployment)["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_a_hub_is_asked_for_the_commit_with_the_patterns() -> None:
    patterns = {"allowPatterns": ["*.safetensors", "*.json"], "ignorePatterns": ["original/*"]}
    (container,) = containers_of(from_hub({**patterns, "endpoint": "https://hub.example/mirror"}))
    command = container["command"]
    assert command[-2:] == [
        f"hf://acme/tiny@{COMMIT}",
        f"/models/cache/{weights_key(from_hub(HUB | patterns | {'endpoint': 'https://hub.example/mirror'}))}",
    ]
    pairs = list(pairwise(command))
    for pair in (
        ("--include", "*.safetensors"),
        ("--include", "*.json"),
        ("--exclude", "original/*"),
        ("--endpoint", "https://hub.example/mirror"),
    ):
        assert pair in pairs
    assert "env" not in container


def test_the_token_is_a_variable_of_the_secret_and_no_argument() -> None:
    (container,) = containers_of(from_hub({"secretName": "hub"}))
    assert container["env"] == [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}}]
    assert "hub" not in container["command"]


HUB_ENDPOINTS: dict[str, tuple[Any, ...]] = {
    "the official hub and its CDN, whose addresses are not known": (
        None,
        {"ports": [{"protocol": "TCP", "port": 443}]},
    ),
    "a mirror, which may lead to a CDN": (
        "https://hub.example:8443/mirror",
        {"ports": [{"protocol": "TCP", "port": 8443}]},
        {"ports": [{"protocol": "TCP", "port": 443}]},
    ),
    "a Service": (
        "http://hub.storage.svc:8080",
        {
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}],
            "ports": [{"protocol": "TCP"}],
        },
    ),
    "an address": (
        "https://192.0.2.7:8443",
        {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"protocol": "TCP", "port": 8443}]},
    ),
}


@pytest.mark.parametrize(
    ("endpoint", "rules"), [(url, rules) for url, *rules in HUB_ENDPOINTS.values()], ids=HUB_ENDPOINTS
)
def test_the_download_reaches_dns_and_the_hub_only(endpoint: str | None, rules: list[JsonObject]) -> None:
    assert build_download_policy(from_hub({"endpoint": endpoint}), SETTINGS)["spec"]["egress"][1:] == rules


OTHER_HUBS = {
    "another commit": from_hub({"revision": "f" * 40}),
    "another repository": from_hub({"repository": "acme/other"}),
    "a mirror": from_hub({"endpoint": "https://hub.example"}),
    "other files": from_hub({"allowPatterns": ["*.json"]}),
    "fewer files": from_hub({"ignorePatterns": ["*.json"]}),
    "a digest": from_hub(model={"digest": DIGEST}),
}


@pytest.mark.parametrize("deployment", OTHER_HUBS.values(), ids=OTHER_HUBS)
def test_other_files_of_a_hub_are_kept_apart(deployment: ModelDeployment) -> None:
    assert weights_key(deployment) != weights_key(from_hub())


def test_another_secret_is_the_same_files_of_a_hub() -> None:
    assert weights_key(from_hub({"secretName": "hub"})) == weights_key(from_hub())


TONE = adapter("tone", {"huggingFace": HUB | {"repository": "acme/tone"}})
STYLE = adapter("style", {"objectStore": STORE | {"uri": "s3://models/style"}}, digest=DIGEST)
MOUNTED = adapter("mounted", {"persistentVolumeClaim": {"claimName": "adapters", "path": "mounted"}})


def test_adapters_are_downloaded_before_the_model_by_the_same_job() -> None:
    deployment = stored(model={"adapters": [TONE, MOUNTED, STYLE]}, cache={"size": "16Gi"})
    containers = containers_of(deployment)
    assert [item["name"] for item in containers] == [
        "download-adapter-1",
        "download-adapter-2",
        "download-50",
        "download",
    ]
    keys = [weights_key(deployment), *adapter_keys(deployment)]
    for container, key in zip(containers, [*keys[1:], keys[0], keys[0]], strict=True):
        command = container["command"]
        assert command[-1] == f"/models/cache/{key}"
        kept = {command[place + 1] for place, part in enumerate(command) if part == "--keep"}
        assert kept == set(keys)
    assert "--digest" not in containers[0]["command"]
    assert ("--digest", DIGEST) in list(pairwise(containers[1]["command"]))


def test_adapters_are_downloaded_where_the_model_is_mounted() -> None:
    deployment = make_deployment({"model": {"adapters": [TONE], "cache": {"size": "1Gi"}}})
    assert weights_key(deployment) == ""
    (container,) = containers_of(deployment)
    assert container["name"] == "download-adapter-1"
    assert download_key(deployment) not in ("", *adapter_keys(deployment))


def test_the_download_reaches_each_store_and_hub_of_the_spec() -> None:
    deployment = stored({"endpoint": "http://minio:9000"}, model={"adapters": [TONE, TONE | {"name": "twin"}, STYLE]})
    _, *rules = build_download_policy(deployment, SETTINGS)["spec"]["egress"]
    own = {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "llm"}}}]}
    assert rules == [{**own, "ports": [{"protocol": "TCP"}]}, {"ports": [{"protocol": "TCP", "port": 443}]}]


def test_the_same_files_are_fetched_once() -> None:
    twins = stored(model={"adapters": [TONE, TONE | {"name": "twin"}]})
    assert len(adapter_keys(twins)) == 1
    assert [item["name"] for item in containers_of(twins)].count("download-adapter-1") == 1


def test_another_adapter_is_another_download_and_none_is_that_of_the_model() -> None:
    assert download_key(stored()) == weights_key(stored())
    one, other = stored(model={"adapters": [TONE]}), stored(model={"adapters": [STYLE]})
    assert len({download_key(stored()), download_key(one), download_key(other)}) == 3
    assert download_key(stored(model={"adapters": [MOUNTED]})) == weights_key(stored())

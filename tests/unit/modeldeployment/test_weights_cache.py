"""The cache claim, the download Job's steps and whom its pod may reach."""

from __future__ import annotations

from typing import Any

import pytest
from tests.scenes import DIGEST, SETTINGS, make_deployment, make_plan

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.quantities import canonical
from conclave.modeldeployment.weights.cache import build_cache_claim, build_download_policy
from conclave.modeldeployment.weights.job import build_download_job, download_steps
from conclave.modeldeployment.weights.keys import cached_source, weights_key

STORE = {"uri": "s3://models/mixtral", "secretName": "store"}


def stored(store: dict[str, Any] | None = None, cache: dict[str, Any] | None = None, **spec: Any) -> ModelDeployment:
    source = {"persistentVolumeClaim": None, "objectStore": STORE | (store or {})}
    model = {"source": source, "cache": {"size": "100Gi"} | (cache or {})} | spec.pop("model", {})
    return make_deployment({"model": model, **spec})


def job_of(deployment: ModelDeployment, kept_keys: tuple[str, ...] = (), claim_uid: str = "uid") -> JsonObject:
    model = deployment.spec.model
    assert model.source.object_store is not None
    assert model.cache is not None
    return build_download_job(
        deployment,
        model.source.object_store,
        model.cache,
        make_plan().accelerators,
        SETTINGS,
        claim_uid=claim_uid,
        kept_keys=kept_keys,
    )


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
    assert deployment.spec.model.source.object_store is not None
    policy = build_download_policy(deployment, deployment.spec.model.source.object_store, SETTINGS)
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
    assert cached_source(deployment) != cached_source(stored())


@pytest.mark.parametrize("deployment", SAME.values(), ids=SAME.keys())
def test_the_same_weights_are_not_fetched_twice(deployment: ModelDeployment) -> None:
    assert weights_key(deployment) == weights_key(stored())
    assert cached_source(deployment) == cached_source(stored())


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

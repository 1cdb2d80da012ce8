"""What the settings make of pods, Jobs and policies: users, proxies, certificates, ports, families of addresses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.golden.chart import PLATFORM_CASES
from tests.golden.differences import whole
from tests.openshift import refusals
from tests.scenes import DIGEST, SETTINGS, make_deployment, make_plan

from conclave import names
from conclave.api.formats import HUB_ENDPOINT_PATTERN
from conclave.api.formats import PROXY as PROXY_URL
from conclave.api.modeldeployment import ModelDeployment, ObjectStoreSource
from conclave.api.rules import Format
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.peers import target_of
from conclave.modeldeployment.inspection.job import build_inspection_job
from conclave.modeldeployment.serving.network_policy import build_network_policies
from conclave.modeldeployment.serving.rayservice import build_rayservice
from conclave.modeldeployment.weights.cache import build_download_policy
from conclave.modeldeployment.weights.job import build_download_job
from conclave.settings import OperatorSettings

SCHEMA = json.loads((Path(__file__).parents[3] / "charts/conclave/values.schema.json").read_text(encoding="utf-8"))
PROXY = "http://proxy.example:3128"


def settings(**changes: Any) -> OperatorSettings:
    return OperatorSettings.model_validate(SETTINGS.model_dump() | changes)


def stored(endpoint: str | None = None, **runtime: Any) -> ModelDeployment:
    store = {"uri": "s3://models/mixtral", "secretName": "store", "endpoint": endpoint}
    source = {"persistentVolumeClaim": None, "objectStore": store}
    return make_deployment(
        {"model": {"source": source, "cache": {"size": "100Gi"}, "digest": DIGEST}, "runtime": runtime}
    )


def store_of(deployment: ModelDeployment) -> ObjectStoreSource:
    assert deployment.spec.model.source.object_store is not None
    return deployment.spec.model.source.object_store


def download(of: OperatorSettings, endpoint: str | None = None, **runtime: Any) -> JsonObject:
    deployment = stored(endpoint, **runtime)
    cache = deployment.spec.model.cache
    assert cache is not None
    roles = make_plan().roles
    return build_download_job(deployment, cache, roles, of, claim_uid="uid", kept_keys=())


def inspection(of: OperatorSettings, **runtime: Any) -> JsonObject:
    return build_inspection_job(make_deployment({"runtime": runtime}), of, "0123")


def pods(of: OperatorSettings) -> dict[str, JsonObject]:
    """Each pod that is made for a model: its template."""
    cluster = build_rayservice(make_deployment({"model": {"digest": DIGEST}}), make_plan(), of)["spec"]
    cluster = cluster["rayClusterConfig"]
    return {
        "head": cluster["headGroupSpec"]["template"],
        "worker": cluster["workerGroupSpecs"][0]["template"],
        "download": download(of)["spec"]["template"],
        "inspection": inspection(of)["spec"]["template"],
    }


def containers(pod: JsonObject) -> Iterator[JsonObject]:
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def variables(container: JsonObject) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container["env"]}


# Users


@pytest.mark.parametrize("pod", ["head", "worker", "download", "inspection"])
def test_users_are_named_unless_the_platform_assigns_them(pod: str) -> None:
    fixed, free = (pods(settings(fixed_user_ids=is_fixed))[pod]["spec"] for is_fixed in (True, False))
    ids = ("runAsUser", "runAsGroup", "fsGroup")
    assert [fixed["securityContext"].get(name) for name in ids] == [1000, 1000, 1000]
    assert fixed["securityContext"].keys() - free["securityContext"].keys() == {*ids}
    assert free["securityContext"]["runAsNonRoot"] is True
    assert free["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {**free, "securityContext": None} == {**fixed, "securityContext": None}


@pytest.mark.parametrize("pod", ["head", "worker", "download", "inspection"])
def test_openshift_admits_pods_without_users_and_refuses_those_with(pod: str) -> None:
    assert list(refusals(pods(settings(fixed_user_ids=False))[pod]["spec"])) == []
    assert {refusal.split(" ")[1] for refusal in refusals(pods(SETTINGS)[pod]["spec"])} == {"runAsUser", "fsGroup"}


def test_openshift_admits_all_pods_of_its_golden_set() -> None:
    (case,) = (case for case in PLATFORM_CASES if case.name == "openshift")
    chart = whole(case, "chart")["install"]
    made = [*whole(case, "download")["create"], *whole(case, "objects")["apply"], *chart]
    specs = [
        *(item["spec"]["template"]["spec"] for item in made if item["kind"] in ("Job", "Deployment")),
        *(item["spec"] for item in made if item["kind"] == "Pod"),
    ]
    for item in made:
        if item["kind"] == "RayService":
            cluster = item["spec"]["rayClusterConfig"]
            groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
            specs += [group["template"]["spec"] for group in groups]
    assert len(specs) == 5
    assert [refusal for spec in specs for refusal in refusals(spec)] == []


# Proxy and certificates


def test_a_download_is_told_the_proxy_and_its_policy_admits_it() -> None:
    of = settings(http_proxy="http://plain.example", https_proxy=PROXY, no_proxy=".corp.example,10.0.0.0/8")
    for container in containers(download(of, "https://store.example")["spec"]["template"]["spec"]):
        told = variables(container)
        assert (told["HTTP_PROXY"], told["HTTPS_PROXY"]) == ("http://plain.example", PROXY)
        assert told["NO_PROXY"] == "localhost,127.0.0.1,::1,.svc,.cluster.local,.corp.example,10.0.0.0/8"
        assert PROXY not in container["command"]


EGRESS: dict[str, tuple[dict[str, str], str | None, list[JsonObject]]] = {
    "the proxy of the store's scheme": (
        {"https_proxy": PROXY, "http_proxy": "http://plain.example"},
        "https://store.example",
        [{"ports": [443]}, {"ports": [3128]}],
    ),
    "plain HTTP by its own": (
        {"https_proxy": PROXY, "http_proxy": "http://plain.example"},
        "http://store.example:9000",
        [{"ports": [9000]}, {"ports": [80]}],
    ),
    "Amazon's store is reached by HTTPS": ({"https_proxy": PROXY}, None, [{"ports": [443]}, {"ports": [3128]}]),
    "no proxy of this scheme": ({"http_proxy": PROXY}, "https://store.example", [{"ports": [443]}]),
    "a proxy by its address": (
        {"https_proxy": "http://192.0.2.9:3128"},
        "https://store.example",
        [{"ports": [443]}, {"to": ["192.0.2.9/32"], "ports": [3128]}],
    ),
    "a proxy by an IPv6 address": (
        {"https_proxy": "http://[fd00::9]:3128"},
        "https://store.example",
        [{"ports": [443]}, {"to": ["fd00::9/128"], "ports": [3128]}],
    ),
    "a proxy in the cluster, which may listen on another port": (
        {"https_proxy": "http://squid.proxies.svc:3128"},
        "https://store.example",
        [{"ports": [443]}, {"to": ["proxies"], "ports": [None]}],
    ),
    "a store in the cluster needs none": (
        {"https_proxy": PROXY},
        "https://minio.storage.svc:9000",
        [{"to": ["storage"], "ports": [None]}],
    ),
}


@pytest.mark.parametrize(("proxies", "endpoint", "rules"), EGRESS.values(), ids=EGRESS)
def test_the_downloads_policy_admits_the_store_and_the_proxy_before_it(
    proxies: dict[str, str], endpoint: str | None, rules: list[JsonObject]
) -> None:
    deployment = stored(endpoint)
    policy = build_download_policy(deployment, settings(**proxies))
    _dns, *found = policy["spec"]["egress"]
    assert [_short(rule) for rule in found] == rules


def _short(rule: JsonObject) -> JsonObject:
    """Ports, and addresses or namespaces."""
    peers = [
        peer["ipBlock"]["cidr"] if "ipBlock" in peer else peer["namespaceSelector"]["matchLabels"].popitem()[1]
        for peer in rule.get("to", [])
    ]
    ports = [port.get("port") for port in rule["ports"]]
    return {"to": peers, "ports": ports} if peers else {"ports": ports}


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [("http://minio:9000", "minio"), ("https://minio.storage.svc", "minio.storage.svc"), ("https://a.example", None)],
    ids=["a Service of the own namespace", "a Service", "a host outside"],
)
def test_a_store_in_the_cluster_is_never_asked_for_through_the_proxy(endpoint: str, host: str | None) -> None:
    (first, *_) = containers(download(settings(https_proxy=PROXY), endpoint)["spec"]["template"]["spec"])
    assert (host in variables(first)["NO_PROXY"].split(",")) == (host is not None)


def test_certificates_come_from_a_config_map_of_the_models_namespace() -> None:
    of = settings(ca_bundle="company-ca", ca_bundle_key="ca-bundle.crt")
    pod = download(of)["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if "configMap" in volume)
    assert volume["configMap"] == {"name": "company-ca", "items": [{"key": "ca-bundle.crt", "path": "ca.crt"}]}
    for container in containers(pod):
        (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == volume["name"])
        assert mount["readOnly"] is True
        assert {variables(container)[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")} == {
            f"{mount['mountPath']}/ca.crt"
        }


def test_an_inspection_and_pods_that_serve_know_no_proxy_and_no_certificates() -> None:
    of = settings(http_proxy=PROXY, https_proxy=PROXY, ca_bundle="company-ca")
    assert pods(of)["inspection"] == pods(SETTINGS)["inspection"]
    assert pods(of)["head"] == pods(SETTINGS)["head"]
    assert pods(of)["worker"] == pods(SETTINGS)["worker"]


def test_without_proxy_and_certificates_a_download_has_neither() -> None:
    pod = download(SETTINGS)["spec"]["template"]["spec"]
    assert all(name.startswith("AWS_") for item in containers(pod) for name in variables(item))
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", names.CACHE_VOLUME]


@pytest.mark.parametrize("build", [download, inspection])
def test_jobs_pull_their_image_with_the_spec_s_secrets_and_the_operator_s(build: Any) -> None:
    job = build(settings(image_pull_secrets=("registry",)), imagePullSecrets=["own"])
    assert job["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "own"}, {"name": "registry"}]


REFUSED_PROXIES = {
    "a password": "http://user:word@proxy.example:3128",
    "a user": "http://user@proxy.example:3128",
    "no scheme": "proxy.example:3128",
    "a path": "http://proxy.example/x",
    "a port that is none": "http://proxy.example:99999",
    "an address that is none": "http://[fd00:::1]:3128",
    "another protocol": "socks5://proxy.example:1080",
    "a line break": "http://proxy.example:3128\n",
}


@pytest.mark.parametrize("url", REFUSED_PROXIES.values(), ids=REFUSED_PROXIES)
@pytest.mark.parametrize("name", ["http_proxy", "https_proxy"])
def test_a_proxy_with_a_password_or_that_is_none_is_refused(name: str, url: str) -> None:
    with pytest.raises(ValidationError, match="is not the URL of a proxy"):
        settings(**{name: url})


ACCEPTED_PROXIES = ("", "http://proxy", "https://proxy.example:3128/", "http://192.0.2.9:3128", "http://[fd00::9]:3128")


@pytest.mark.parametrize("url", ACCEPTED_PROXIES)
def test_the_chart_takes_what_the_settings_take_and_no_password(url: str) -> None:
    pattern = SCHEMA["$defs"]["optionalProxy"]["pattern"]
    assert settings(https_proxy=url).https_proxy == url
    assert re.search(pattern, url)
    refused = ("a password", "a user", "no scheme", "a path", "another protocol")
    assert [name for name in refused if re.search(pattern, REFUSED_PROXIES[name])] == []


@pytest.mark.parametrize(
    ("definition", "spelling"), [("hubEndpoint", HUB_ENDPOINT_PATTERN), ("optionalProxy", PROXY_URL)]
)
def test_the_charts_schema_has_the_settings_own_pattern(definition: str, spelling: Format) -> None:
    """A looser one lets an upgrade through after which the operator does not start."""
    assert SCHEMA["$defs"][definition]["pattern"] == f"^({spelling.pattern})$"


# Meshes and quotas


@pytest.mark.parametrize("build", [download, inspection])
def test_no_mesh_adds_a_sidecar_to_a_job(build: Any) -> None:
    metadata = build(SETTINGS)["spec"]["template"]["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "false"
    assert metadata["labels"]["istio.io/dataplane-mode"] == "none"
    assert metadata["annotations"] == {"linkerd.io/inject": "disabled"}


@pytest.mark.parametrize("pod", ["head", "worker", "download", "inspection"])
def test_a_quota_of_cpu_and_memory_admits_every_container(pod: str) -> None:
    for container in containers(pods(SETTINGS)[pod]["spec"]):
        for part in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][part].keys(), container["name"]


# Addresses and ports


def test_policies_admit_the_ports_that_the_servers_listen_on() -> None:
    of = settings(api_server_ports=(443, 16443), dns_ports=(53, 5353), dns_namespace="openshift-dns")
    deployment = stored("http://minio:9000")
    policies = [*build_network_policies(deployment, of), build_download_policy(deployment, of)]
    served, head, downloads = (policy["spec"]["egress"] for policy in policies)
    assert [port["port"] for port in head[0]["ports"]] == [443, 16443]
    for rules in (served, downloads):
        (dns,) = (rule for rule in rules if any(port["protocol"] == "UDP" for port in rule.get("ports", [])))
        assert [(port["protocol"], port["port"]) for port in dns["ports"]] == [
            *(("UDP", 53), ("TCP", 53)),
            *(("UDP", 5353), ("TCP", 5353)),
        ]


def test_pods_of_ipv6_listen_on_and_go_by_their_ipv6_address() -> None:
    spec = build_rayservice(make_deployment(), make_plan(), settings(ip_family="IPv6"))["spec"]
    assert yaml.safe_load(spec["serveConfigV2"])["http_options"]["host"] == "::"
    cluster = spec["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "::"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"]["node-ip-address"] == "$VLLM_HOST_IP"
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in container["env"]


TARGETS = {
    "an IPv4 address": ("http://192.0.2.7:9000", 9000, ["192.0.2.7/32"]),
    "an IPv6 address": ("http://[fd00::1]:9000", 9000, ["fd00::1/128"]),
    "an IPv6 address on its scheme's port": ("https://[2001:db8::7]", 443, ["2001:db8::7/128"]),
    "the loopback of IPv6": ("http://[::1]", 80, ["::1/128"]),
    "a host": ("https://store.example", 443, []),
}


@pytest.mark.parametrize(("url", "port", "cidrs"), TARGETS.values(), ids=TARGETS)
def test_an_address_of_either_family_is_named_by_itself(url: str, port: int, cidrs: list[str]) -> None:
    target = target_of(url)
    assert target.port == port
    assert target.namespace("llm", "cluster.local") is None
    assert [peer["ipBlock"]["cidr"] for peer in target.peers("llm", "cluster.local")] == cidrs


def test_a_collector_by_its_ipv6_address_is_admitted() -> None:
    tracing = {"endpoint": "http://[fd00::c]:4318"}
    served, _ = build_network_policies(make_deployment({"telemetry": {"tracing": tracing}}), SETTINGS)
    assert _short(served["spec"]["egress"][-1]) == {"to": ["fd00::c/128"], "ports": [4318]}


@given(st.ip_addresses(v=6), st.none() | st.integers(1, 65535))
def test_every_ipv6_address_can_be_an_endpoint(address: object, port: int | None) -> None:
    text = str(address)
    endpoint = f"https://[{text}]" + (f":{port}" if port else "")
    if "." in text or "%" in text:  # spelled with an IPv4 address, or with a zone
        return
    assert target_of(store_of(stored(endpoint)).endpoint or "") == (text, port or 443)


@given(st.text(st.sampled_from("0123456789abcdef:"), max_size=24))
def test_what_is_taken_for_an_ipv6_address_is_one(text: str) -> None:
    endpoint = f"https://[{text}]:9000"
    try:
        taken = stored(endpoint)
    except ValidationError:
        return
    assert re.fullmatch("[0-9a-f:]+", target_of(store_of(taken).endpoint or "").host)
    assert target_of(endpoint).address is not None

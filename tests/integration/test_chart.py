"""The chart, rendered by the real helm and judged by the real API server: strict schemas, Pod Security, RBAC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.golden.chart import PLATFORMS
from tests.integration.testbed.audit import Right
from tests.integration.testbed.helm import CHART, SYSTEM_NAMESPACE, Helm, HelmError, install_operator_account
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.rights import granted
from tests.openshift import refusals
from tests.scenes import SETTINGS, make_deployment, make_plan

from conclave import __version__, names
from conclave.modeldeployment.serving.pods import head_template, worker_template
from conclave.settings import OperatorSettings

DIGEST = f"sha256:{'0' * 64}"
FILES = CHART / "files" / "crds"

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "two watched namespaces": {"watchNamespaces": ["team-a", "team-b"]},
    "a registry and its secrets": {
        "registry": "registry.example:5000/mirror",
        "imagePullSecrets": ["pull-one", "pull-two"],
    },
    "images by digest": {"image": {"digest": DIGEST}, "serving": {"image": {"digest": DIGEST}}},
    "images by tag": {"image": {"tag": "1.2.3-rc.1"}, "serving": {"image": {"tag": "nightly", "pullPolicy": "Always"}}},
    "images and service accounts of the users' own": {
        "serving": {
            "allowedImages": ["registry.example:5000/team/serving:*", f"registry.example/own@{DIGEST}"],
            "allowedServiceAccounts": ["team-a/model", "model"],
            "allowedHubEndpoints": ["https://hub.example:8443/mirror"],
        }
    },
    "additional networks and devices": {
        "serving": {
            "allowedPodKeys": ["k8s.v1.cni.cncf.io/networks", "cluster-autoscaler.kubernetes.io/*"],
            "allowedDevices": ["openshift.io/mlnx_rdma", "rdma/*"],
        }
    },
    "no devices": {"serving": {"allowedDevices": []}},
    "a proxy and a certificate bundle": {
        "proxy": {
            "http": "http://proxy.example:3128",
            "https": "http://proxy.example:3128",
            "noProxy": ".corp.example",
        },
        "caBundle": {"configMap": "corporate-ca", "key": "bundle.pem"},
    },
    "traces": {"tracing": {"endpoint": "http://collector.telemetry:4318"}},
    "the API server's addresses": {"network": {"apiServerCidrs": ["10.0.0.1/32", "fd00::1/128"]}},
    "a DNS cache on each node": {"network": {"dnsCidrs": ["169.254.20.10/32"]}},
    "a gateway with many connections": {
        "network": {"connectionsPerAddress": 2000000, "connectionsExemptCidrs": ["10.2.0.0/16", "fd00:2::/32"]}
    },
    "scraped from one namespace": {
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
        }
    },
    "models scraped from one namespace": {
        "network": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
        }
    },
    "no policies, no CRDs, one replica": {
        "networkPolicy": {"enabled": False},
        "crds": {"install": False},
        "replicas": 1,
    },
    "an account of the user's own": {
        "serviceAccount": {"create": False, "name": "mine"},
        "rbac": {"create": False, "aggregate": False},
    },
    "own data classes and names": {
        "dataClasses": ["open", "closed"],
        "fullnameOverride": "inference",
        "nameOverride": "llm",
    },
    "pods of IPv6, the platform's users, a DNS of its own": {
        "fixedUserIds": False,
        "network": {
            "ipFamily": "IPv6",
            "dnsNamespace": "openshift-dns",
            "dnsPorts": [53, 5353],
            "apiServerPorts": [443, 8443, 16443],
            "apiServerCidrs": ["::/0"],
        },
        "proxy": {"https": "http://[fd00::9]:3128"},
    },
    **{f"the platform {path.stem}": yaml.safe_load(path.read_text()) for path in PLATFORMS},
    "placed": {
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "pool", "operator": "Exists"}]}]
                }
            }
        },
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"example.com/c": "d"},
        "resources": {"requests": {"cpu": "0.5", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        "logFormat": "text",
    },
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown value": ({"replica": 2}, "additional properties 'replica' not allowed"),
    "an unknown value further down": (
        {"image": {"name": "x"}},
        "at '/image': additional properties 'name' not allowed",
    ),
    "no replica": ({"replicas": 0}, "at '/replicas': minimum: got 0, want 1"),
    "replicas as words": ({"replicas": "two"}, "at '/replicas': got string, want integer"),
    "a mutable digest": ({"image": {"digest": "latest"}}, "at '/image/digest': 'latest' does not match pattern"),
    "a registry with a scheme": (
        {"registry": "https://registry.example"},
        "at '/registry': 'https://registry.example' does not match",
    ),
    "an image repository in capitals": ({"image": {"repository": "Conclave"}}, "at '/image/repository'"),
    "a pull policy that does not exist": (
        {"image": {"pullPolicy": "Sometimes"}},
        "value must be one of 'Always', 'IfNotPresent', 'Never'",
    ),
    "a namespace in capitals": (
        {"watchNamespaces": ["Team"]},
        "at '/watchNamespaces/0': 'Team' does not match pattern",
    ),
    "a namespace twice": ({"watchNamespaces": ["a", "a"]}, "at '/watchNamespaces': items at 0 and 1 are equal"),
    "a single namespace instead of a list": ({"watchNamespaces": "a"}, "at '/watchNamespaces': got string, want array"),
    "no data class": ({"dataClasses": []}, "at '/dataClasses': minItems: got 0, want 1"),
    "a data class with a space": ({"dataClasses": ["top secret"]}, "at '/dataClasses/0'"),
    "a proxy with a password": ({"proxy": {"http": "http://user:word@proxy:3128"}}, "at '/proxy/http'"),
    "a proxy with a path": ({"proxy": {"https": "http://proxy:3128/x"}}, "at '/proxy/https'"),
    "a port of DNS that is none": ({"network": {"dnsPorts": [0]}}, "at '/network/dnsPorts/0': minimum: got 0, want 1"),
    "no port of the API server": ({"network": {"apiServerPorts": []}}, "at '/network/apiServerPorts': minItems"),
    "both families at once": ({"network": {"ipFamily": "dual"}}, "must be one of 'IPv4', 'IPv6'"),
    "users by a word": ({"fixedUserIds": "no"}, "at '/fixedUserIds': got string, want boolean"),
    "a proxy without a scheme": ({"proxy": {"https": "proxy:3128"}}, "at '/proxy/https'"),
    "a collector by another protocol": ({"tracing": {"endpoint": "grpc://collector:4317"}}, "at '/tracing/endpoint'"),
    "a DNS server that is no range": ({"network": {"dnsCidrs": ["10.0.0.1"]}}, "at '/network/dnsCidrs/0'"),
    "an address that is no range": ({"network": {"apiServerCidrs": ["10.0.0.1"]}}, "at '/network/apiServerCidrs/0'"),
    "an exempt address that is no range": (
        {"network": {"connectionsExemptCidrs": ["10.0.0.1"]}},
        "at '/network/connectionsExemptCidrs/0'",
    ),
    "no connections": ({"network": {"connectionsPerAddress": 0}}, "at '/network/connectionsPerAddress'"),
    "memory in megabits": ({"resources": {"limits": {"memory": "512Mb"}}}, "at '/resources/limits/memory'"),
    "every image of a registry": (
        {"serving": {"allowedImages": ["registry.example/*"]}},
        "at '/serving/allowedImages/0': 'registry.example/*' does not match pattern",
    ),
    "every service account": (
        {"serving": {"allowedServiceAccounts": ["*"]}},
        "at '/serving/allowedServiceAccounts/0': '*' does not match pattern",
    ),
    "every key of a label": (
        {"serving": {"allowedPodKeys": ["*"]}},
        "at '/serving/allowedPodKeys/0': '*' does not match pattern",
    ),
    "every device": (
        {"serving": {"allowedDevices": ["*/*"]}},
        "at '/serving/allowedDevices/0': '*/*' does not match pattern",
    ),
    "an unknown log format": ({"logFormat": "xml"}, "at '/logFormat': value must be one of 'json', 'text'"),
    "a switch as a string": ({"crds": {"keep": "no"}}, "at '/crds/keep': got string, want boolean"),
    "a model's scraper of an unknown kind": (
        {"network": {"metricsFrom": [{"namespace": "monitoring"}]}},
        "additional properties 'namespace' not allowed",
    ),
    "an unknown kind of peer": (
        {"networkPolicy": {"metricsFrom": [{"podselector": {}}]}},
        "additional properties 'podselector' not allowed",
    ),
}


@pytest.fixture(scope="module")
def namespaces(kube: Kube) -> Iterator[None]:
    for name in (SYSTEM_NAMESPACE, "team-a", "team-b"):
        kube.ensure_namespace(name)
    yield
    for name in ("team-a", "team-b"):
        kube.delete("v1", "Namespace", name)


def test_helm_lint_has_no_complaint(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", CHART)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_api_server_takes_every_object_strictly(
    values: dict[str, Any], helm: Helm, kube: Kube, namespaces: None
) -> None:
    objects = helm.render(values)
    assert {item["kind"] for item in objects} >= {"Deployment", "ConfigMap", "Service", "Pod"}
    kube.apply(*objects, dry_run=True)


def test_an_object_with_an_unknown_field_would_be_refused(helm: Helm, kube: Kube, namespaces: None) -> None:
    deployment = _one(helm.render({}), "Deployment")
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(AssertionError, match='unknown field "replica"'):
        kube.apply(wrong, dry_run=True)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_operator_reads_the_settings_that_the_chart_writes(values: dict[str, Any], helm: Helm) -> None:
    settings = _settings(helm.render(values))
    assert list(settings.data_classes) == values.get(
        "dataClasses", ["public", "internal", "confidential", "restricted"]
    )
    assert settings.gateway_namespace == SYSTEM_NAMESPACE
    assert list(settings.image_pull_secrets) == values.get("imagePullSecrets", [])
    assert list(settings.allowed_images) == values.get("serving", {}).get("allowedImages", [])
    assert list(settings.allowed_service_accounts) == values.get("serving", {}).get("allowedServiceAccounts", [])
    hubs = values.get("serving", {}).get("allowedHubEndpoints", ["https://huggingface.co", "*"])
    assert list(settings.allowed_hub_endpoints) == hubs


def test_values_of_an_earlier_release_leave_the_lists_closed_and_the_rest_as_by_default(helm: Helm) -> None:
    """`helm upgrade --reuse-values` knows no defaults of values that are new."""
    older = {
        "serving": {"allowedImages": None, "allowedServiceAccounts": None, "allowedHubEndpoints": None},
        "fixedUserIds": None,
        "network": {"dnsPorts": None, "ipFamily": None, "apiServerPorts": None},
    }
    objects = helm.render(older)
    settings = _settings(objects)
    assert (settings.allowed_images, settings.allowed_service_accounts, settings.allowed_hub_endpoints) == ((), (), ())
    assert objects == helm.render({"serving": {"allowedHubEndpoints": []}})


def test_downloads_get_the_operators_proxy_and_certificates(helm: Helm) -> None:
    settings = _settings(helm.render(VALUES["a proxy and a certificate bundle"]))
    assert (settings.http_proxy, settings.https_proxy) == ("http://proxy.example:3128", "http://proxy.example:3128")
    assert (settings.no_proxy, settings.ca_bundle, settings.ca_bundle_key) == (
        ".corp.example",
        "corporate-ca",
        "bundle.pem",
    )


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_container_has_requests_and_limits(values: dict[str, Any], helm: Helm) -> None:
    """So that a quota admits it."""
    for pod in _pod_specs(helm.render(values)):
        for container in pod["containers"]:
            for part in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][part].keys()


def test_no_mesh_adds_a_sidecar_unless_the_values_say_so(helm: Helm) -> None:
    objects = helm.render({})
    for item in (_one(objects, "Deployment")["spec"]["template"], _one(objects, "Pod")):
        assert item["metadata"]["labels"].items() >= names.NO_MESH_LABELS.items()
        assert item["metadata"]["annotations"].items() >= names.NO_MESH_ANNOTATIONS.items()
    values = {
        "podLabels": {"sidecar.istio.io/inject": "true", "app.kubernetes.io/name": "other"},
        "podAnnotations": {"linkerd.io/inject": "enabled"},
    }
    metadata = _one(helm.render(values), "Deployment")["spec"]["template"]["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "true"
    assert metadata["annotations"]["linkerd.io/inject"] == "enabled"
    assert metadata["labels"]["app.kubernetes.io/name"] == "conclave", "the Deployment selects its pods by it"


def test_openshift_admits_pods_that_name_no_user(helm: Helm) -> None:
    assert [refusal for pod in _pod_specs(helm.render({"fixedUserIds": False})) for refusal in refusals(pod)] == []
    named = [refusal.split(" ")[1] for pod in _pod_specs(helm.render({})) for refusal in refusals(pod)]
    assert named == ["runAsUser", "fsGroup", "runAsUser"]


def test_a_list_without_hubs_forbids_hubs(helm: Helm) -> None:
    assert _settings(helm.render({"serving": {"allowedHubEndpoints": []}})).allowed_hub_endpoints == ()


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_the_schema_refuses(values: dict[str, Any], message: str, helm: Helm) -> None:
    with pytest.raises(HelmError, match="values don't meet the specifications") as refusal:
        helm.render(values)
    assert message in str(refusal.value)


def test_all_images_come_from_the_registry_that_is_named(helm: Helm) -> None:
    objects = helm.render({"registry": "registry.example/mirror", "serving": {"image": {"digest": DIGEST}}})
    images = {container["image"] for pod in _pod_specs(objects) for container in pod["containers"]}
    assert images == {f"registry.example/mirror/conclave/operator:{__version__}"}
    assert _settings(objects).image == f"registry.example/mirror/conclave/serving@{DIGEST}"


def test_a_changed_setting_replaces_the_pods(helm: Helm) -> None:
    first, second = (_one(helm.render(values), "Deployment") for values in ({}, {"dataClasses": ["open"]}))
    assert first["spec"]["template"] != second["spec"]["template"]


def test_the_proxy_is_never_asked_for_the_api_server(helm: Helm) -> None:
    values = VALUES["a proxy and a certificate bundle"]
    container = _pod_specs(helm.render(values))[0]["containers"][0]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert env["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert env["NO_PROXY"].split(",") == [
        "localhost",
        "127.0.0.1",
        "::1",
        "$(KUBERNETES_SERVICE_HOST)",
        ".svc",
        ".cluster.local",
        ".corp.example",
    ]
    assert env["REQUESTS_CA_BUNDLE"] == "/etc/conclave-ca/ca.crt"


EGRESS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "the API server of MicroK8s": ({"network": {"apiServerPorts": [443, 16443]}}, [443, 16443]),
    "its addresses too": (
        {"network": {"apiServerPorts": [443, 16443], "apiServerCidrs": ["fd00::1/128"]}},
        [443, 16443],
    ),
    "a proxy by an IPv6 address": ({"proxy": {"https": "http://[fd00::9]:3128"}}, [443, 6443, 3128]),
    "a proxy by an IPv6 address on its scheme's port": ({"proxy": {"http": "http://[fd00::9]"}}, [443, 6443, 80]),
    "a proxy on the API server's port": ({"proxy": {"http": "http://proxy.example:6443"}}, [443, 6443]),
    "only the API server": ({}, [443, 6443]),
    "a proxy": ({"proxy": {"https": "http://proxy.example:3128"}}, [443, 6443, 3128]),
    "a proxy on its scheme's port": ({"proxy": {"http": "http://proxy.example"}}, [443, 6443, 80]),
    "a collector": ({"tracing": {"endpoint": "http://collector.telemetry:4318"}}, [443, 6443, 4318]),
    "a DNS cache on each node": (VALUES["a DNS cache on each node"], [443, 6443]),
    "known addresses of the API server": ({"network": {"apiServerCidrs": ["10.0.0.1/32"]}}, [443, 6443]),
    "known addresses and a collector": (
        {"network": {"apiServerCidrs": ["10.0.0.1/32"]}, "tracing": {"endpoint": "https://collector:4318/v1"}},
        [443, 6443, 4318],
    ),
}


@pytest.mark.parametrize(("values", "ports"), EGRESS.values(), ids=EGRESS)
def test_the_network_policy_lets_out_what_is_configured(values: dict[str, Any], ports: list[int], helm: Helm) -> None:
    policy = _one(helm.render(values), "NetworkPolicy")
    dns, *rules = policy["spec"]["egress"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    servers = [peer["ipBlock"]["cidr"] for peer in dns["to"] if "ipBlock" in peer]
    assert servers == values.get("network", {}).get("dnsCidrs", [])
    assert [port["port"] for rule in rules for port in rule["ports"]] == ports
    addresses = [peer["ipBlock"]["cidr"] for rule in rules for peer in rule.get("to", [])]
    assert addresses == values.get("network", {}).get("apiServerCidrs", [])


@pytest.mark.parametrize(
    "values", [{}, VALUES["scraped from one namespace"]], ids=["from anywhere", "from one namespace"]
)
def test_helm_test_reaches_the_operator(values: dict[str, Any], helm: Helm) -> None:
    objects = helm.render(values)
    labels = _one(objects, "Pod")["metadata"]["labels"]
    peers = [peer for rule in _one(objects, "NetworkPolicy")["spec"]["ingress"] for peer in rule["from"]]
    selectors = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
    assert any(selector.items() <= labels.items() for selector in selectors)


def test_a_service_monitor_scrapes_the_metrics_port(helm: Helm) -> None:
    objects = helm.render({"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}})
    monitor, service = _one(objects, "ServiceMonitor"), _one(objects, "Service")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "30s"}]
    assert [port["name"] for port in service["spec"]["ports"]] == ["http"]


@pytest.mark.parametrize(
    ("watched", "expected"), [([], {"any": True}), (["team-a"], {"matchNames": ["team-a"]})], ids=["all", "one"]
)
def test_a_pod_monitor_scrapes_the_pods_that_the_operator_makes(
    watched: list[str], expected: dict[str, Any], helm: Helm
) -> None:
    objects = helm.render({"podMonitor": {"enabled": True}, "watchNamespaces": watched})
    spec = _one(objects, "PodMonitor")["spec"]
    assert spec["namespaceSelector"] == expected
    for template in (
        head_template(make_deployment(), SETTINGS),
        worker_template(make_deployment(), make_plan().role, SETTINGS),
    ):
        assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert set(spec["podTargetLabels"]) <= template["metadata"]["labels"].keys()
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert [ports[endpoint["port"]] for endpoint in spec["podMetricsEndpoints"]] == [names.METRICS_PORT]


def test_one_replica_has_no_disruption_budget(helm: Helm) -> None:
    assert _one(helm.render({}), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert "PodDisruptionBudget" not in {item["kind"] for item in helm.render({"replicas": 1})}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_restricted_pod_security_admits_every_pod(
    values: dict[str, Any], helm: Helm, kube: Kube, restricted: str
) -> None:
    for spec in _pod_specs(helm.render(values, namespace=restricted)):
        plain = {key: value for key, value in spec.items() if key not in ("serviceAccountName", "priorityClassName")}
        kube.apply(_pod(plain), namespace=restricted, dry_run=True)


def test_restricted_pod_security_is_enforced_there(helm: Helm, kube: Kube, restricted: str) -> None:
    spec = _pod_specs(helm.render({}, namespace=restricted))[0]
    weaker = {**spec, "securityContext": {}, "serviceAccountName": "default"}
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        kube.apply(_pod(weaker), namespace=restricted, dry_run=True)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_no_rule_has_a_wildcard_or_reads_secrets_or_widens_itself(values: dict[str, Any], helm: Helm) -> None:
    roles = [item for item in helm.render(values) if item["kind"] in ("Role", "ClusterRole")]
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
        assert "nonResourceURLs" not in rule
        if any(resource.split("/")[0] == "secrets" for resource in rule["resources"]):
            assert rule["verbs"] == ["create"]
        if "rbac.authorization.k8s.io" in rule["apiGroups"]:
            pytest.fail(f"the operator has no business with {rule}")


def test_watched_namespaces_leave_only_nodes_and_their_devices_cluster_wide(helm: Helm) -> None:
    rights = granted(helm.render({"watchNamespaces": ["team-a", "team-b"]}))
    cluster_wide = {right for right in rights if not right.namespace}
    read = (("", "nodes"), ("resource.k8s.io", "resourceslices"))
    assert cluster_wide == {Right(*kind, verb) for kind in read for verb in ("list", "watch")}
    by_namespace = {
        name: {(right.group, right.resource, right.verb) for right in rights if right.namespace == name}
        for name in ("team-a", "team-b", SYSTEM_NAMESPACE)
    }
    assert by_namespace["team-a"] == by_namespace["team-b"] != set()
    assert {resource for _, resource, _ in by_namespace[SYSTEM_NAMESPACE]} == {"leases"}


CAN: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "list models where it watches": (("list", "modeldeployments.conclave.dev"), "team-a", True),
    "list models elsewhere": (("list", "modeldeployments.conclave.dev"), "default", False),
    "make a token secret where it watches": (("create", "secrets"), "team-a", True),
    "make a secret elsewhere": (("create", "secrets"), "default", False),
    "read a secret": (("get", "secrets"), "team-a", False),
    "list secrets": (("list", "secrets"), "team-a", False),
    "change a secret": (("patch", "secrets"), "team-a", False),
    "make pods": (("create", "pods"), "team-a", False),
    "run commands in pods": (("create", "pods/exec"), "team-a", False),
    "edit the spec of a model": (("patch", "modeldeployments.conclave.dev"), "team-a", False),
    "hold its own Lease": (("update", "leases.coordination.k8s.io/conclave"), SYSTEM_NAMESPACE, True),
    "take another Lease": (("update", "leases.coordination.k8s.io/other"), SYSTEM_NAMESPACE, False),
    "see nodes": (("list", "nodes"), "", True),
    "change nodes": (("patch", "nodes"), "", False),
    "make roles": (("create", "roles.rbac.authorization.k8s.io"), "team-a", False),
}


@pytest.fixture(scope="module")
def narrow_operator(kube: Kube, helm: Helm, namespaces: None) -> Iterator[Path]:
    account = install_operator_account(kube, helm, {"watchNamespaces": ["team-a"]})
    yield account.kubeconfig
    for item in account.objects:
        metadata = item["metadata"]
        kube.delete(item["apiVersion"], item["kind"], metadata["name"], metadata.get("namespace"))


@pytest.mark.usefixtures("conclave_crds")
@pytest.mark.parametrize(("action", "where", "allowed"), CAN.values(), ids=CAN)
def test_an_operator_of_one_namespace_can(
    action: tuple[str, str], where: str, allowed: bool, kube: Kube, narrow_operator: Path
) -> None:
    verb, resource = action
    scope = ["--namespace", where] if where else []
    answer = kube.try_kubectl("auth", "can-i", verb, resource, *scope, kubeconfig=narrow_operator)
    assert answer.stdout.strip() == ("yes" if allowed else "no")


def test_every_crd_is_rendered_as_it_was_generated(helm: Helm) -> None:
    sources = [yaml.safe_load(path.read_text()) for path in sorted(FILES.glob("*.yaml"))]
    rendered = [item for item in helm.render({}) if item["kind"] == "CustomResourceDefinition"]
    assert sources
    assert [item["spec"] for item in rendered] == [item["spec"] for item in sources]
    assert all(item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for item in rendered)


@pytest.fixture
def restricted(kube: Kube, namespace: str) -> str:
    """A namespace that enforces the restricted Pod Security standard."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.patch("v1", "Namespace", namespace, {"metadata": {"labels": label}})
    return namespace


def _one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (item for item in objects if item["kind"] == kind)
    return found


def _settings(objects: list[dict[str, Any]]) -> OperatorSettings:
    return OperatorSettings.model_validate(yaml.safe_load(_one(objects, "ConfigMap")["data"]["operator.yaml"]))


def _pod_specs(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the operator and of `helm test`, in this order."""
    return [_one(objects, "Deployment")["spec"]["template"]["spec"], _one(objects, "Pod")["spec"]]


def _pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "chart"}, "spec": spec}

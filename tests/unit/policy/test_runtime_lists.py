"""What the operator's lists allow of images, accounts, devices and keys of labels, and how an entry may be spelled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.scenes import make_deployment

from conclave.api.reasons import Reason
from conclave.planning.checks import check_runtime
from conclave.policy.pod_keys import reserved_keys
from conclave.policy.runtime_lists import RuntimeLists, is_listed, matches
from conclave.settings import OperatorSettings

ONE, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "charts/conclave/values.schema.json").read_text(encoding="utf-8"))

ALLOWED = {
    "the same reference": ("registry.example/team/serving:1", "registry.example/team/serving:1"),
    "no tag, which is latest": ("registry.example/a:latest", "registry.example/a"),
    "any tag": ("registry.example/a:*", "registry.example/a:1.2-rc.1"),
    "no tag where any will do": ("registry.example/a:*", "registry.example/a"),
    "a registry with a port": ("registry.example:5000/a:*", "registry.example:5000/a:1"),
    "a registry with a port, without a tag": ("registry.example:5000/a:*", "registry.example:5000/a"),
    "the same digest": (f"registry.example/a@{ONE}", f"registry.example/a@{ONE}"),
    "the same digest under a tag, which runtimes ignore": (f"registry.example/a@{ONE}", f"registry.example/a:1@{ONE}"),
    "any digest": ("registry.example/a@sha256:*", f"registry.example/a@{ONE}"),
    "any digest under a tag": ("registry.example/a@sha256:*", f"registry.example/a:1@{ONE}"),
    "a bare name": ("serving:*", "serving:2"),
}
NOT_ALLOWED = {
    "another repository that begins alike": ("registry.example/a:*", "registry.example/a-evil:1"),
    "a repository below it": ("registry.example/a:*", "registry.example/a/evil:1"),
    "the repository's name as a tag's": ("registry.example/a:*", "registry.example/a:1/evil"),
    "a registry that begins alike": ("registry.example/a:*", "registry.example.evil/a:1"),
    "a registry that ends alike": ("registry.example/a:*", "evil.registry.example/a:1"),
    "the registry as another one's directory": ("registry.example/a:*", "evil/registry.example/a:1"),
    "another port": ("registry.example/a:*", "registry.example:5000/a:1"),
    "the host's port as a tag": ("registry.example:*", "registry.example:5000/evil"),
    "another registry": ("registry.example/a:*", "a:1"),
    "a name that a runtime may complete": ("docker.io/library/a:*", "a:1"),
    "other letters": ("registry.example/a:*", "Registry.example/a:1"),
    "another tag": ("registry.example/a:1", "registry.example/a:2"),
    "no tag, which is another one": ("registry.example/a:1", "registry.example/a"),
    "another digest": (f"registry.example/a@{ONE}", f"registry.example/a@{OTHER}"),
    "a tag where a digest is wanted": ("registry.example/a@sha256:*", "registry.example/a:1"),
    "a digest under an allowed tag, by which it is pulled": ("registry.example/a:1", f"registry.example/a:1@{ONE}"),
    "a digest where any tag will do": ("registry.example/a:*", f"registry.example/a@{ONE}"),
    "another digest under the same tag": (f"registry.example/a:1@{ONE}", f"registry.example/a:1@{OTHER}"),
    "nothing": ("registry.example/a:*", ""),
}


@pytest.mark.parametrize(("pattern", "reference"), ALLOWED.values(), ids=ALLOWED)
def test_an_entry_allows(pattern: str, reference: str) -> None:
    assert matches(pattern, reference)


@pytest.mark.parametrize(("pattern", "reference"), NOT_ALLOWED.values(), ids=NOT_ALLOWED)
def test_an_entry_does_not_allow(pattern: str, reference: str) -> None:
    assert not matches(pattern, reference)


@given(st.text(max_size=40))
def test_nothing_appended_to_a_repository_is_allowed_but_a_tag(suffix: str) -> None:
    reference = f"registry.example/a{suffix}"
    assert matches("registry.example/a:*", reference) is (
        suffix.partition("@")[2] == "" and "/" not in suffix and suffix.partition("@")[0][:1] in ("", ":")
    )


SPELLED: dict[str, tuple[str, str, bool]] = {
    "a reference": ("allowed_images", "registry.example:5000/team/a:1.0", True),
    "a reference with a digest": ("allowed_images", f"registry.example/a:1@{ONE}", True),
    "any tag": ("allowed_images", "registry.example/a:*", True),
    "any digest": ("allowed_images", "registry.example/a@sha256:*", True),
    "any repository": ("allowed_images", "registry.example/*", False),
    "any repository that begins so": ("allowed_images", "registry.example/a*", False),
    "any tag that begins so": ("allowed_images", "registry.example/a:1*", False),
    "everything": ("allowed_images", "*", False),
    "any registry": ("allowed_images", "*/a:1", False),
    "any digest of a tag": ("allowed_images", "registry.example/a:1@sha256:*", False),
    "half a digest": ("allowed_images", "registry.example/a@sha256:12", False),
    "nothing": ("allowed_images", "", False),
    "an account of every namespace": ("allowed_service_accounts", "model", True),
    "an account of one namespace": ("allowed_service_accounts", "team-a/model.v2", True),
    "every account": ("allowed_service_accounts", "*", False),
    "every account of a namespace": ("allowed_service_accounts", "team-a/*", False),
    "an account of two namespaces": ("allowed_service_accounts", "a/b/c", False),
    "the official hub": ("allowed_hub_endpoints", "https://huggingface.co", True),
    "a mirror with a port and a path": ("allowed_hub_endpoints", "http://hub.storage.svc:8080/api/mirror", True),
    "every hub": ("allowed_hub_endpoints", "*", True),
    "every hub of a domain": ("allowed_hub_endpoints", "https://*.example", False),
    "a hub with a slash at its end": ("allowed_hub_endpoints", "https://hub.example/", False),
    "a hub without a scheme": ("allowed_hub_endpoints", "hub.example", False),
    "a key": ("allowed_pod_keys", "k8s.v1.cni.cncf.io/networks", True),
    "a key without a prefix": ("allowed_pod_keys", "io.kubernetes.cri-o.Devices", True),
    "all keys of a prefix": ("allowed_pod_keys", "cluster-autoscaler.kubernetes.io/*", True),
    "all keys that begin so": ("allowed_pod_keys", "kubernetes.io/a*", False),
    "all keys below a domain": ("allowed_pod_keys", "*.kubernetes.io/*", False),
    "all keys": ("allowed_pod_keys", "*", False),
    "a device": ("allowed_devices", "openshift.io/mlnx_rdma", True),
    "all devices of a prefix": ("allowed_devices", "rdma/*", True),
    "a device without a prefix": ("allowed_devices", "hugepages-2Mi", False),
    "all devices that begin so": ("allowed_devices", "rdma/hca*", False),
    "all devices": ("allowed_devices", "*", False),
    "all devices of all prefixes": ("allowed_devices", "*/*", False),
}
DEFINITIONS = {
    "allowed_images": "imagePattern",
    "allowed_service_accounts": "accountPattern",
    "allowed_hub_endpoints": "hubEndpoint",
    "allowed_pod_keys": "podKeyPattern",
    "allowed_devices": "devicePattern",
}


@pytest.mark.parametrize(("setting", "entry", "is_valid"), SPELLED.values(), ids=SPELLED)
def test_chart_and_operator_take_the_same_entries(setting: str, entry: str, is_valid: bool) -> None:
    pattern = SCHEMA["$defs"][DEFINITIONS[setting]]["pattern"]
    assert bool(re.search(pattern, entry)) is is_valid
    try:
        OperatorSettings.model_validate({"image": "a:1", setting: [entry]})
        taken = True
    except ValidationError:
        taken = False
    assert taken is is_valid


LISTS = RuntimeLists(
    default_image="registry.example/serving:1",
    images=("registry.example/own:*",),
    service_accounts=("llm/model", "everywhere"),
)
OUTSIDE: dict[str, tuple[dict[str, str], list[tuple[Reason, str]]]] = {
    "nothing is named": ({}, []),
    "the default image": ({"image": "registry.example/serving:1"}, []),
    "a listed image and account": ({"image": "registry.example/own:7", "serviceAccountName": "model"}, []),
    "an account of every namespace": ({"serviceAccountName": "everywhere"}, []),
    "another image": (
        {"image": "registry.example/own-evil:7"},
        [
            (
                Reason.IMAGE_NOT_ALLOWED,
                'spec.runtime.image "registry.example/own-evil:7" is not one of registry.example/serving:1, '
                "registry.example/own:*: the operator creates no pods with it. Remove the field, name one of "
                "these, or add "
                "the image to the chart's value serving.allowedImages",
            )
        ],
    ),
    "another tag of the default image": (
        {"image": "registry.example/serving:2"},
        [(Reason.IMAGE_NOT_ALLOWED, 'spec.runtime.image "registry.example/serving:2" is not one of')],
    ),
    "another account": (
        {"serviceAccountName": "default"},
        [
            (
                Reason.SERVICE_ACCOUNT_NOT_ALLOWED,
                'spec.runtime.serviceAccountName "default" is not one of llm/model, everywhere: the operator '
                "creates no pods with it. Remove the field, or add llm/default to the chart's value "
                "serving.allowedServiceAccounts",
            )
        ],
    ),
    "both": (
        {"image": "evil:1", "serviceAccountName": "admin"},
        [(Reason.IMAGE_NOT_ALLOWED, "evil:1"), (Reason.SERVICE_ACCOUNT_NOT_ALLOWED, "admin")],
    ),
}


@pytest.mark.parametrize(("runtime", "found"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_spec_is_outside_of_the_lists_with(runtime: dict[str, str], found: list[tuple[Reason, str]]) -> None:
    problems = check_runtime(make_deployment({"runtime": runtime}), LISTS)
    assert [problem.reason for problem in problems] == [reason for reason, _ in found]
    for problem, (_, words) in zip(problems, found, strict=True):
        assert words in problem.message


def test_an_account_of_one_namespace_is_none_of_another() -> None:
    deployment = make_deployment({"runtime": {"serviceAccountName": "model"}}, namespace="team-b")
    assert check_runtime(deployment, LISTS)


def test_the_lists_are_closed_by_default() -> None:
    lists = OperatorSettings(image="registry.example/serving:1").runtime_lists
    assert lists.image_problem("registry.example/own:1")
    problem = lists.account_problem("llm", "model")
    assert problem is not None
    assert "is not on the operator's list, which is empty: the operator creates no pods with it" in problem


OFFICIAL, MIRROR = "https://huggingface.co", "https://hub.example"
HUBS: dict[str, tuple[tuple[str, ...] | None, dict[str, str], str]] = {
    "the official hub": (None, {}, ""),
    "the official hub with a token": (None, {"secretName": "hub"}, ""),
    "a mirror without a token": (None, {"endpoint": MIRROR}, ""),
    "a mirror with a token": (
        None,
        {"endpoint": MIRROR, "secretName": "hub"},
        f'spec.model.source.huggingFace: the hub "{MIRROR}" is not one of {OFFICIAL}, *, and * allows no Secret, whose '
        f"token this hub would see: the operator fetches nothing from there. Name another source, or add {MIRROR} to "
        "the chart's value serving.allowedHubEndpoints",
    ),
    "a listed mirror with a token": ((MIRROR,), {"endpoint": MIRROR, "secretName": "hub"}, ""),
    "the official hub beside a list of mirrors": ((MIRROR,), {}, f'the hub "{OFFICIAL}" is not one of {MIRROR}: the'),
    "any hub where hubs are forbidden": (
        (),
        {},
        f'the hub "{OFFICIAL}" is not on the operator\'s list, which is empty',
    ),
    "a hub that begins as a listed one": ((MIRROR,), {"endpoint": f"{MIRROR}.evil"}, "is not one of"),
}


@pytest.mark.parametrize(("listed", "hub", "words"), HUBS.values(), ids=HUBS)
def test_whom_the_lists_let_a_download_ask(listed: tuple[str, ...] | None, hub: dict[str, str], words: str) -> None:
    source = {"huggingFace": {"repository": "acme/tiny", "revision": "0" * 40, **hub}}
    deployment = make_deployment(
        {"model": {"source": {"persistentVolumeClaim": None, **source}, "cache": {"size": "1Gi"}}}
    )
    lists = LISTS if listed is None else LISTS.model_copy(update={"hub_endpoints": listed})
    problems = check_runtime(deployment, lists)
    assert [problem.reason for problem in problems] == ([Reason.HUB_NOT_ALLOWED] if words else [])
    assert all(words in problem.message for problem in problems)


def test_a_hub_of_an_adapter_is_named_by_its_field() -> None:
    adapter = {"name": "tone", "source": {"huggingFace": {"repository": "acme/tone", "revision": "0" * 40}}}
    deployment = make_deployment({"model": {"adapters": [adapter], "cache": {"size": "1Gi"}}})
    (problem,) = check_runtime(deployment, LISTS.model_copy(update={"hub_endpoints": ()}))
    assert problem.message.startswith("spec.model.adapters[0].source.huggingFace: the hub ")
    assert problem.path == ("spec", "model", "adapters", 0, "source", "huggingFace")


OPEN_KEYS = (
    *("example.com/team", "team", "prometheus.io/scrape", "karpenter.sh/do-not-disrupt", "kueue.x-k8s.io/queue-name"),
    *("sidecar.istio.io/inject", "istio.io/dataplane-mode", "linkerd.io/inject", "notkubernetes.io/a"),
    *("example.com/kubernetes.io", "io.kubernetes", "ad.datadoghq.com/ray.checks"),
)
RESERVED = (
    *("k8s.v1.cni.cncf.io/networks", "v1.multus-cni.io/default-network", "networking.gke.io/interfaces"),
    *(
        "k8s.ovn.org/pod-networks",
        "cni.projectcalico.org/ipAddrs",
        "ipam.spidernet.io/ippool",
        "ipam.cilium.io/ip-pool",
    ),
    *("cluster-autoscaler.kubernetes.io/safe-to-evict", "container.apparmor.security.beta.kubernetes.io/ray"),
    *("kubernetes.io/psp", "cdi.k8s.io/gpus", "nvidia.cdi.k8s.io/container.ray", "batch.kubernetes.io/job-name"),
    *("sidecar.istio.io/proxyImage", "sidecar.istio.io/userVolume", "inject.istio.io/templates", "istio.io/rev"),
    *("gke-gcsfuse/volumes", "networkservicemesh.io", "appmesh.k8s.aws/sidecarInjectorWebhook"),
    *("openservicemesh.io/sidecar-injection", "oneagent.dynatrace.com/inject", "instrumentation.newrelic.com/inject"),
    *("config.linkerd.io/proxy-image", "linkerd.io/inject2", "vault.hashicorp.com/agent-inject", "dapr.io/enabled"),
    *("instrumentation.opentelemetry.io/inject-python", "admission.datadoghq.com/python-lib.version"),
    *(
        "iam.amazonaws.com/role",
        "azure.workload.identity/use",
        "openshift.io/required-scc",
        "ulimits.nri.containerd.io/a",
    ),
    *("devices.noderesource.dev/container.ray", "irq-load-balancing.crio.io", "io.kubernetes.cri-o.Devices"),
    *("io.katacontainers.config.hypervisor.path", "org.systemd.property.x", "run.oci.handler"),
    *("conclave.dev/weights-of", "ray.io/node-type", "app.kubernetes.io/name"),
)


@pytest.mark.parametrize("key", OPEN_KEYS)
def test_a_key_that_nobody_acts_upon_needs_no_listing(key: str) -> None:
    assert LISTS.allows_pod_key(key)
    assert LISTS.pod_key_problem("podLabels", key) is None


@pytest.mark.parametrize("key", RESERVED)
def test_a_key_that_others_act_upon_is_closed_by_default(key: str) -> None:
    assert not LISTS.allows_pod_key(key)


OWN = ("conclave.dev/weights-of", "ray.io/node-type", "app.kubernetes.io/name", "x.conclave.dev/a")


@pytest.mark.parametrize("key", [key for key in RESERVED if key not in OWN])
def test_a_key_that_others_act_upon_can_be_listed(key: str) -> None:
    prefix, slash, _ = key.rpartition("/")
    for entry in (key, f"{prefix}/*") if slash else (key,):
        assert RuntimeLists(default_image="a", pod_keys=(entry,)).allows_pod_key(key)


@pytest.mark.parametrize("key", OWN)
def test_no_list_opens_a_key_by_which_pods_are_found(key: str) -> None:
    prefix = key.partition("/")[0]
    assert not RuntimeLists(default_image="a", pod_keys=(key, f"{prefix}/*")).allows_pod_key(key)


LISTED: dict[str, tuple[str, str, bool]] = {
    "the same name": ("rdma/ib", "rdma/ib", True),
    "any of the prefix": ("rdma/*", "rdma/hca_shared_devices_a", True),
    "another name": ("rdma/ib", "rdma/ib0", False),
    "a prefix that begins alike": ("rdma/*", "rdma2/ib", False),
    "a prefix below it": ("example.com/*", "a.example.com/ib", False),
    "a prefix above it": ("a.example.com/*", "example.com/ib", False),
    "the entry itself as a name": ("rdma/*", "rdma", False),
}


@pytest.mark.parametrize(("entry", "name", "is_there"), LISTED.values(), ids=LISTED)
def test_an_entry_lists(entry: str, name: str, is_there: bool) -> None:
    assert is_listed((entry,), name) is is_there


DEVICES: dict[str, tuple[str, tuple[str, ...] | None, bool]] = {
    "shared RDMA adapters, by default": ("rdma/hca_shared_devices_a", None, True),
    "other names of them": ("rdma/roce_gdr", None, True),
    "AWS's adapters, by default": ("vpc.amazonaws.com/efa", None, True),
    "what else AWS has": ("vpc.amazonaws.com/pod-eni", None, False),
    "virtual functions": ("openshift.io/mlnx_rdma", None, False),
    "virtual functions that are listed": ("openshift.io/mlnx_rdma", ("openshift.io/*",), True),
    "machines of KVM": ("devices.kubevirt.io/kvm", None, False),
    "nothing where the list is empty": ("rdma/ib", (), False),
    "GPUs, though listed": ("nvidia.com/gpu", ("nvidia.com/*",), False),
    "shared GPUs, though listed": ("nvidia.com/gpu.shared", ("nvidia.com/*",), False),
    "parts of GPUs, though listed": ("nvidia.com/mig-1g.10gb", ("nvidia.com/*",), False),
    "what Ray takes for GPUs, though listed": ("example.com/vgpu", ("example.com/*",), False),
    "a quota, though listed": ("requests.example.com/a", ("requests.example.com/*",), False),
}


@pytest.mark.parametrize(("name", "devices", "is_allowed"), DEVICES.values(), ids=DEVICES)
def test_workers_may_ask_for(name: str, devices: tuple[str, ...] | None, is_allowed: bool) -> None:
    lists = LISTS if devices is None else RuntimeLists(default_image="a", devices=devices)
    assert lists.allows_device(name) is is_allowed
    assert (lists.device_problem(name) is None) is is_allowed


def test_a_refused_key_and_device_say_what_they_do_and_where_they_are_listed() -> None:
    runtime = {
        "podAnnotations": {"k8s.v1.cni.cncf.io/networks": "storage"},
        "resources": {"worker": {"devices": {"nvidia.com/hostdev": 1}}},
    }
    key, device = check_runtime(make_deployment({"runtime": runtime}), LISTS)
    assert (key.reason, device.reason) == (Reason.POD_KEY_NOT_ALLOWED, Reason.DEVICE_NOT_ALLOWED)
    assert key.message == (
        'spec.runtime.podAnnotations has the key "k8s.v1.cni.cncf.io/networks": it attaches networks that no '
        "NetworkPolicy covers. The operator creates no pods with it. Remove the key, or add it to the chart's value "
        "serving.allowedPodKeys, or k8s.v1.cni.cncf.io/* for all keys with its prefix"
    )
    assert device.message == (
        'spec.runtime.resources.worker.devices has "nvidia.com/hostdev", which is not one of rdma/*, '
        "vpc.amazonaws.com/efa: the operator creates no pods with it. Remove it, or add it to the chart's value "
        "serving.allowedDevices"
    )


def test_the_guide_names_every_kind_of_reserved_key() -> None:
    guide = (ROOT / "docs" / "pods.md").read_text(encoding="utf-8")
    reserved = reserved_keys()
    assert [each for each in (*reserved.domains, *reserved.beginnings) if f"`{each}`" not in guide] == []


def test_the_chart_has_the_operators_own_default_of_devices() -> None:
    values = yaml.safe_load((ROOT / "charts/conclave/values.yaml").read_text(encoding="utf-8"))
    assert tuple(values["serving"]["allowedDevices"]) == OperatorSettings(image="a").allowed_devices

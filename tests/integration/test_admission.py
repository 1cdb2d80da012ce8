"""The API server itself refuses what follows from the object alone, with the messages of `conclave validate`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest
from kubernetes.client.exceptions import ApiException
from tests.integration.testbed.kube import Kube, KubectlError
from tests.integration.testbed.requests import Answer, send
from tests.manifest_table import ACCEPTED, BASE, REFUSED, Accepted, Refused, merge

from conclave.policy.admission import read_deployment
from conclave.policy.arguments import (
    Boolean,
    Choice,
    Decimal,
    Integer,
    Pattern,
    Setting,
    engine_argument_list,
    environment_list,
)

pytestmark = pytest.mark.usefixtures("conclave_crds")

API_VERSION, KIND = "conclave.dev/v1alpha1", "ModelDeployment"
PATH = "/apis/conclave.dev/v1alpha1/namespaces/default/modeldeployments"


@pytest.fixture
def name(kube: Kube) -> Any:
    """A name for a deployment of this test, which is gone after it."""
    name = f"mixtral-{uuid.uuid4().hex[:8]}"
    yield name
    kube.delete(API_VERSION, KIND, name, "default")


def _largest_value(setting: Setting) -> str:
    match setting:
        case Integer() | Decimal():
            return str(setting.maximum)
        case Choice():
            return max(setting.words, key=len)
        case Pattern():
            return setting.example
        case Boolean():
            return max(setting.words, key=len)


LABEL = "a" * 63
KEYS = [f"{LABEL}.{LABEL}.n{index:02}/{LABEL}" for index in range(16)]
TOLERATIONS = [{"key": LABEL, "operator": "Equal", "value": LABEL, "effect": "NoSchedule"}] * 16
REPOSITORY = {
    "repository": f"{'a' * 96}/{'b' * 96}",
    "revision": "0" * 40,
    "endpoint": f"https://{LABEL}.{LABEL}.{LABEL}/{'a' * 55}",
    "allowPatterns": ["a" * 128] * 32,
    "ignorePatterns": ["a" * 128] * 32,
}
LARGEST = merge(
    BASE,
    {
        "spec": {
            "model": {
                "servedName": "a" * 96,
                "source": {"persistentVolumeClaim": {"path": "a" * 512}},
                "adapters": [
                    {
                        "name": f"{index:a>96}",
                        "source": {"huggingFace": REPOSITORY},
                        "digest": f"sha256:{'0' * 64}",
                    }
                    for index in range(16)
                ],
                "cache": {"size": "100Gi"},
            },
            "engine": {
                "extraArgs": {
                    name: _largest_value(setting) for name, setting in list(engine_argument_list().allowed.items())[:32]
                },
                "env": {
                    name: _largest_value(setting) for name, setting in list(environment_list().allowed.items())[-32:]
                },
            },
            "hardware": {
                "accelerators": [LABEL] * 16,
                "nodeSelector": dict.fromkeys(KEYS, LABEL),
                "tolerations": TOLERATIONS,
            },
            "runtime": {
                "image": "a" * 512,
                "imagePullSecrets": [f"{LABEL}.{LABEL}.{LABEL}.a"] * 8,
                "podLabels": dict.fromkeys(KEYS, LABEL),
                "podAnnotations": dict.fromkeys(KEYS, "a" * 2048),
                "head": {"nodeSelector": dict.fromkeys(KEYS, LABEL), "tolerations": TOLERATIONS},
                "resources": {"worker": {"devices": dict.fromkeys(KEYS[:8], 256)}},
            },
            "access": {"regions": [LABEL] * 16, "allowedNamespaces": [LABEL] * 64},
        }
    },
)


def _apply(kube: Kube, manifest: Mapping[str, Any]) -> Answer:
    """Server-side apply as a dry run: everything is checked and nothing kept."""
    path = f"{PATH}/{quote(manifest['metadata']['name'])}?fieldManager=tests&force=true&dryRun=All"
    return send(kube, "PATCH", path, "application/apply-patch+yaml", json.dumps(manifest))


def _post(kube: Kube, manifest: Mapping[str, Any], query: str = "") -> Answer:
    return send(kube, "POST", PATH + query, "application/json", manifest)


@pytest.mark.parametrize("case", REFUSED, ids=[case.id for case in REFUSED])
def test_a_bad_manifest_is_refused_by_server_side_apply(kube: Kube, case: Refused) -> None:
    answer = _apply(kube, case.manifest)
    assert answer.status >= 400
    assert case.applied in answer.message


@pytest.mark.parametrize("case", ACCEPTED, ids=[case.id for case in ACCEPTED])
def test_a_good_manifest_is_stored_as_the_types_read_it(kube: Kube, name: str, case: Accepted) -> None:
    """The server's defaults are those of the types."""
    manifest = merge(case.manifest, {"metadata": {"name": name}})
    kube.apply(manifest, namespace="default")
    offline, _ = read_deployment(manifest)
    stored, problems = read_deployment(kube.get(API_VERSION, KIND, name, "default"))
    assert problems == ()
    assert stored is not None
    assert offline is not None
    assert stored.spec == offline.spec


def test_a_plain_post_drops_an_unknown_field_with_a_warning(kube: Kube, name: str) -> None:
    answer = _post(kube, merge(BASE, {"metadata": {"name": name}, "spec": {"replicas": 3}}))
    assert answer.status == 201
    assert "replicas" not in answer.body["spec"]
    assert 'unknown field \\"spec.replicas\\"' in answer.warning


def test_a_strict_post_refuses_an_unknown_field(kube: Kube, name: str) -> None:
    manifest = merge(BASE, {"metadata": {"name": name}, "spec": {"replicas": 3}})
    answer = _post(kube, manifest, "?fieldValidation=Strict")
    assert answer.status == 400
    assert 'unknown field "spec.replicas"' in answer.message


def test_a_plain_post_with_a_misspelt_data_class_is_refused(kube: Kube, name: str) -> None:
    """The misspelt field is dropped, so what it should have said must be required."""
    access = {"dataClass": None, "dataclass": "internal"}
    answer = _post(kube, merge(BASE, {"metadata": {"name": name}, "spec": {"access": access}}))
    assert answer.status == 422
    assert "spec.access.dataClass: Required value" in answer.message


def test_a_null_that_no_default_replaces_is_refused(kube: Kube, name: str) -> None:
    manifest = merge(BASE, {"metadata": {"name": name}})
    manifest["spec"] = {**manifest["spec"], "model": {**manifest["spec"]["model"], "licence": None}}
    assert 'spec.model.licence in body must be of type object: "null"' in _apply(kube, manifest).message


def test_scale_can_be_read_where_scaling_was_left_out_and_sets_the_floor(kube: Kube, name: str) -> None:
    kube.apply(merge(BASE, {"metadata": {"name": name}}), namespace="default")
    scale = json.loads(kube.kubectl("get", "--raw", f"{PATH}/{name}/scale"))
    assert scale["spec"]["replicas"] == 1
    kube.patch(API_VERSION, KIND, name, {"spec": {"scaling": {"maxReplicas": 4}}}, "default")
    kube.kubectl("scale", "mdl", name, "--replicas=3")
    stored = kube.get(API_VERSION, KIND, name, "default")
    assert stored is not None
    assert stored["spec"]["scaling"]["minReplicas"] == 3
    with pytest.raises(KubectlError, match="minReplicas 5 is more than maxReplicas 4"):
        kube.kubectl("scale", "mdl", name, "--replicas=5")


def test_the_largest_object_is_within_the_budget_of_the_rules(kube: Kube, name: str) -> None:
    manifest = merge(LARGEST, {"metadata": {"name": name}})
    assert read_deployment(manifest)[1] == ()
    assert _apply(kube, manifest).status == 201


@pytest.mark.parametrize("field", ["extraArgs", "env"])
@pytest.mark.parametrize("key", ["x" * 250, "--trust-remote-code="], ids=["names of nowhere", "names in disguise"])
def test_the_largest_refusal_says_what_is_allowed(kube: Kube, name: str, field: str, key: str) -> None:
    entries = {f"{key}{index}": "y" * 256 for index in range(32)}
    answer = _apply(kube, merge(LARGEST, {"metadata": {"name": name}, "spec": {"engine": {field: entries}}}))
    assert answer.status == 422
    assert f"spec.engine.{field}" in answer.message
    assert "budget" not in answer.message


def _serves(name: str | None) -> dict[str, Any]:
    return {"spec": {"model": {"servedName": name}}}


CHANGES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "to another name": (_serves("a"), [_serves("b")]),
    "from unset to a name": ({}, [_serves("b")]),
    "from a name to unset": (_serves("a"), [_serves(None)]),
    "null first and then another name": (_serves("a"), [_serves(None), _serves("b")]),
    "by a new model": (_serves("a"), [{"spec": {"model": {**BASE["spec"]["model"], "servedName": "b"}}}]),
}


@pytest.mark.parametrize(("first", "changes"), CHANGES.values(), ids=CHANGES)
def test_the_served_name_never_changes(
    kube: Kube, name: str, first: dict[str, Any], changes: list[dict[str, Any]]
) -> None:
    kube.apply(merge(merge(BASE, {"metadata": {"name": name}}), first), namespace="default")
    for change in changes:
        with pytest.raises(
            ApiException,
            match=r"spec\.model\.servedName never changes, because clients send it: it is (a|mixtral-\w+) ",
        ):
            kube.patch(API_VERSION, KIND, name, change, "default")


def test_the_served_name_may_be_spelled_out_and_left_out_again(kube: Kube, name: str) -> None:
    kube.apply(merge(BASE, {"metadata": {"name": name}}), namespace="default")
    kube.patch(API_VERSION, KIND, name, _serves(name), "default")
    kube.patch(API_VERSION, KIND, name, _serves(None), "default")


STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "PodsStarting",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-11-23T00:00:00Z",
        }
    ],
    "plan": {
        "accelerator": "NVIDIA-H100-80GB-HBM3",
        "tensor": 2,
        "pipeline": 1,
        "gpusPerReplica": 2,
        "nodesPerReplica": 1,
        "gpusPerNode": 2,
        "maxModelLen": 4096,
        "longestContextTokens": 4096,
        "kvCacheTokens": 4096,
        "maxConcurrency": 1,
        "parallelism": "TP=2",
        "memory": {
            "total": 85899345920,
            "weights": 1,
            "kvCache": 1,
            "activations": 1,
            "graphs": 1,
            "overhead": 1,
            "free": -1,
        },
    },
    "replicas": 1,
    "readyReplicas": 0,
    "selector": "conclave.dev/deployment=a",
}


def test_kubectl_shows_the_columns_under_the_short_name_and_the_category(kube: Kube, name: str) -> None:
    kube.apply(merge(BASE, {"metadata": {"name": name}}), namespace="default")
    kube.kubectl("patch", "mdl", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": STATUS}))
    heading, row = kube.kubectl("get", "mdl", name).splitlines()
    columns = ["NAME", "MODEL", "ACCELERATOR", "PARALLELISM", "WANTED", "ANSWERING", "READY", "REASON", "AGE"]
    assert heading.split() == columns
    assert row.split()[:-1] == [
        name,
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "NVIDIA-H100-80GB-HBM3",
        "TP=2",
        "1",
        "0",
        "False",
        "PodsStarting",
    ]
    assert name in kube.kubectl("get", "conclave")
    kube.kubectl("wait", "--for=condition=Ready=False", f"mdl/{name}", "--timeout=10s")
    scale = json.loads(kube.kubectl("get", "--raw", f"{PATH}/{name}/scale"))
    assert scale["status"] == {"replicas": 1, "selector": "conclave.dev/deployment=a"}


def test_status_in_a_manifest_is_dropped(kube: Kube, name: str) -> None:
    answer = _post(kube, merge(BASE, {"metadata": {"name": name}, "status": STATUS}))
    assert answer.status == 201
    assert "status" not in answer.body


def test_kubectl_explains_every_field(kube: Kube) -> None:
    explained = kube.kubectl("explain", "modeldeployment.spec", "--recursive")
    assert "dataClass" in explained
    assert "Data class of the prompts" in kube.kubectl("explain", "modeldeployment.spec.access.dataClass")

"""Objects of one tenant and requests of one caller that once ended the operator or stopped an engine for everybody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from e2e.bed.kubectl import Manifest
from e2e.bed.models import PLURAL, Model, Running, mixtral, model_deployment
from e2e.bed.site import RELEASE, RESTRICTED, SYSTEM, Site
from tests.eventually import eventually

LEASE = RELEASE
LABEL = "conclave.dev/e2e-hostile"
HOSTILE_CONFIG, BYSTANDER = "hostile-config", "bystander"
MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"
NOTICED_S = 120.0

ASK = """
import collections, json, sys, threading, urllib.error, urllib.request
given = json.load(sys.stdin)
def ask(body):
    request = urllib.request.Request(given["url"], json.dumps(body).encode(), given["headers"])
    try:
        with urllib.request.urlopen(request, timeout=given["timeout_s"]) as answer:
            answer.read()
            return str(answer.status)
    except urllib.error.HTTPError as error:
        error.read()
        return str(error.code)
    except OSError as error:
        return repr(error)
hostile, ordinary, beside = {name: collections.Counter() for name in given["hostile"]}, collections.Counter(), 0
def attack(name):
    for _ in range(given["rounds"]):
        hostile[name][ask(given["hostile"][name])] += 1
threads = [threading.Thread(target=attack, args=(name,)) for name in hostile]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    ordinary[ask(given["ordinary"])] += 1
    beside += any(thread.is_alive() for thread in threads)
print(json.dumps([hostile, ordinary, beside]))
"""
"""Sends each hostile body again and again, and ordinary ones one after the other meanwhile.

Prints the answers to both, and how many ordinary ones were answered while hostile ones were not."""

REFUSED: dict[str, dict[str, Any]] = {
    "a space in a quantifier": {"structured_outputs": {"regex": "(a{ 20000 }b{ 20000 })"}},
    "a type two hundred and fifty times": {
        "structured_outputs": {
            "json": {"type": ["object"] * 250, "properties": {f"p{n}": {"type": "string"} for n in range(50)}}
        }
    },
    "an image in a text part": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "hi", "uuid": "1", "image_url": "http://127.0.0.1:9/a.png"}],
            }
        ]
    },
}
JUDGED: dict[str, dict[str, Any]] = {
    "a reference in a reference": {
        "structured_outputs": {
            "json": {
                "$defs": {
                    str(n): {"type": "array", "prefixItems": [{"$ref": f"#/$defs/{n + 1}"}] * 8} for n in range(20)
                }
                | {"20": {"type": "string", "pattern": "^(?=a)b$"}},
                "$ref": "#/$defs/0",
            }
        }
    },
    "as dear as the limits allow": {
        "structured_outputs": {"regex": "(" + "|".join(f"[a-z]{{{n}}}x" for n in range(1, 12)) + ")"}
    },
}
"""Within the limits: whether they are answered or refused is xgrammar's to say, and no other compiler gets them."""


@pytest.fixture(scope="module")
def model(site: Site, running: Running) -> Model:
    site.checkpoint("mixtral")
    model = running.only(mixtral())
    model.wait_until_ready()
    return model


@pytest.fixture
def hostile(site: Site, model: Model) -> Iterator[list[str]]:
    """The five objects of the finding; what the API server itself refuses is named, and is no danger."""
    refused = []
    try:
        for name, manifest in hostile_objects(model).items():
            try:
                site.kubectl("create", "--validate=false", "--filename=-", stdin=json.dumps(manifest))
            except AssertionError as error:
                refused.append(f"{name}: {error}")
        yield refused
    finally:
        for kind in (PLURAL, "pods", "events", "configmaps", "controllerrevisions"):
            options = (f"--namespace={RESTRICTED}", f"--selector={LABEL}", "--ignore-not-found", "--wait=false")
            site.kubectl("delete", kind, *options)


def hostile_objects(model: Model) -> dict[str, Manifest]:
    """By what is wrong with each."""
    (cluster,) = model.site.kubectl.list("rayclusters", RESTRICTED)
    deployment = model.site.kubectl.get(PLURAL, model.name, RESTRICTED)
    assert deployment is not None
    about_cluster = {
        "apiVersion": cluster["apiVersion"],
        "kind": "RayCluster",
        "namespace": RESTRICTED,
        "name": cluster["metadata"]["name"],
        "uid": cluster["metadata"]["uid"],
    }
    owner = {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": model.name,
        "uid": deployment["metadata"]["uid"],
        "controller": True,
    }
    now = deployment["metadata"]["creationTimestamp"]
    forged = (
        f"Deleted head Pod {RESTRICTED}/x; Pod status: Failed; Pod restart policy: Never; Ray container terminated "
        f"status: &ContainerStateTerminated{{ExitCode:{'9' * 900},Signal:0,Reason:Error,Message:,"
        "StartedAt:2026-11-23 12:00:00 +0000 UTC,FinishedAt:2026-11-23 12:00:00 +0000 UTC,ContainerID:,}"
    )
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "idle",
        "image": model.site.serving_image,
        "resources": {"limits": {"nvidia.com/gpu": "1k"}},
        "securityContext": secure,
    }
    pod = {
        "schedulerName": "nobody",
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    config = model_deployment(RESTRICTED, HOSTILE_CONFIG, "acme/unknown", "mixtral")
    config["spec"]["model"]["configRef"] = {"name": HOSTILE_CONFIG}
    return {
        "a pod with a thousand GPUs, written 1k": _object("v1", "Pod", "hostile-pod", spec=pod),
        "a warning about a pod without a name": _object(
            "v1",
            "Event",
            "hostile-warning",
            involvedObject={"kind": "Pod", "namespace": RESTRICTED},
            type="Warning",
            reason="Hostile",
            lastTimestamp=now,
        ),
        "an exit code of hundreds of digits": _object(
            "v1",
            "Event",
            "hostile-exit-code",
            involvedObject=about_cluster,
            type="Normal",
            reason="DeletedHeadPod",
            message=forged,
            lastTimestamp=now,
        ),
        "brackets in a config.json": _object("v1", "ConfigMap", HOSTILE_CONFIG, data={"config.json": "[" * 5000}),
        "a model that is planned from them": {**config, "metadata": {**config["metadata"], "labels": {LABEL: "true"}}},
        "a record that is a text": _object(
            "apps/v1",
            "ControllerRevision",
            "hostile-record",
            {"conclave.dev/model-deployment": model.name},
            [owner],
            data="text",
            revision=99,
        ),
    }


def _object(
    api_version: str,
    kind: str,
    name: str,
    labels: dict[str, str] | None = None,
    owners: list[dict[str, Any]] | None = None,
    **content: Any,
) -> Manifest:
    metadata = {"name": name, "namespace": RESTRICTED, "labels": {LABEL: "true", **(labels or {})}}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {**metadata, "ownerReferences": owners or []},
        **content,
    }


def leader(site: Site) -> str:
    """The operator pod that holds the Lease; empty between two leaders."""
    lease = site.kubectl.get("lease", LEASE, SYSTEM)
    assert lease is not None
    return str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]


def test_the_operator_stays_leader_under_hostile_objects_and_serves_the_others(
    site: Site, model: Model, hostile: list[str]
) -> None:
    assert len(hostile) <= 1, hostile  # an API server may refuse a record that is no object
    leading = leader(site)
    victim = Model(site, model_deployment(RESTRICTED, HOSTILE_CONFIG, "acme/unknown", "mixtral"))
    victim.eventually_says("PlanReady", "ConfigInvalid", NOTICED_S)
    for tensor, pipeline in ((8, 1), (4, 2)):
        spec = {"parallelism": {"tensor": tensor, "pipeline": pipeline}}
        manifest = model_deployment(RESTRICTED, BYSTANDER, MIXTRAL, "mixtral", **spec)
        manifest["metadata"]["labels"] = {LABEL: "true"}
        site.kubectl.apply(manifest)
        bystander = Model(site, manifest)
        eventually(lambda b=bystander, text=f"TP={tensor}": _refused(b, text), timeout=NOTICED_S, every=1)
        assert leader(site) == leading
        # The next leader meets the same objects at its start.
        site.kubectl("delete", "pod", leading, f"--namespace={SYSTEM}")
        eventually(lambda before=leading: leader(site) not in ("", before), timeout=NOTICED_S, every=1)
        leading = leader(site)
    assert site.operator_restarts() == []
    assert model.condition("Ready")["status"] == "True"


def _refused(model: Model, text: str) -> bool:
    condition = model.condition("PlanReady")
    return condition.get("reason") == "NothingFits" and text in condition["message"]


def test_an_engine_answers_others_while_hostile_schemas_come_in(model: Model) -> None:
    (worker,) = eventually(lambda: _single(model.pods("worker")), timeout=180, every=1)
    hostile = {name: {**_chat("x"), **fields} for name, fields in (REFUSED | JUDGED).items()}
    given = {
        "url": model.status()["endpoint"]["url"] + "/chat/completions",
        "headers": {"authorization": f"Bearer {model.token()}", "content-type": "application/json"},
        "hostile": hostile,
        "ordinary": _chat("good morning"),
        "rounds": 20,
        "timeout_s": 60,
    }
    answers, ordinary, beside = json.loads(model.site.run_in_client(ASK, stdin=json.dumps(given)))
    assert {name: answers[name] for name in REFUSED} == {name: {"400": 20} for name in REFUSED}
    assert {name for name in JUDGED if set(answers[name]) - {"200", "400"}} == set(), answers
    assert set(ordinary) == {"200"}, ordinary
    assert beside > 0
    (after,) = model.pods("worker")
    assert after["metadata"]["uid"] == worker["metadata"]["uid"]
    assert [status["restartCount"] for status in after["status"]["containerStatuses"]] == [0]


def _single(pods: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """None while the worker of an evicted head still ends, which takes it up to its grace period."""
    return pods if len(pods) == 1 else None


def _chat(text: str) -> dict[str, Any]:
    return {"model": "mixtral", "messages": [{"role": "user", "content": text}], "max_tokens": 2}

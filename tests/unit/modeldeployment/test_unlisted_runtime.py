"""Images, accounts and hubs outside of the operator's lists: nothing begins with them, and nothing that runs ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.scenes import SETTINGS, make_deployment
from tests.unit.modeldeployment.test_sync import Cluster, image_of

from conclave import names
from conclave.api.reasons import Reason
from conclave.modeldeployment.decision import Decision

OWN = {"runtime": {"image": "images.test/own:1", "serviceAccountName": "model"}}
OPEN = SETTINGS.model_copy(
    update={"allowed_images": ("images.test/own:*",), "allowed_service_accounts": ("llm/model",)}
)
UNLISTED: dict[str, tuple[dict[str, Any], Reason]] = {
    "an image": ({"runtime": {"image": "images.test/own:1"}}, Reason.IMAGE_NOT_ALLOWED),
    "an account": ({"runtime": {"serviceAccountName": "model"}}, Reason.SERVICE_ACCOUNT_NOT_ALLOWED),
    "an additional network": (
        {"runtime": {"podAnnotations": {"k8s.v1.cni.cncf.io/networks": "storage"}}},
        Reason.POD_KEY_NOT_ALLOWED,
    ),
    "a device": (
        {"runtime": {"resources": {"worker": {"devices": {"nvidia.com/hostdev": 1}}}}},
        Reason.DEVICE_NOT_ALLOWED,
    ),
    "an image for a model that has to be looked at": (
        {"model": {"id": "acme/own"}, "runtime": {"image": "images.test/own:1"}},
        Reason.IMAGE_NOT_ALLOWED,
    ),
    "an image, suspended": ({"runtime": {"image": "images.test/own:1"}, "suspend": True}, Reason.IMAGE_NOT_ALLOWED),
    "an image to download with": (
        {
            "model": {
                "source": {
                    "persistentVolumeClaim": None,
                    "objectStore": {"uri": "s3://models/mixtral", "secretName": "store"},
                },
                "cache": {"size": "1Ti"},
            },
            "runtime": {"image": "images.test/own:1"},
        },
        Reason.IMAGE_NOT_ALLOWED,
    ),
}
MIRROR = {"repository": "acme/tiny", "revision": "0" * 40, "endpoint": "https://hub.example", "secretName": "hub"}
UNLISTED |= {
    "a token for a mirror": (
        {"model": {"source": {"persistentVolumeClaim": None, "huggingFace": MIRROR}, "cache": {"size": "1Ti"}}},
        Reason.HUB_NOT_ALLOWED,
    ),
    "a token for a mirror that has an adapter": (
        {"model": {"adapters": [{"name": "tone", "source": {"huggingFace": MIRROR}}], "cache": {"size": "1Ti"}}},
        Reason.HUB_NOT_ALLOWED,
    ),
    "a token for a mirror of a model that has to be looked at": (
        {
            "model": {
                "id": "acme/own",
                "source": {"persistentVolumeClaim": None, "huggingFace": MIRROR},
                "cache": {"size": "1Ti"},
            }
        },
        Reason.HUB_NOT_ALLOWED,
    ),
}
IN_PLACE: dict[str, dict[str, Any]] = {
    "more replicas": {"scaling": {"minReplicas": 2, "maxReplicas": 4}},
    "suspension": {"suspend": True},
    "another data class": {"access": {"dataClass": "public"}},
    "another caller": {"access": {"allowedNamespaces": ["chat"]}},
}


def reasons(decision: Decision) -> list[str]:
    return [found.reason for found in decision.objections]


def running() -> Cluster:
    """Begun while the lists held its image and account."""
    cluster = Cluster()
    assert cluster.reconcile(make_deployment(OWN), OPEN).objections == ()
    return cluster


@pytest.mark.parametrize(("spec", "reason"), UNLISTED.values(), ids=UNLISTED)
def test_no_pod_begins_with(spec: dict[str, Any], reason: Reason) -> None:
    cluster = Cluster()
    for _ in range(3):
        decision = cluster.reconcile(make_deployment(spec))
        assert decision.refusal is not None
        assert decision.refusal.reason == reason
        assert reasons(decision) == [reason]
        assert "chart's value serving.allowed" in decision.refusal.message
        assert decision.create == ()
        assert not {item["kind"] for item in decision.apply} & {"Job", "RayService", "ControllerRevision"}


def test_what_is_named_by_the_lists_is_built() -> None:
    cluster = running()
    assert image_of(cluster.rayservice) == "images.test/own:1"
    head = cluster.rayservice["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert head["serviceAccountName"] == "model"


def test_a_running_model_outside_of_the_lists_goes_on_and_says_so() -> None:
    cluster = running()
    decision = cluster.reconcile(make_deployment(OWN))
    assert cluster.writes == []
    assert decision.refusal is None
    assert decision.endpoint is not None
    assert reasons(decision) == [Reason.IMAGE_NOT_ALLOWED, Reason.SERVICE_ACCOUNT_NOT_ALLOWED]


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
def test_a_running_model_outside_of_the_lists_still_takes(change: dict[str, Any]) -> None:
    cluster = running()
    before = json.dumps(cluster.objects["RayService", "mixtral"])
    decision = cluster.reconcile(make_deployment(OWN | change))
    assert decision.refusal is None
    assert image_of(cluster.rayservice) == "images.test/own:1"
    assert cluster.writes
    assert cluster.reconcile(make_deployment(OWN)).refusal is None
    assert json.dumps(cluster.objects["RayService", "mixtral"]) == before


CHANGES_OF_PODS: dict[str, dict[str, Any]] = {
    "an engine argument": {"engine": {"maxModelLen": 4096}},
    "another image of no list": {"runtime": {"image": "images.test/own:2", "serviceAccountName": "model"}},
    "the listed image with the account": {"runtime": {"serviceAccountName": "model"}},
}


@pytest.mark.parametrize("change", CHANGES_OF_PODS.values(), ids=CHANGES_OF_PODS)
def test_a_change_of_its_pods_is_refused_and_what_runs_goes_on(change: dict[str, Any]) -> None:
    cluster = running()
    before = cluster.rayservice
    decision = cluster.reconcile(make_deployment(OWN | change))
    assert decision.refusal is not None
    assert decision.refusal.reason in (Reason.IMAGE_NOT_ALLOWED, Reason.SERVICE_ACCOUNT_NOT_ALLOWED)
    assert cluster.rayservice == before
    assert cluster.writes == []
    assert decision.plan is not None


def test_a_refresh_is_a_change_of_pods() -> None:
    cluster = running()
    before = cluster.rayservice
    decision = cluster.reconcile(make_deployment(OWN, annotations={names.REFRESH: "1"}))
    assert decision.refusal is not None
    assert cluster.rayservice == before


def test_what_it_is_edited_to_inside_of_the_lists_is_rolled_out() -> None:
    cluster = running()
    decision = cluster.reconcile(make_deployment())
    assert (decision.refusal, decision.objections) == (None, ())
    assert image_of(cluster.rayservice) == SETTINGS.image


def test_drift_is_repaired_although_the_lists_have_closed() -> None:
    cluster = running()
    good = json.dumps(cluster.rayservice)
    cluster.rayservice["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-gpus"] = "4"
    cluster.reconcile(make_deployment(OWN))
    assert json.dumps(cluster.rayservice) == good


def test_a_rayservice_that_somebody_deleted_begins_anew_and_is_held_to_the_lists() -> None:
    cluster = running()
    del cluster.objects["RayService", "mixtral"]
    decision = cluster.reconcile(make_deployment(OWN))
    assert decision.refusal is not None
    assert decision.refusal.reason == Reason.IMAGE_NOT_ALLOWED
    assert ("RayService", "mixtral") not in cluster.objects
    cluster.reconcile(make_deployment(OWN), OPEN)
    assert image_of(cluster.rayservice) == "images.test/own:1"

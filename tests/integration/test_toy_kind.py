"""A kind that is not shipped, beside ModelDeployments under one operator on the real API server: one record more."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.eventually import eventually
from tests.integration.testbed.helm import OperatorAccount
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.operator import Operator, model_deployment
from tests.toy_kind import GREETING, crd, greeting

Json = dict[str, Any]
API, KIND = GREETING.api_version, GREETING.kind
RESYNC_S = 3


@pytest.fixture(scope="module")
def toys(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("toys") / "crd.json"
    file.write_text(json.dumps(crd()))
    kube.install_crds(file)


@pytest.fixture
def toy_operator(
    kube: Kube, toys: None, conclave_crds: None, operator_account: OperatorAccount, namespace: str
) -> Iterator[Operator]:
    """As the administrator: the chart's role knows no Greetings."""
    account = operator_account._replace(kubeconfig=kube.kubeconfig)
    operator = Operator(kube, account, "toy-operator", [sys.executable, "-m", "tests.toy_kind"])
    operator.ensure(f"--resync-seconds={RESYNC_S}", f"--namespace={namespace}")
    yield operator
    operator.stop()


def test_it_is_created_edited_repaired_told_of_and_deleted(kube: Kube, namespace: str, toy_operator: Operator) -> None:
    def words() -> str | None:
        found = kube.get("v1", "ConfigMap", "hello", namespace)
        text: str | None = found and found["data"]["words"]
        return text

    def status() -> Json:
        found: Json = (kube.get(API, KIND, "hello", namespace) or {}).get("status") or {}
        return found

    def reasons_told() -> set[str]:
        events = kube.list("v1", "Event", namespace)
        return {event["reason"] for event in events if event["involvedObject"]["kind"] == KIND}

    kube.create(model_deployment("model"), namespace)
    kube.create(greeting("hello", "good day"), namespace)
    eventually(lambda: words() == "good day")
    eventually(lambda: status().get("count") == 1)
    eventually(lambda: reasons_told() == {"AsWanted"})  # an event follows its status

    kube.patch(API, KIND, "hello", {"spec": {"words": "good night"}}, namespace)
    eventually(lambda: words() == "good night")
    eventually(lambda: status().get("observedGeneration") == 2)

    kube.patch("v1", "ConfigMap", "hello", {"data": {"words": "boo"}}, namespace)
    eventually(lambda: words() == "good night")

    kube.patch(API, KIND, "hello", {"spec": {"words": "much too many words for this"}}, namespace)
    eventually(lambda: status()["conditions"][0]["reason"] == "InvalidSpec")
    assert words() == "good night"
    kube.patch(API, KIND, "hello", {"spec": {"words": "bye"}}, namespace)
    eventually(lambda: words() == "bye")

    unchanged = toy_operator.metric("conclave_unchanged_total")
    eventually(lambda: toy_operator.metric("conclave_unchanged_total") > unchanged)  # by a resync

    assert kube.get("conclave.dev/v1alpha1", "ModelDeployment", "model", namespace)["status"]["conditions"]  # type: ignore[index]
    assert toy_operator.metric("conclave_model_deployments") == 2
    kube.delete(API, KIND, "hello", namespace)
    eventually(lambda: toy_operator.metric("conclave_model_deployments") == 1)
    assert toy_operator.stop() == 0

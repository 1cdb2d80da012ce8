"""`conclave status` and `conclave explain` against a real API server, as a user with a kubeconfig runs them."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.operator import CONCLAVE, model_deployment

from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.failures import ApiFailure, Outcome
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import KubeRay, Observed
from conclave.modeldeployment.status import derive_status


def derived_status(manifest: dict[str, Any], namespace: str) -> dict[str, Any]:
    """What an operator reports that may not write RayServices."""
    metadata = {**manifest["metadata"], "namespace": namespace, "generation": 1}
    deployment = ModelDeployment.model_validate({**manifest, "metadata": metadata})
    observed = Observed(kuberay=KubeRay(installed=True), claims={"weights": "Bound"})
    denied = ApiFailure(
        verb="patch",
        group="ray.io",
        resource="rayservices",
        namespace=namespace,
        name="mixtral",
        code=403,
        reason="Forbidden",
        message="not granted",
    )
    return derive_status(deployment, observed, Decision(), Outcome(failures=(denied,)), datetime.now(UTC)).to_wire()


def conclave(*arguments: str, kubeconfig: Path | str) -> subprocess.CompletedProcess[str]:
    command = [*CONCLAVE, *arguments, f"--kubeconfig={kubeconfig}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={"COLUMNS": "200"})


@pytest.fixture
def deployed(kube: Kube, conclave_crds: None, namespace: str) -> str:
    """Two ModelDeployments without an operator; one has a status."""
    mixtral = model_deployment("mixtral")
    kube.apply(mixtral, model_deployment("other"), namespace=namespace)
    status = {"status": derived_status(mixtral, namespace)}
    arguments = ["patch", "mdl", "mixtral", "-n", namespace, "--subresource=status", "--type=merge"]
    kube.kubectl(*arguments, "-p", json.dumps(status))
    return namespace


def test_status_lists_and_shows(kube: Kube, deployed: str) -> None:
    listed = conclave("status", "-n", deployed, kubeconfig=kube.kubeconfig)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines()[0].split() == [
        *("Name", "Model", "Accelerator", "Parallelism", "Replicas", "Ready", "Reason", "Age")
    ]
    assert "Forbidden" in listed.stdout
    assert "other" in listed.stdout
    everywhere = conclave("status", "-A", "-o", "json", kubeconfig=kube.kubeconfig)
    names = {item["metadata"]["namespace"] for item in json.loads(everywhere.stdout)["items"]}
    assert deployed in names
    one = conclave("status", "mixtral", "-n", deployed, kubeconfig=kube.kubeconfig)
    assert "patch rayservices.ray.io" in one.stdout
    assert f"conclave explain mixtral -n {deployed}" in one.stdout


def test_explain_looks_for_itself_and_says_what_only_the_operator_knows(kube: Kube, deployed: str) -> None:
    told = conclave("explain", "mixtral", "-n", deployed, kubeconfig=kube.kubeconfig)
    assert told.returncode == 0, told.stderr
    assert "is not ready: Forbidden" in told.stdout
    assert "the operator reports: Forbidden" in told.stdout
    assert "forbids the operator to patch rayservices.ray.io: not granted; grant the verb patch" in told.stdout
    answer = json.loads(conclave("explain", "other", "-n", deployed, "-o", "json", kubeconfig=kube.kubeconfig).stdout)
    causes = {cause["reason"]: cause for cause in answer["causes"]}
    assert causes["ClaimMissing"]["remedy"]
    unwatched = conclave("explain", "other", "-n", deployed, kubeconfig=kube.kubeconfig).stdout
    assert "the operator has not handled the last change yet" in unwatched
    assert f"PersistentVolumeClaim {deployed}/weights" in unwatched


def test_what_the_user_may_not_read_is_named_and_is_no_cause(kube: Kube, deployed: str) -> None:
    user = "explainer"
    create = ("create", "--namespace", deployed)
    kube.kubectl(*create, "role", user, "--verb=get,list", "--resource=modeldeployments.conclave.dev")
    kube.kubectl(*create, "rolebinding", user, f"--role={user}", f"--user={user}")
    told = conclave("explain", "mixtral", "-n", deployed, kubeconfig=kube.user_kubeconfig(user))
    assert told.returncode == 0, told.stderr
    assert "not checked: nodes" in told.stdout
    assert "not checked: pods" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "absent", "-n", "NAMESPACE"), "/absent: not found in"),
        (("explain", "absent", "-n", "NAMESPACE"), "conclave status -A"),
        (("status", "x", "-A"), "--all-namespaces with the name x: give --namespace"),
    ],
    ids=["no such deployment", "nothing to explain", "a name and all namespaces"],
)
def test_mistakes_are_named(kube: Kube, deployed: str, arguments: tuple[str, ...], said: str) -> None:
    done = conclave(*(word.replace("NAMESPACE", deployed) for word in arguments), kubeconfig=kube.kubeconfig)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_cluster_the_remedy_is_told(tmp_path: Path) -> None:
    absent = conclave("status", kubeconfig=tmp_path / "absent")
    assert (absent.returncode, "Traceback" in absent.stderr) == (3, False)
    assert "does not exist" in absent.stderr
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "gone", "cluster": {"server": "https://127.0.0.1:9"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "gone", "context": {"cluster": "gone", "user": "me"}}],
        "current-context": "gone",
    }
    path = tmp_path / "gone"
    path.write_text(json.dumps(config))
    gone = conclave("explain", "x", kubeconfig=path)
    assert (gone.returncode, "Traceback" in gone.stderr) == (3, False)
    assert "https://127.0.0.1:9: no answer" in gone.stderr

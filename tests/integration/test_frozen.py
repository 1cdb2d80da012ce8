"""Nothing that runs is rolled: a real API server as a released version left it, the operator of today, and back again.

KubeRay does not run, so that pods and statuses stay as they were reported then; nothing but the operator writes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from tests.eventually import eventually
from tests.frozen import APPLIED, Frozen, Json, names, read
from tests.integration.testbed.helm import Helm, OperatorAccount, install_operator_account
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.kuberay import KubeRay
from tests.integration.testbed.operator import API, KIND, Operator, claim, volume_for
from tools.freeze.scenarios import CHART_VALUES, CLAIMS, NODES, SERVICE_ACCOUNT
from tools.released import environment, released, version_before

from conclave import __version__
from conclave.kubernetes.objects import content_hash
from conclave.names import (
    CLAIM_UID,
    FIELD_MANAGER,
    MODEL_DEPLOYMENT,
    RAY_NODE_TYPE,
    RECORD_VERSION,
    revision,
    token_secret,
    weights_job,
)

BEFORE = version_before(__version__)
NAMESPACE = "llm"
QUIET_S = 4.0
EDITED = "edited"
FAILING_JOBS = ("download-refused",)
"""Each version makes these anew with its own image: nothing of them runs."""
UNEDITED = [name for name in names(BEFORE) if name not in (EDITED, *FAILING_JOBS)]
FILLED_IN = {
    "completionMode": "NonIndexed",
    "completions": 1,
    "dnsPolicy": "ClusterFirst",
    "manualSelector": False,
    "parallelism": 1,
    "schedulerName": "default-scheduler",
    "suspend": False,
    "terminationGracePeriodSeconds": 30,
}
REPORTED = ("ModelDeployment", "Pod", "RayCluster", "RayService")
"""Kinds whose status is put back; that of Jobs and claims comes from Kubernetes' own controllers, which run."""
Write = tuple[str, str, str]


class Restored(NamedTuple):
    """The namespace as the version before left it, and whoever works in it."""

    kube: Kube
    user: str
    """The operators': the account of the chart, whose name is the same in both versions."""
    run: Callable[..., Operator]
    """`run(version)` starts the operator of that version, waits until it has nothing to write, and gives it back."""

    def status(self, name: str) -> Json:
        found = self.kube.get(API, KIND, name, NAMESPACE)
        assert found is not None
        status: Json = found["status"]
        return status

    def condition(self, name: str, kind: str) -> Json:
        return next(condition for condition in self.status(name)["conditions"] if condition["type"] == kind)


class Writes:
    """What operators have written since this was made: verb, resource and name; Leases and events excepted."""

    def __init__(self, kube: Kube, user: str) -> None:
        self._kube, self._user, self._mark = kube, user, kube.audit.mark()

    def __call__(self) -> list[Write]:
        requests = self._kube.audit.requests(user=self._user, since=self._mark, mutating=True)
        kinds = ("leases", "events")
        return [(one.verb, one.resource, one.name) for one in requests if one.resource not in kinds]

    def beside_status(self, about: list[str]) -> list[Write]:
        """Of these deployments; names of what belongs to one begin with its own."""
        return [
            (verb, resource, name)
            for verb, resource, name in self()
            if resource != "modeldeployments/status" and name.startswith(tuple(about))
        ]


def heads_first(objects: Sequence[Json]) -> list[Json]:
    """Among the pods: a worker that is older than its head counts as one that went down with the head before."""
    pods = [item for item in objects if item["kind"] == "Pod"]
    ranked = iter(sorted(pods, key=lambda pod: pod["metadata"].get("labels", {}).get(RAY_NODE_TYPE) != "head"))
    return [next(ranked) if item["kind"] == "Pod" else item for item in objects]


def put(kube: Kube, frozen: Frozen) -> None:
    """Made anew on this server. What names another object by its UID then names the new one."""
    exchanged: dict[str, str] = {}
    for item in heads_first(frozen.objects):
        text = json.dumps(item)
        for old, new in exchanged.items():
            text = text.replace(old, new)
        wanted: Json = json.loads(text)
        uid, status = wanted["metadata"].pop("uid"), wanted.pop("status", {})
        live = _made(kube, wanted, status)
        exchanged |= {uid: live["metadata"]["uid"], item["metadata"]["name"]: live["metadata"]["name"]}
        if item is frozen.parent:
            exchanged[token_secret(frozen.name, uid)] = token_secret(frozen.name, live["metadata"]["uid"])
        if status and wanted["kind"] in REPORTED:
            told = json.dumps({"status": status})
            where = (wanted["kind"], live["metadata"]["name"], "-n", NAMESPACE)
            kube.kubectl("patch", *where, "--subresource=status", "--type=merge", "-p", told)


def _made(kube: Kube, wanted: Json, status: Json) -> Json:
    kind, name = wanted["kind"], wanted["metadata"]["name"]
    if kind == "ControllerRevision":
        wanted["metadata"]["name"] = name = revision(_owner(wanted)["name"], content_hash(wanted["data"]))
    if CLAIM_UID in wanted["metadata"].get("annotations", {}):
        content = [_as_built(wanted["spec"]), wanted["metadata"]["annotations"][CLAIM_UID]]
        wanted["metadata"]["name"] = name = weights_job(_owner(wanted)["name"], content_hash(content))
    if kind == "Pod" and _owner(wanted)["kind"] == "Job":
        return _pod_of_job(kube, _owner(wanted)["name"])
    if kind == "Pod":  # KubeRay had made one for the head
        account = {"name": wanted["spec"].get("serviceAccountName", "default")}
        kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}, namespace=NAMESPACE)
    if kind == "PersistentVolumeClaim" and status.get("phase") == "Bound":
        volume = volume_for(name, NAMESPACE)
        spec = {key: wanted["spec"][key] for key in ("accessModes", "storageClassName")}
        kube.apply({**volume, "spec": volume["spec"] | spec})
    if kind not in APPLIED:
        return kube.create(wanted, NAMESPACE)
    kube.apply(wanted, namespace=NAMESPACE, manager=FIELD_MANAGER)
    live = kube.get(wanted["apiVersion"], kind, name, NAMESPACE)
    assert live is not None
    return live


def _as_built(value: Any) -> Any:
    """Of a Job, without what the API server filled in: the name of a Job that downloads is made of the rest."""
    if isinstance(value, dict):
        return {key: _as_built(below) for key, below in value.items() if FILLED_IN.get(key) != below}
    return [_as_built(item) for item in value] if isinstance(value, list) else value


def _owner(item: Json) -> Json:
    (owner,) = item["metadata"]["ownerReferences"]
    found: Json = owner
    return found


def _pod_of_job(kube: Kube, job: str) -> Json:
    """The Job controller makes it; the test reports what its predecessor reported."""
    (pod,) = eventually(lambda: kube.list("v1", "Pod", NAMESPACE, label_selector=f"job-name={job}"), timeout=60)
    return pod


@pytest.fixture(scope="module")
def accounts(kube: Kube, helm: Helm) -> Callable[[str], OperatorAccount]:
    """Rights and settings as the chart of a version installs them."""

    def install(version: str) -> OperatorAccount:
        chart = helm if version == __version__ else Helm(kube, released(version) / "charts" / "conclave")
        return install_operator_account(kube, chart, CHART_VALUES)

    return install


@pytest.fixture
def restored(
    kube: Kube,
    kuberay: KubeRay,
    conclave_crds: None,
    fake_gpu_node: Callable[..., str],
    accounts: Callable[[str], OperatorAccount],
) -> Iterator[Restored]:
    kuberay.stop()
    kube.ensure_namespace(NAMESPACE)
    for node in NODES:
        fake_gpu_node(*node)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": SERVICE_ACCOUNT}}
    kube.apply(account, *map(claim, CLAIMS), namespace=NAMESPACE)
    kube.apply(*(volume_for(name, NAMESPACE) for name in CLAIMS))
    for name in names(BEFORE):
        put(kube, read(BEFORE, name))
    running: list[Operator] = []
    user = accounts(__version__).user

    def run(version: str) -> Operator:
        """The one that ran before has ended first."""
        while running:
            running.pop().stop(grace_s=20)
        program = () if version == __version__ else ([sys.executable, "-m", "conclave_cli.main"],)
        operator = Operator(kube, accounts(version), f"operator-{version}", *program)
        operator.start("--resync-seconds=5", env={} if version == __version__ else environment(released(version)))
        running.append(operator)
        operator.leads()
        eventually(lambda: operator.metric("conclave_reconciles_total") >= 2 * len(names(BEFORE)), timeout=60)
        settle(kube, user)
        return operator

    yield Restored(kube, user, run)
    for operator in running:
        operator.stop()
    kube.kubectl("delete", "modeldeployments", "--all", "--namespace", NAMESPACE, "--wait=false")
    kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    kube.kubectl("delete", "persistentvolume", "--all", "--wait=false")


def settle(kube: Kube, who: str) -> None:
    def is_quiet() -> bool:
        writes = Writes(kube, who)
        time.sleep(QUIET_S)
        return not writes()

    eventually(is_quiet, timeout=120)


def uids(kube: Kube, kind: str) -> dict[str, Any]:
    api = {"Pod": "v1", "RayCluster": "ray.io/v1", "RayService": "ray.io/v1"}[kind]
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in kube.list(api, kind, NAMESPACE)}


def test_an_upgrade_and_a_rollback_write_nothing_but_status(restored: Restored) -> None:
    kube = restored.kube
    pods = {name: uid for name, uid in uids(kube, "Pod").items() if not name.startswith(FAILING_JOBS)}
    upgrade = Writes(kube, restored.user)
    restored.run(__version__)
    assert upgrade.beside_status([*UNEDITED, EDITED]) == []
    assert {resource for _, resource, _ in upgrade()} <= {"modeldeployments/status", "jobs"}
    for name in names(BEFORE):
        assert restored.status(name)["observedGeneration"] == 1, name
    assert pods.items() <= uids(kube, "Pod").items()

    kube.patch(API, KIND, EDITED, {"spec": {"engine": {"maxModelLen": 4096}}}, NAMESPACE)
    eventually(lambda: restored.status(EDITED)["observedGeneration"] == 2)
    settle(kube, restored.user)
    assert upgrade.beside_status(UNEDITED) == []
    assert {resource for _, resource, _ in upgrade.beside_status([EDITED])} == {"controllerrevisions", "rayservices"}

    rollback = Writes(kube, restored.user)
    restored.run(BEFORE)
    assert rollback.beside_status(UNEDITED) == []
    assert pods.items() <= uids(kube, "Pod").items()
    told = restored.condition(EDITED, "PlanReady")
    assert (told["status"], told["reason"], told["observedGeneration"]) == ("False", "RecordTooNew", 2)
    assert "rayservices" not in {resource for _, resource, _ in rollback.beside_status([EDITED])}

    again = Writes(kube, restored.user)
    restored.run(__version__)
    assert again.beside_status([*UNEDITED, EDITED]) == []
    a_newer_record_stops_one_model_until_it_is_gone(restored)


def a_newer_record_stops_one_model_until_it_is_gone(restored: Restored) -> None:
    """Part of the test above, since it takes a minute until everything stands as it stood."""
    kube, (newest,) = restored.kube, read(BEFORE, "dense").of("ControllerRevision")
    label = f"{MODEL_DEPLOYMENT}=dense"
    (record,) = kube.list("apps/v1", "ControllerRevision", NAMESPACE, label_selector=label)
    annotations = newest["metadata"]["annotations"]
    assert (record["revision"], record["metadata"]["annotations"]) == (newest["revision"], annotations)

    def declare(version: str | None) -> None:
        annotation = {"metadata": {"annotations": {RECORD_VERSION: version}}}
        kube.patch("apps/v1", "ControllerRevision", record["metadata"]["name"], annotation, NAMESPACE)

    declare("99.0.0")
    eventually(lambda: restored.condition("dense", "PlanReady")["reason"] == "RecordTooNew")
    told = restored.condition("dense", "Ready")
    assert (told["status"], "Conclave 99.0.0" in told["message"], __version__ in told["message"]) == (
        "Unknown",
        True,
        True,
    )
    assert restored.condition("dense", "Serving")["status"] == "True", "as it was said before"
    stopped = Writes(kube, restored.user)
    kube.patch(API, KIND, "dense", {"spec": {"engine": {"maxModelLen": 2048}}}, NAMESPACE)
    eventually(lambda: restored.status("dense")["observedGeneration"] == 2)
    settle(kube, restored.user)
    assert stopped.beside_status(["dense"]) == []
    declare(annotations[RECORD_VERSION])
    eventually(lambda: restored.condition("dense", "PlanReady")["reason"] == "Planned")
    eventually(lambda: "rayservices" in {resource for _, resource, _ in stopped.beside_status(["dense"])})

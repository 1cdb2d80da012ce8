"""Freezes what a released version writes to a real API server: `python -m tools.freeze 0.1.0` fills tests/data/0.1.0.

Runs the operator of that version, with the CRD, rights and settings of its chart, on the control plane of the
integration tests with KubeRay; pods report what the version's own programs say. docs/adr/0020 has the rest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from tests.eventually import eventually
from tests.integration.testbed.control_plane import ControlPlane
from tests.integration.testbed.helm import Helm, install_operator_account
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.kuberay import KubeRay
from tests.integration.testbed.nodes import create_gpu_node
from tests.integration.testbed.operator import API, KIND, Operator, claim, patch_pod_status, volume_for
from tests.integration.testbed.world import RAY, filled
from tools.freeze import kubelet
from tools.freeze.kept import as_stood, as_written
from tools.freeze.reports import Reports, make_reports
from tools.freeze.scenarios import CHART_VALUES, CLAIMS, NODES, SERVICE_ACCOUNT, Scenario, scenarios
from tools.released import REPOSITORY, environment, released, versions

Json = dict[str, Any]
NAMESPACE = "llm"
QUIET_S = 4.0
LABEL = "conclave.dev/model-deployment"
JOB_PODS = ("conclave.dev/weights-of", "conclave.dev/inspection-of")


class Bed:
    """A namespace under the operator of a released version."""

    def __init__(self, kube: Kube, kuberay: KubeRay, user: str, reports: Reports) -> None:
        self.kube, self.kuberay, self.user, self.reports = kube, kuberay, user, reports

    def run(self, wanted: dict[str, Scenario]) -> None:
        """Until each deployment is in the state that its scenario names."""
        manifests = [deployment(name, scenario) for name, scenario in wanted.items()]
        self.kube.apply(*manifests, namespace=NAMESPACE)
        for name, scenario in wanted.items():
            if scenario.job:
                self._end_job(name, scenario.job)
        served = {name: scenario for name, scenario in wanted.items() if scenario.pods}
        for name in served:
            eventually(lambda name=name: self.model_pods(name), timeout=90)
        for number in range(max(len(scenario.edits) for scenario in served.values())):
            self.settle()
            for name, scenario in served.items():
                for edit in scenario.edits[number : number + 1]:
                    self.kube.patch(API, KIND, name, edit, NAMESPACE)
        self.settle()
        eventually(lambda: all(self._is_populated(name, scenario) for name, scenario in served.items()), timeout=120)
        self.settle()
        self.kuberay.stop()
        for name, scenario in served.items():
            self._report(name, scenario.pods)
        self.settle()

    def settle(self) -> None:
        """Until the operator has had nothing to write for a while."""

        def is_quiet() -> bool:
            mark = self.kube.audit.mark()
            time.sleep(QUIET_S)
            requests = self.kube.audit.requests(user=self.user, since=mark, mutating=True)
            return not [request for request in requests if request.resource != "leases"]

        eventually(is_quiet, timeout=120)

    def model_pods(self, name: str) -> list[Json]:
        """Those that stay; those that are told to go have no kubelet that would end them."""
        found = self.kube.list("v1", "Pod", NAMESPACE, label_selector=f"{LABEL}={name}")
        for pod in found:
            if "deletionTimestamp" in pod["metadata"]:
                where = ("pod", pod["metadata"]["name"], "-n", NAMESPACE)
                self.kube.kubectl("delete", *where, "--force", "--grace-period=0", "--ignore-not-found")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def job_pods(self, name: str) -> list[Json]:
        return [
            pod
            for label in JOB_PODS
            for pod in self.kube.list("v1", "Pod", NAMESPACE, label_selector=f"{label}={name}")
        ]

    def _end_job(self, name: str, state: str) -> None:
        (pod,) = eventually(lambda: self.job_pods(name), timeout=60)
        patch_pod_status(self.kube, NAMESPACE, pod["metadata"]["name"], kubelet.job_pod(pod, state, self.reports))

    def _is_populated(self, name: str, scenario: Scenario) -> bool:
        if scenario.pods == "gone":
            return not self.model_pods(name)
        plan = self.kube.get(API, KIND, name, NAMESPACE)["status"]["plan"]  # type: ignore[index]
        return len(self.model_pods(name)) == 1 + plan["nodesPerReplica"]

    def _report(self, name: str, state: str) -> None:
        pods = self.model_pods(name)
        for pod in pods:
            patch_pod_status(self.kube, NAMESPACE, pod["metadata"]["name"], kubelet.model_pod(pod, state, self.reports))
        if state == "serving":
            rayservice = self.kube.get(RAY, "RayService", name, NAMESPACE)
            assert rayservice is not None
            status = kubelet.serving_rayservice(rayservice, pods[0]["metadata"]["labels"]["ray.io/cluster"])
            patch = ("-p", json.dumps({"status": status}))
            self.kube.kubectl(
                "patch", "rayservice", name, "-n", NAMESPACE, "--subresource=status", "--type=merge", *patch
            )

    def frozen(self, name: str) -> list[Json]:
        """Everything of one deployment, owners first."""

        def listed(api: str, kind: str) -> list[Json]:
            found = self.kube.list(api, kind, NAMESPACE, label_selector=f"{LABEL}={name}")
            named = [{"apiVersion": api, "kind": kind} | item for item in found]
            return sorted(named, key=lambda item: (item.get("revision", 0), item["metadata"]["name"]))

        revisions = [as_written(item) for item in listed("apps/v1", "ControllerRevision")]
        rayservices = [applied(live, revisions[-1]) for live in listed(RAY, "RayService")]
        uids = {item["metadata"]["uid"] for item in rayservices}
        clusters = [
            as_stood({key: value for key, value in item.items() if key != "spec"})
            for item in self.kube.list(RAY, "RayCluster", NAMESPACE)
            if {owner["uid"] for owner in item["metadata"].get("ownerReferences", [])} & uids
        ]
        parent = self.kube.get(API, KIND, name, NAMESPACE)
        assert parent is not None
        return [
            as_stood(parent),
            *revisions,
            *(as_written(item) for item in listed("networking.k8s.io/v1", "NetworkPolicy")),
            *(as_written(item) for item in listed("v1", "PersistentVolumeClaim")),
            *(as_written(item) for item in listed("batch/v1", "Job")),
            *rayservices,
            *clusters,
            *(as_stood(pod) for pod in (*self.job_pods(name), *self.model_pods(name))),
        ]


def applied(live: Json, revision: Json) -> Json:
    """The RayService as the operator applied it: as its record says. KubeRay has only added empty fields."""
    recorded: Json = revision["data"]["rayservice"]
    assert filled(live["spec"]) == filled(recorded["spec"]), live["metadata"]["name"]
    metadata = recorded["metadata"] | {"uid": live["metadata"]["uid"]}
    return as_stood({**recorded, "metadata": metadata, "status": live.get("status", {})})


def deployment(name: str, scenario: Scenario) -> Json:
    return {"apiVersion": API, "kind": KIND, "metadata": {"name": name}, "spec": scenario.spec}


def freeze(version: str) -> Path:
    """Writes tests/data/VERSION anew."""
    tree = released(version)
    target = REPOSITORY / "tests" / "data" / version
    scratch = Path(tempfile.mkdtemp(prefix="conclave-freeze-"))
    try:
        with ControlPlane(scratch) as control_plane:
            kube = Kube(control_plane)
            reports = make_reports(tree, scratch, int(control_plane.url.rpartition(":")[2]))
            kuberay = KubeRay(kube)
            kuberay.ensure()
            kube.install_crds(*(tree / "charts" / "conclave" / "files" / "crds").glob("*.yaml"))
            account = install_operator_account(kube, Helm(kube, tree / "charts" / "conclave"), CHART_VALUES)
            operator = Operator(kube, account, program=[sys.executable, "-m", "conclave_cli.main"])
            kube.ensure_namespace(NAMESPACE)
            for node in NODES:
                create_gpu_node(kube, *node)
            kube.apply(*surroundings(), namespace=NAMESPACE)
            kube.apply(*(volume_for(name, NAMESPACE) for name in CLAIMS), cache_volume("downloaded"))
            bed = Bed(kube, kuberay, account.user, reports)
            try:
                operator.start("--resync-seconds=5", env=environment(tree))
                operator.leads()
                wanted = scenarios(reports)
                bed.run(wanted)
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                (target / "operator.yaml").write_text(account.settings.read_text(encoding="utf-8"), encoding="utf-8")
                for name in wanted:
                    (target / f"{name}.yaml").write_text(text(bed.frozen(name)), encoding="utf-8")
            finally:
                operator.stop()
                kuberay.stop()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def surroundings() -> list[Json]:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": SERVICE_ACCOUNT}}
    return [account, *map(claim, CLAIMS)]


def cache_volume(name: str) -> Json:
    """For the claim that the operator makes for downloaded weights."""
    volume = volume_for(f"{name}.weights", NAMESPACE)
    volume["spec"] |= {"accessModes": ["ReadWriteMany"], "storageClassName": "shared"}
    return volume


class _Readable(yaml.SafeDumper):
    """Text of many lines as a block, and no anchors."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Readable.add_representer(str, _text)


def text(objects: list[Json]) -> str:
    return yaml.dump_all(objects, Dumper=_Readable, sort_keys=True, width=118)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write what a released version leaves on a real API server to tests/data."
    )
    parser.add_argument("version", choices=versions())
    print(freeze(parser.parse_args().version))
    return 0


if __name__ == "__main__":
    sys.exit(main())

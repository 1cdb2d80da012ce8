"""`conclave operator run` as a process beside the control plane, under the service account and rights of the chart."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.eventually import eventually
from tests.integration.testbed.helm import OperatorAccount
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.processes import Process

from conclave_cli.local.ports import free_port

CONCLAVE = (str(Path(sys.executable).parent / "conclave"),)
API = "conclave.dev/v1alpha1"
KIND = "ModelDeployment"


class Operator:
    """One process; `ensure` starts it where it does not run."""

    def __init__(self, kube: Kube, account: OperatorAccount, name: str = "operator", program: Sequence[str] = CONCLAVE):
        self._kube, self._account, self._name, self._program = kube, account, name, program
        self._process: Process | None = None
        self.port = 0

    @property
    def log(self) -> Path:
        return self._kube.directory / f"{self._name}.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def ensure(self, *options: str) -> None:
        """Running and leading."""
        if not self.running:
            self.start(*options)
        self.leads()

    def start(self, *options: str, env: dict[str, str] | None = None) -> None:
        self.port = free_port()
        arguments = [
            "operator",
            "run",
            f"--kubeconfig={self._account.kubeconfig}",
            f"--config={self._account.settings}",
            f"--lease-namespace={self._account.namespace}",
            "--lease=conclave",
            f"--http-port={self.port}",
            "--log-format=json",
        ]
        self._process = Process(self._name, [*self._program, *arguments, *options], self.log, env=env)

    def stop(self, grace_s: float = 10.0) -> int:
        """Ends it; without a grace period as a crash would."""
        code = 0
        if self._process is not None:
            code = self._process.stop(grace_s)
            self._process = None
        return code

    def probe(self, path: str) -> tuple[int, str]:
        """Status and text of /healthz, /readyz or /metrics; 0 while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metrics(self) -> str:
        """Text of /metrics. A busy operator may answer late, which is no 0."""

        def answered() -> str:
            self.process.require_running()
            status, text = self.probe("/metrics")
            return text if status == 200 else ""

        return eventually(answered, timeout=90)

    def metric(self, name: str) -> float:
        lines = self.metrics().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def is_leading(self) -> bool:
        self.process.require_running()
        return self.metric("conclave_leader") == 1 and self.probe("/readyz")[0] == 200

    def leads(self) -> None:
        eventually(self.is_leading, timeout=40)


def model_deployment(name: str, **spec: Any) -> dict[str, Any]:
    """A Mixtral on a claim named `weights`; keywords replace whole parts of the spec."""
    base = {
        "model": {
            "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
            "source": {"persistentVolumeClaim": {"claimName": "weights", "path": "mixtral"}},
        },
        "hardware": {"accelerators": ["NVIDIA-H100-80GB-HBM3"], "maxGpusPerReplica": 8},
        "access": {"dataClass": "internal"},
    }
    return {"apiVersion": API, "kind": KIND, "metadata": {"name": name}, "spec": base | spec}


def stored_model(uri: str = "s3://models/mixtral", **cache: Any) -> dict[str, Any]:
    """A Mixtral of an object store, for `model_deployment(model=...)`."""
    return {
        "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "source": {"objectStore": {"uri": uri, "secretName": "store", "endpoint": "http://minio.storage.svc:9000"}},
        "cache": {"size": "1024Gi"} | cache,
    }


def hub_model(**hub: Any) -> dict[str, Any]:
    """A Mixtral of a hub, for `model_deployment(model=...)`."""
    repository = {"repository": "mistralai/Mixtral-8x7B-Instruct-v0.1", "revision": "0123456789abcdef" * 2 + "01234567"}
    return {
        "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "source": {"huggingFace": repository | hub},
        "cache": {"size": "100Gi"},
    }


def end_pod(kube: Kube, namespace: str, pod: dict[str, Any], message: str = "{}") -> None:
    """What a kubelet reports of a pod whose containers all ended well: nothing runs here."""
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "message": message}}

    def ended(part: str) -> list[dict[str, Any]]:
        return [
            {"name": item["name"], "image": item["image"], "imageID": "", "ready": False, "restartCount": 0}
            | {"state": state}
            for item in pod["spec"].get(part, [])
        ]

    status = {
        "phase": "Succeeded",
        "initContainerStatuses": ended("initContainers"),
        "containerStatuses": ended("containers"),
    }
    patch_pod_status(kube, namespace, pod["metadata"]["name"], status)


def patch_pod_status(kube: Kube, namespace: str, name: str, status: dict[str, Any]) -> None:
    """Through the status subresource, as a kubelet does."""
    patch = json.dumps({"status": status})
    kube.kubectl("patch", "pod", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def claim(name: str = "weights") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "100Gi"}},
        },
    }


def volume_for(claim_name: str, namespace: str) -> dict[str, Any]:
    """A volume that the controller manager binds to that claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim_name}"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": {"storage": "100Gi"},
            "claimRef": {"name": claim_name, "namespace": namespace},
            "hostPath": {"path": "/nonexistent"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }

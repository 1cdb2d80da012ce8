"""`conclave operator run` as a process beside the control plane, under the service account and rights of the chart."""

from __future__ import annotations

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

    def metric(self, name: str) -> float:
        lines = self.probe("/metrics")[1].splitlines()
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

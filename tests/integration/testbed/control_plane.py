"""A real Kubernetes control plane as processes on loopback: etcd, kube-apiserver and kube-controller-manager.

Started once a test session by the fixtures of tests/integration/conftest.py; ready after a few seconds. It never
touches a cluster of the user ($KUBECONFIG is not read): tests make nodes and delete CRDs.
No scheduler and no kubelet: pods are objects that never run. The node lifecycle controller is off, or it would mark
the fake nodes as lost.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.eventually import eventually
from tests.integration.testbed.audit import POLICY, AuditLog
from tests.integration.testbed.certificates import Authority
from tests.integration.testbed.processes import Process
from tools.build_tools import program

from conclave_cli.local.ports import free_port

HOST = "127.0.0.1"


class ControlPlane:
    """Use as a context manager; all state lives in `directory`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.url = f"https://{HOST}:{free_port()}"
        self.audit = AuditLog(directory / "audit.jsonl")
        self.authority = Authority(directory)
        self._processes: list[Process] = []

    def __enter__(self) -> ControlPlane:
        try:
            etcd = self._start_etcd()
            self._start_api_server(etcd)
            self._start_controller_manager()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.stop()

    def kubeconfig(self, user: str, groups: Sequence[str] = (), token: str | None = None) -> Path:
        """A kubeconfig file: with a client certificate for the user, or with a bearer token."""
        if token:
            credentials: dict[str, str] = {"token": token}
        else:
            pair = self.authority.client(user, groups)
            credentials = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        path = self.directory / f"{user.replace(':', '-').replace('/', '-')}.kubeconfig"
        path.touch(mode=0o600)
        cluster = {"server": self.url, "certificate-authority": str(self.authority.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
            "current-context": "testbed",
        }
        path.write_text(json.dumps(config))  # JSON is YAML
        return path

    def require_running(self) -> None:
        """Raises with the end of its log where one of the processes has died."""
        for process in self._processes:
            process.require_running()

    def _start(self, name: str, *arguments: str) -> Process:
        process = Process(name, [program(name), *arguments], self.directory / f"{name}.log")
        self._processes.append(process)
        return process

    def _start_etcd(self) -> str:
        client, peer = (f"http://{HOST}:{free_port()}" for _ in range(2))
        self._start(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        return client

    def _start_api_server(self, etcd: str) -> None:
        serving = self.authority.serving("kube-apiserver", [HOST, "localhost", "10.96.0.1"])
        tokens = self.authority.bare_key("service-accounts")
        policy = self.directory / "audit-policy.json"
        policy.write_text(json.dumps(POLICY))
        server = self._start(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            "--endpoint-reconciler-type=none",  # an endpoint on loopback is refused
            f"--secure-port={self.url.rpartition(':')[2]}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.authority.certificate}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",  # as OpenShift has it
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={tokens}",
            f"--service-account-key-file={tokens}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit.path}",
            "--audit-log-maxsize=0",
        )
        context = ssl.create_default_context(cafile=str(self.authority.certificate))

        def ready() -> bool:
            server.require_running()
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", context=context, timeout=5) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                return False

        eventually(ready, timeout=120)

    def _start_controller_manager(self) -> None:
        config = self.kubeconfig("system:kube-controller-manager")
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={config}",
            "--controllers=*,-node-lifecycle-controller",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.directory / 'service-accounts.key'}",
            f"--root-ca-file={self.authority.certificate}",
            "--leader-elect=false",
            "--secure-port=0",
            "--concurrent-gc-syncs=20",
        )

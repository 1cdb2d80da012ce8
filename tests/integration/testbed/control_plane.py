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
from tests.integration.testbed.audit import AuditLog
from tests.integration.testbed.processes import Process
from tools.build_tools import program
from tools.cluster import commands
from tools.cluster.certificates import Authority
from tools.cluster.kubeconfig import write_kubeconfig

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
        credentials = token or self.authority.client(user, groups)
        return write_kubeconfig(self.directory, "testbed", self.url, self.authority.certificate, user, credentials)

    def require_running(self) -> None:
        """Raises with the end of its log where one of the processes has died."""
        for process in self._processes:
            process.require_running()

    @property
    def processes(self) -> tuple[Process, ...]:
        return tuple(self._processes)

    def _start(self, name: str, *arguments: str) -> Process:
        process = Process(name, [program(name), *arguments], self.directory / f"{name}.log")
        self._processes.append(process)
        return process

    def _start_etcd(self) -> str:
        client, peer = (f"http://{HOST}:{free_port()}" for _ in range(2))
        self._start("etcd", *commands.etcd(self.directory / "etcd", client, peer))
        return client

    def _start_api_server(self, etcd: str) -> None:
        serving = self.authority.serving("kube-apiserver", [HOST, "localhost", "10.96.0.1"])
        tokens = self.authority.bare_key("service-accounts")
        policy = self.directory / "audit-policy.json"
        policy.write_text(json.dumps(commands.AUDIT_POLICY))
        port = int(self.url.rpartition(":")[2])
        options = [
            "--endpoint-reconciler-type=none",  # an endpoint on loopback is refused
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",  # as OpenShift has it
            *commands.audit(policy, self.audit.path),
        ]
        arguments = commands.api_server(etcd, HOST, port, serving, self.authority.certificate, tokens, *options)
        server = self._start("kube-apiserver", *arguments)
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
        tokens = self.directory / "service-accounts.key"
        options = ["--controllers=*,-node-lifecycle-controller", "--concurrent-gc-syncs=20"]
        folder = self.directory / "volume-plugins"
        arguments = commands.controller_manager(config, tokens, self.authority.certificate, folder, *options)
        self._start("kube-controller-manager", *arguments)

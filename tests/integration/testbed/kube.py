"""The tests' hands on the control plane: kubectl, a dynamic client as administrator, users of their own rights."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException
from tests.eventually import eventually
from tests.integration.testbed.audit import AuditLog
from tests.integration.testbed.control_plane import ControlPlane
from tools.build_tools import program

Manifest = Mapping[str, Any]


class KubectlError(AssertionError):
    """kubectl refused; the message is what it printed."""


class Kube:
    """The administrator (group system:masters) of one control plane."""

    def __init__(self, control_plane: ControlPlane):
        self.control_plane = control_plane
        self.directory = control_plane.directory
        self.kubeconfig = control_plane.kubeconfig("admin", ["system:masters"])

    @property
    def audit(self) -> AuditLog:
        return self.control_plane.audit

    @cached_property
    def api(self) -> client.ApiClient:
        """The `kubernetes` client, as administrator."""
        return config.new_client_from_config(str(self.kubeconfig))  # type: ignore[no-any-return]

    @cached_property
    def dynamic(self) -> dynamic.DynamicClient:
        """Finds kinds by discovery; its cache is kept here: the default file outlives the cluster."""
        return dynamic.DynamicClient(self.api, cache_file=str(self.directory / "discovery.json"))

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """stdout of kubectl; raises KubectlError (an AssertionError) with what it said on failure."""
        done = self.try_kubectl(*arguments, stdin=stdin, kubeconfig=kubeconfig)
        if done.returncode:
            raise KubectlError(done.stderr + done.stdout)
        return done.stdout

    def try_kubectl(
        self, *arguments: str | Path, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """As `kubectl`, for a refusal that is expected: look at `returncode` and `stderr`."""
        command = [program("kubectl"), f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments]
        cache = {"HOME": str(self.directory), "KUBECACHEDIR": str(self.directory / "kubectl-cache")}
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, env=cache)

    def apply(
        self,
        *objects: Manifest,
        namespace: str | None = None,
        kubeconfig: Path | None = None,
        dry_run: bool = False,
        manager: str = "tests",
    ) -> None:
        """Server-side apply, unknown fields refused; as a dry run everything is checked and nothing kept."""
        scope = ["--namespace", namespace] if namespace else []
        mode = ["--dry-run=server"] if dry_run else []
        options = [
            "--server-side",
            "--force-conflicts",
            f"--field-manager={manager}",
            "--validate=strict",
            *mode,
            *scope,
        ]
        self.kubectl("apply", *options, "-f", "-", stdin=as_list(objects), kubeconfig=kubeconfig)

    def install_crds(self, *files: Path) -> None:
        """Applies CRDs, server-side since some are too large for an annotation, and waits until they are served."""
        options = ["--server-side", "--force-conflicts", "--field-manager=tests", "--output=name"]
        applied = self.kubectl("apply", *options, *(f"--filename={file}" for file in files))
        waiting = ["wait", "--for=condition=Established", "--timeout=30s", *applied.split()]
        # kubectl fails on a CRD without any status yet.
        eventually(lambda: self.try_kubectl(*waiting).returncode == 0, timeout=120)

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """One object, or None where it, or its kind, does not exist."""
        try:
            return self._resource(api_version, kind).get(name=name, namespace=namespace).to_dict()  # type: ignore[no-any-return]
        except (dynamic.exceptions.NotFoundError, dynamic.exceptions.ResourceNotFoundError):
            return None

    def list(
        self, api_version: str, kind: str, namespace: str | None = None, label_selector: str | None = None
    ) -> list[dict[str, Any]]:
        """The objects of a kind, in one namespace or in all."""
        found = self._resource(api_version, kind).get(namespace=namespace, label_selector=label_selector)
        return found.to_dict()["items"]  # type: ignore[no-any-return]

    def create(self, body: Manifest, namespace: str | None = None) -> dict[str, Any]:
        """A plain POST: as clients do that know no server-side apply."""
        resource = self._resource(body["apiVersion"], body["kind"])
        return resource.create(body=body, namespace=namespace).to_dict()  # type: ignore[no-any-return]

    def ensure_namespace(self, name: str) -> None:
        """A namespace in which pods can be made: its default service account exists."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        eventually(lambda: self.get("v1", "ServiceAccount", "default", name))

    def patch(
        self, api_version: str, kind: str, name: str, body: Manifest, namespace: str | None = None
    ) -> dict[str, Any]:
        """A JSON merge patch as administrator."""
        resource = self._resource(api_version, kind)
        content_type = "application/merge-patch+json"
        return resource.patch(name=name, namespace=namespace, body=body, content_type=content_type).to_dict()  # type: ignore[no-any-return]

    def delete(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> None:
        """Deletes one object; one that is not there is no error."""
        try:
            self._resource(api_version, kind).delete(name=name, namespace=namespace)
        except dynamic.exceptions.NotFoundError:
            return

    def user_kubeconfig(self, name: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for a user who has no rights but those that tests bind to it (or to its groups)."""
        return self.control_plane.kubeconfig(name, groups)

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token of a service account; its user is system:serviceaccount:NAMESPACE:NAME."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration=12h").strip()
        return self.control_plane.kubeconfig(f"system:serviceaccount:{namespace}:{name}", token=token)

    def _resource(self, api_version: str, kind: str) -> Any:
        return self.dynamic.resources.get(api_version=api_version, kind=kind)


def as_list(objects: Sequence[Manifest]) -> str:
    """Objects as one List that kubectl takes from stdin."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


__all__ = ["ApiException", "Kube", "KubectlError", "Manifest", "as_list"]

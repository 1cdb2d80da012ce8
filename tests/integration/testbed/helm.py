"""The real helm on the control plane, and the rights that the chart gives the operator."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tests.integration.testbed.kube import Kube
from tools.build_tools import program

CHART = Path(__file__).parents[3] / "charts" / "conclave"
CRDS = CHART / "files" / "crds"
RELEASE = "conclave"
SYSTEM_NAMESPACE = "conclave-system"


class HelmError(AssertionError):
    """helm refused; the message is what it printed."""


class Helm:
    """helm as administrator, with its caches in the test bed's directory."""

    def __init__(self, kube: Kube, chart: Path = CHART):
        self._kube, self._chart = kube, chart
        self._rendered: dict[str, str] = {}

    def run(self, *arguments: str | Path, chart_values: dict[str, Any] | None = None) -> str:
        """stdout; raises HelmError with what helm said. Values go in as a file on stdin."""
        values = [] if chart_values is None else ["--values=-"]
        done = subprocess.run(
            [program("helm"), f"--kubeconfig={self._kube.kubeconfig}", *arguments, *values],
            input=None if chart_values is None else yaml.safe_dump(chart_values),
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "HOME": str(self._kube.directory), **self._directories()},
        )
        if done.returncode:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout

    def render(
        self, values: dict[str, Any] | None = None, release: str = RELEASE, namespace: str = SYSTEM_NAMESPACE
    ) -> list[dict[str, Any]]:
        """All objects of the chart, as `helm template` gives them; the same question is answered from memory."""
        question = json.dumps([values or {}, release, namespace], sort_keys=True)
        if question not in self._rendered:
            scope = f"--namespace={namespace}"
            self._rendered[question] = self.run("template", release, self._chart, scope, chart_values=values or {})
        text = self._rendered[question]
        return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]

    def _directories(self) -> dict[str, str]:
        return {f"HELM_{kind}_HOME": str(self._kube.directory / "helm" / kind) for kind in ("CACHE", "CONFIG", "DATA")}


class OperatorAccount(NamedTuple):
    """The operator's identity as the chart installs it."""

    namespace: str
    user: str
    """As the API server knows it and the audit log shows it."""
    kubeconfig: Path
    settings: Path
    """The operator's settings file that the chart mounts."""
    objects: list[dict[str, Any]]
    """Service account, roles and bindings, as rendered."""


def install_operator_account(
    kube: Kube, helm: Helm, values: dict[str, Any] | None = None, namespace: str = SYSTEM_NAMESPACE
) -> OperatorAccount:
    """Renders the chart and applies only its service account and RBAC: no Deployment, so the test is the operator."""
    rendered = helm.render({"rbac": {"aggregate": False}, **(values or {})}, namespace=namespace)
    kube.ensure_namespace(namespace)
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    objects = [item for item in rendered if item["kind"] in kinds]
    kube.apply(*objects)
    (account,) = (item["metadata"]["name"] for item in objects if item["kind"] == "ServiceAccount")
    (settings,) = (item for item in rendered if item["kind"] == "ConfigMap")
    path = kube.directory / f"{namespace}-operator.yaml"
    path.write_text(settings["data"]["operator.yaml"])
    user = f"system:serviceaccount:{namespace}:{account}"
    return OperatorAccount(namespace, user, kube.service_account_kubeconfig(namespace, account), path, objects)

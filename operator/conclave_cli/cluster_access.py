"""How commands reach the user's cluster: kubeconfig, namespace, and errors that say what to do.

Used by `status` and `explain`, inside their functions: it imports the Kubernetes client.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from conclave.errors import EnvironmentUnfit
from conclave.kubernetes.failures import ApiFailure

try:
    from conclave_cluster.client import Client, current_namespace, load_configuration, server_address
    from conclave_cluster.kubernetes_cluster import KubernetesCluster
    from conclave_cluster.resources import MODEL_DEPLOYMENT
except ModuleNotFoundError as error:
    raise EnvironmentUnfit(
        f"this command needs {error.name}, which is not installed: pip install 'conclave-inference[operator]'"
    ) from error

__all__ = ["MODEL_DEPLOYMENT", "Access", "open_cluster", "refusal"]


class Access(NamedTuple):
    """A cluster, read with the user's own rights."""

    cluster: KubernetesCluster
    namespace: str
    """The context's, where none was named."""
    server: str


@asynccontextmanager
async def open_cluster(kubeconfig: str | None, context: str | None, namespace: str | None) -> AsyncIterator[Access]:
    """Raises EnvironmentUnfit if no cluster is configured."""
    _require_kubeconfig(kubeconfig)
    configuration = await load_configuration(kubeconfig, context)
    chosen = namespace or current_namespace(kubeconfig, context)
    async with Client(configuration) as client:
        yield Access(KubernetesCluster(client), chosen, server_address(configuration))


def _require_kubeconfig(kubeconfig: str | None) -> None:
    """The library logs a line of its own where no file exists. In a pod the service account needs none."""
    if kubeconfig is not None or os.environ.get("KUBERNETES_SERVICE_HOST"):
        return
    files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if not any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file):
        raise EnvironmentUnfit(f"no cluster: {files} does not exist. Give --kubeconfig, or set KUBECONFIG.")


def refusal(failure: ApiFailure, server: str) -> EnvironmentUnfit:
    """The error for the user whose request failed: object, answer, what to do."""
    if failure.code == 0:
        return EnvironmentUnfit(
            f"{server}: no answer: {failure.message}; check that the cluster runs and that the "
            "kubeconfig's context is right"
        )
    if failure.code == 404:
        return EnvironmentUnfit(f"{server}: does not know {failure.resource}; install Conclave's chart there")
    if failure.code in (401, 403):
        return EnvironmentUnfit(
            f"{server}: refuses this: {failure.message or failure.reason}; ask your administrator for this right"
        )
    return EnvironmentUnfit(f"{server}: {failure.code} {failure.reason}: {failure.message}")

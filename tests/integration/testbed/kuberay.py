"""KubeRay 1.6.2 as a process beside the control plane, with its own CRDs and under its own RBAC role.

It makes RayClusters, pods and Services as objects; without kubelets nothing of them runs.
"""

from __future__ import annotations

from tests.integration.testbed.control_plane import HOST
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.processes import Process
from tools.build_tools import program
from tools.cluster import commands
from tools.cluster.objects import kuberay_crds, kuberay_role

from conclave_cli.local.ports import free_port

USER = "kuberay"


class KubeRay:
    """Installed and started by `ensure`; the DependencyMissing tests stop it and remove its CRDs."""

    def __init__(self, kube: Kube):
        self._kube = kube
        self._home = program("ray-operator").parent
        self._crd_files = kuberay_crds(self._home)
        self._kubeconfig = kube.user_kubeconfig(USER)
        self._process: Process | None = None
        self._installed = False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def ensure(self) -> None:
        """CRDs served, role bound, process running."""
        if not self._installed:
            self.install_crds()
            self._kube.apply(*kuberay_role(self._home, USER))
        if not self.running:
            self.start()

    def start(self) -> None:
        metrics, health = free_port(), free_port()
        self._process = Process(
            "ray-operator",
            [
                program("ray-operator"),
                *commands.ray_operator(self._kubeconfig, f"{HOST}:{metrics}", f"{HOST}:{health}"),
            ],
            self._kube.directory / "ray-operator.log",
        )
        self._process.require_running()

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def install_crds(self) -> None:
        """All four, served when this returns."""
        self._kube.install_crds(*self._crd_files)
        self._installed = True

    def remove_crds(self) -> None:
        """Also ends the process: a controller without its kinds exits in the end."""
        self.stop()
        self._installed = False
        files = [f"--filename={file}" for file in self._crd_files]
        self._kube.kubectl("delete", "--ignore-not-found", "--timeout=60s", *files)

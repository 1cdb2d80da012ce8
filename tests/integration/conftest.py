"""Fixtures of the integration tests: a real control plane once a session, KubeRay, fake GPU nodes, a namespace a test.

What lies behind them is in tests/integration/testbed; nothing is started or probed at import time.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.testbed.control_plane import ControlPlane
from tests.integration.testbed.helm import CRDS, Helm, OperatorAccount, install_operator_account
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.kuberay import KubeRay
from tests.integration.testbed.nodes import create_gpu_node
from tests.integration.testbed.operator import Operator, claim
from tests.integration.testbed.world import World

from conclave.api.modeldeployment import GROUP, PLURAL

RESYNC_S = 5


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    """The administrator of a control plane of this test session."""
    if sys.platform != "linux":
        pytest.skip(f"a Kubernetes control plane runs as processes on Linux only, this is {sys.platform}")
    directory = Path(tempfile.mkdtemp(prefix="conclave-testbed-"))
    try:
        with ControlPlane(directory) as control_plane:
            yield Kube(control_plane)
            control_plane.require_running()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def _kuberay(kube: Kube) -> Iterator[KubeRay]:
    kuberay = KubeRay(kube)
    yield kuberay
    kuberay.stop()


@pytest.fixture
def kuberay(_kuberay: KubeRay) -> KubeRay:
    """KubeRay with its CRDs, running when the test begins, whatever the test before did to it."""
    _kuberay.ensure()
    return _kuberay


@pytest.fixture(scope="session")
def helm(kube: Kube) -> Helm:
    """The real helm, on the control plane of this session."""
    return Helm(kube)


@pytest.fixture
def operator_account(kube: Kube, helm: Helm) -> OperatorAccount:
    """The operator's service account with exactly the rights of the chart, for all namespaces."""
    return install_operator_account(kube, helm)


@pytest.fixture
def conclave_crds(kube: Kube) -> None:
    """Conclave's own CRDs, as the chart holds them, are served.

    The garbage collector learns a new kind within 30 s: give what it collects a timeout of 60 s.
    """
    if kube.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{PLURAL}.{GROUP}") is None:
        kube.install_crds(*CRDS.glob("*.yaml"))


@pytest.fixture
def namespace(kube: Kube) -> Iterator[str]:
    """A fresh namespace in which pods can be made (its default service account exists)."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kube.ensure_namespace(name)
    yield name
    kube.delete("v1", "Namespace", name)


@pytest.fixture
def fake_gpu_node(kube: Kube) -> Iterator[Callable[..., str]]:
    """`fake_gpu_node(name, product, count, memory_mib, region="eu-west-1")` makes a Node for this test."""
    made: list[str] = []

    def make(name: str, product: str, count: int, memory_mib: int, region: str = "eu-west-1") -> str:
        create_gpu_node(kube, name, product, count, memory_mib, region)
        made.append(name)
        return name

    yield make
    for name in made:
        kube.delete("v1", "Node", name)


@pytest.fixture(scope="module")
def _operator(kube: Kube, helm: Helm) -> Iterator[Operator]:
    operator = Operator(kube, install_operator_account(kube, helm))
    yield operator
    operator.stop()


@pytest.fixture
def operator(_operator: Operator, conclave_crds: None, operator_account: OperatorAccount) -> Operator:
    """Running, leading and with its rights, whatever the test before did to it."""
    _operator.ensure(f"--resync-seconds={RESYNC_S}")
    return _operator


@pytest.fixture
def world(
    kube: Kube,
    kuberay: KubeRay,
    operator: Operator,
    operator_account: OperatorAccount,
    namespace: str,
    fake_gpu_node: Callable[..., str],
) -> Iterator[World]:
    fake_gpu_node("h100-1", "NVIDIA-H100-80GB-HBM3", 8, 81559)
    world = World(kube, namespace, operator, operator_account.user)
    world.apply(claim())
    yield world
    kube.kubectl("delete", "modeldeployments", "--all", "--namespace", namespace, "--wait=false")

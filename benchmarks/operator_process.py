"""The operator of one tree as a process, and what it costs: its own metrics, its CPU and memory, its writes.

Called by `operator_scale`. The tree of an earlier commit is unpacked into the cache and runs in the same environment.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import yaml
from tests.eventually import eventually
from tests.integration.testbed.helm import OperatorAccount
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.operator import Operator
from tools.build_tools import cache_dir

ROOT = Path(__file__).parents[1]
NAMESPACE = "conclave-system"
USER = f"system:serviceaccount:{NAMESPACE}:conclave"
IMAGE = "images.test/conclave-serving:bench"
NEVER_S = 86_400
QUIET_S = 3.0
"""For so long an operator that has come to rest has done nothing."""
POLL_S = 0.25
_TICKS = os.sysconf("SC_CLK_TCK")


def unpacked(commit: str) -> Path:
    """The tree of a commit, in the cache; exits where this clone does not have the commit."""
    named = subprocess.run(
        ["git", "rev-parse", "--verify", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True
    )
    if named.returncode:
        sys.exit(f"commit {commit} is not in this clone: fetch the whole history, or give --before another commit")
    tree = cache_dir() / "trees" / named.stdout.strip()
    if not tree.exists():
        archive = subprocess.run(["git", "archive", tree.name], cwd=ROOT, check=True, capture_output=True).stdout
        partial = tree.with_suffix(f".{os.getpid()}")
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(partial, filter="data")
        partial.rename(tree)
    return tree


def install_account(kube: Kube) -> OperatorAccount:
    """A service account that may do everything: what is measured is the operator, not its role."""
    kube.ensure_namespace(NAMESPACE)
    metadata = {"name": "conclave", "namespace": NAMESPACE}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "conclave"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", **metadata}],
    }
    kube.apply(account, binding)
    settings = kube.directory / "operator.yaml"
    settings.write_text(yaml.safe_dump({"image": IMAGE, "api_server_cidrs": ["10.96.0.1/32"]}))
    kubeconfig = kube.service_account_kubeconfig(NAMESPACE, "conclave")
    return OperatorAccount(NAMESPACE, USER, kubeconfig, settings, [])


class Spent(NamedTuple):
    """What an operator has done and used until now; two of them give what it did between them."""

    passes: float
    written: float
    """Objects that it made, changed or deleted, as its metrics count them."""
    cpu_s: float
    control_plane_cpu_s: float
    """Of etcd, API server and controller manager together."""
    requests: int
    """Mutating requests of the operator, the Lease's left out: also those for statuses and events."""

    def since(self, before: Spent) -> Spent:
        return Spent(*(round(now - then, 4) for now, then in zip(self, before, strict=True)))


class OperatorProcess:
    """One process of a tree's operator on a control plane."""

    def __init__(self, kube: Kube, account: OperatorAccount, tree: Path, resync_s: float, samples: Path | None = None):
        self._kube = kube
        self._mark = kube.audit.mark()
        sampled = Path(__file__).parent / "sampled.py"
        module = [str(sampled), str(samples)] if samples else ["-m", "conclave_cli.main"]
        self._operator = Operator(kube, account, program=[sys.executable, "-P", *module])
        environment = {"PYTHONPATH": f"{tree / 'operator'}:{tree / 'serving'}", "PYTHONSAFEPATH": "1"}
        self._operator.start(f"--resync-seconds={resync_s:.0f}", env=environment)
        eventually(self._operator.is_leading, timeout=120)

    def stop(self) -> None:
        self._operator.stop(grace_s=20)

    async def spent(self) -> Spent:
        metrics = await self._metrics()
        return Spent(
            metrics["conclave_reconciles_total"],
            metrics["conclave_writes_total"],
            self.cpu_s(),
            sum(cpu_seconds(process.pid) for process in self._kube.control_plane.processes),
            sum(self.requests().values()),
        )

    def cpu_s(self) -> float:
        return cpu_seconds(self._operator.process.pid)

    def memory_mb(self, field: str) -> float:
        """VmRSS, or VmHWM for the peak."""
        status = Path(f"/proc/{self._operator.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(f"{field}:")).split()[1]) / 1024

    def requests(self) -> Counter[str]:
        """Mutating requests by verb and resource since the process began, the Lease's left out."""
        found = self._kube.audit.requests(user=USER, since=self._mark, mutating=True)
        return Counter(f"{request.verb} {request.resource}" for request in found if request.resource != "leases")

    def has_listed(self, mark: int) -> bool:
        """Whether it has listed all ModelDeployments since this place in the audit log, as each resync begins."""
        asked = self._kube.audit.requests(user=USER, since=mark)
        return any((request.verb, request.resource) == ("list", "modeldeployments") for request in asked)

    async def quiet(self, timeout_s: float) -> float:
        """Until nothing waits and nothing has been done for a while; the time at which that began."""
        deadline = time.monotonic() + timeout_s
        since, seen = time.monotonic(), (-1.0, -1.0)
        while time.monotonic() < deadline:
            metrics = await self._metrics()
            now = metrics["conclave_reconciles_total"], metrics["conclave_writes_total"]
            if now != seen or metrics["conclave_queue_length"]:
                since, seen = time.monotonic(), now
            elif time.monotonic() - since >= QUIET_S:
                return since
            await asyncio.sleep(POLL_S)
        return time.monotonic()

    async def _metrics(self) -> Counter[str]:
        """Sums over all labels."""
        text = await asyncio.to_thread(self._operator.metrics)
        found: Counter[str] = Counter()
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name.partition("{")[0]] += float(value)
        return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

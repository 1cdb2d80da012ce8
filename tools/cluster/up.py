"""`make cluster`: brings the cluster up, or what of it is not there, and says what it does with seconds.

Every step is idempotent, so a second call finishes what a first one began, and starts again what has died.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tools.build_tools import build, program
from tools.cluster import machine
from tools.cluster.commands import ctr
from tools.cluster.components import NAMES, Starter
from tools.cluster.credentials import make_credentials
from tools.cluster.images import import_archive, pause_archive
from tools.cluster.layout import API_SERVICE_ADDRESS, API_URL, CONTROL_PLANE_ADDRESS, ClusterError, Layout, Node
from tools.cluster.objects import Gpus, gpu_labels, gpu_status, kuberay_crds, kuberay_role, system_objects
from tools.cluster.packages import require_machine
from tools.cluster.processes import Record, all_recorded, recorded, wait_until

GROUPS = ("etcd", "controlplane", "nodes", "containerd", "dns", "networkpolicy", "kuberay")
MARK = "conclave-cluster"
"""A file in every state folder of ours: no other folder is ever deleted."""


class Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def say(self, words: str) -> None:
        print(f"cluster: {self.seconds:5.1f} s  {words}", file=sys.stderr, flush=True)


def up(
    layout: Layout, gpus: Mapping[str, Gpus], regions: Mapping[str, str], audit: bool, free_port: Callable[[], int]
) -> None:
    """Raises ClusterError; what was started then stays, for its logs: `down` ends it."""
    progress = Progress()
    require_machine()
    for group in GROUPS:
        build(group)
    if layout.state.is_dir() and any(layout.state.iterdir()) and not (layout.state / MARK).is_file():
        raise ClusterError(
            f"state folder {layout.state}: has files that are not a cluster's; choose another with --state"
        )
    if set(running(layout)) >= set(NAMES) and _is_ready(layout):
        for node in layout.nodes:
            describe_node(layout, node, gpus[node.name], regions[node.name])
        progress.say("up already")
        return
    _say_what_has_ended(layout, progress)
    if not layout.changed_settings.is_file():
        machine.refuse_where_taken()
        machine.refuse_where_full(layout.state)
    layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (layout.state / MARK).touch()
    for directory in (layout.logs, layout.records):
        directory.mkdir(exist_ok=True)
    make_credentials(layout)
    machine.prepare(layout)

    starter = Starter(layout, audit, free_port)
    etcd, api = starter.etcd(), starter.api_server()
    runtimes = [starter.containerd(node) for node in layout.nodes]
    _import_pause(layout, runtimes)
    progress.say("etcd, API server and both containerds started")
    wait_until(lambda: _is_ready(layout), "the API server", 120, [etcd, api])
    progress.say("API server ready")
    kubelets = [starter.kubelet(node) for node in layout.nodes]
    controllers = starter.controllers()
    kuberay_home = build("kuberay")
    with ThreadPoolExecutor() as pool:
        crds = pool.submit(_apply, layout, [f"--filename={path}" for path in kuberay_crds(kuberay_home)], None)
        objects = [*system_objects(), *kuberay_role(kuberay_home, "kuberay")]
        _apply(layout, ["--filename=-"], json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        for node, kubelet in zip(layout.nodes, kubelets, strict=True):
            wait_until(partial(_exists, layout, "node", node.name), f"node {node.name}", 60, [kubelet])
            describe_node(layout, node, gpus[node.name], regions[node.name])
        network = starter.network()
        # Not kube-proxy's own health, which stays good where its first rules have failed.
        wait_until(_has_service_rules, "kube-proxy's rules", 60, [*controllers, *network])
        network.append(starter.network_policies())
        names = [f"node/{node.name}" for node in layout.nodes]
        kubectl(layout, "wait", "--for=condition=Ready", "--timeout=60s", *names)
        progress.say("both nodes ready")
        crds.result()
    progress.say("CRDs of KubeRay served")
    kuberay = starter.ray_operator()
    wait_until(partial(_answers, 8082, "/healthz"), "KubeRay", 60, [kuberay, *network])
    account = ("serviceaccount", "default")  # no pod is admitted before it is there
    wait_until(partial(_exists, layout, *account), "the first service account", 60, controllers)
    progress.say("up")


def describe_node(layout: Layout, node: Node, gpus: Gpus, region: str) -> None:
    """Labels and fake GPUs, as a GPU operator would write them; the kubelet forgets the latter when it starts."""
    labels = {"metadata": {"labels": gpu_labels(gpus, region)}}
    kubectl(layout, "patch", "node", node.name, "--type=merge", f"--patch={json.dumps(labels)}")
    status = f"--patch={json.dumps(gpu_status(gpus))}"
    kubectl(layout, "patch", "node", node.name, "--subresource=status", "--type=merge", status)


def kubectl(layout: Layout, *arguments: str, stdin: str | None = None) -> str:
    """stdout, as administrator. Raises ClusterError with what it said."""
    return machine.run(program("kubectl"), f"--kubeconfig={layout.kubeconfig}", *arguments, stdin=stdin)


def running(layout: Layout) -> list[str]:
    """Names of the cluster's processes that run."""
    return [record.name for record in all_recorded(layout) if record.running]


def _say_what_has_ended(layout: Layout, progress: Progress) -> None:
    for name in NAMES:
        record = recorded(layout, name)
        if record and not record.running:
            progress.say(f"{name} has ended, starting it again; its log: {record.log}")


def _import_pause(layout: Layout, runtimes: Sequence[Record]) -> None:
    archive = pause_archive()

    def answers(node: Node) -> bool:
        done = subprocess.run(ctr(program("ctr"), node.socket, "version"), capture_output=True)
        return done.returncode == 0

    for node, runtime in zip(layout.nodes, runtimes, strict=True):
        wait_until(partial(answers, node), f"containerd of {node.name}", 60, [runtime])
    import_archive(layout, archive)


def _is_ready(layout: Layout) -> bool:
    context = ssl.create_default_context(cafile=str(layout.credentials / "ca.crt"))
    try:
        with urllib.request.urlopen(f"{API_URL}/readyz", context=context, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _has_service_rules() -> bool:
    return f"{API_SERVICE_ADDRESS}/32" in machine.run("iptables-save", "--table=nat")


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{CONTROL_PLANE_ADDRESS}:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _exists(layout: Layout, kind: str, name: str) -> bool:
    return bool(kubectl(layout, "get", kind, name, "--ignore-not-found", "--output=name").strip())


def _apply(layout: Layout, files: Sequence[str], stdin: str | None) -> None:
    options = ["--server-side", "--force-conflicts", "--field-manager=cluster"]
    kubectl(layout, "apply", *options, *files, stdin=stdin)

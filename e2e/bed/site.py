"""The cluster under test with everything installed: images, KubeRay, the chart, namespaces, tiny weights, a client.

By default the cluster of `make cluster` on this machine; with $CONCLAVE_E2E_KUBECONFIG and $CONCLAVE_E2E_IMAGE (a
serving image with e2e/platform, all in one) and $CONCLAVE_E2E_OPERATOR_IMAGE any other, whose nodes must see the
folder of weights ($CONCLAVE_E2E_WEIGHTS) as a hostPath; $CONCLAVE_E2E_VALUES is a file of what the chart needs there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.bed.admission import ENVIRONMENT_CLAIM, ENVIRONMENT_PATH, INCOMPLETE_MARK, MARK, policies, volume_and_claim
from e2e.bed.kubectl import Kubectl
from tests.eventually import eventually
from tools.build_tools import cache_dir, program
from tools.cluster.images import import_archive
from tools.cluster.layout import API_SERVICE_ADDRESS, CONTROL_PLANE_ADDRESS, DNS_ADDRESS, layout_of
from tools.images.__main__ import builder, project_version, references
from tools.tiny_adapter import make_adapter
from tools.tiny_checkpoint import make_checkpoint

ROOT = Path(__file__).parents[2]
SYSTEM = "conclave-system"
RELEASE = "conclave"
RESTRICTED, PRIVILEGED, CALLERS, STRANGERS = "llm", "llm-two-nodes", "apps", "strangers"
"""Namespaces: of models under restricted Pod Security, of models without, of callers that may, of some that may not."""
INCOMPLETE = "llm-incomplete"
"""Namespace of models, restricted too, whose image lacks something (`admission.without_library`)."""
SCRAPERS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": CALLERS}}}
"""Who may scrape the pods of models, as a peer of a NetworkPolicy."""
WEIGHTS_CLAIM = "weights"
RUNTIME_CLASS = "runc"
"""A RuntimeClass whose handler containerd has without any configuration."""
CLIENT = "client"
NOWHERE = "conclave/serving:that-is-nowhere"
"""An image that nobody has, of the list of those that models may name."""
GPU, GPU_MEMORY_MIB = "NVIDIA-B200", 183359
"""As GPU feature discovery labels a node; two of them hold Mixtral's weights in float32, by the plan."""
LOCAL_NETWORK = {
    "dnsCidrs": [f"{DNS_ADDRESS}/32"],
    "apiServerCidrs": [f"{CONTROL_PLANE_ADDRESS}/32", f"{API_SERVICE_ADDRESS}/32"],
}
"""The chart's `network` on the local cluster, whose DNS and API server are processes of the machine."""


@dataclass(frozen=True)
class Images:
    """References as the chart takes them."""

    operator: str
    serving: str
    build: str = ""
    """Of the operator's, where the same reference may be another image: a change rolls its pods."""


@dataclass(frozen=True)
class Site:
    """Where the tests work."""

    kubectl: Kubectl
    images: Images
    is_ours: bool
    """Whether it is the cluster of `make cluster`."""
    weights: Path
    """The folder behind the claim `weights` of each namespace of models."""

    @property
    def serving_image(self) -> str:
        return self.images.serving

    def checkpoint(self, model: str) -> Path:
        """A tiny checkpoint below the claim, made once; readable by the pods' user."""
        path = self.weights / model
        if not path.is_dir():
            make_checkpoint(model, path)
        return readable(path)

    def adapter(self, base: str) -> Path:
        """A tiny LoRA adapter of a tiny checkpoint, below the claim too."""
        path = self.weights / "adapters" / base
        if not path.is_dir():
            make_adapter(self.checkpoint(base), path)
        return readable(path)

    def run_in_client(self, program_text: str, *arguments: str, namespace: str = CALLERS, stdin: str = "") -> str:
        """A program of Python in the client pod of a namespace; secrets go in by stdin, never as arguments."""
        command = ("exec", "--stdin", f"--namespace={namespace}", CLIENT, "--", "python", "-c", program_text)
        return self.kubectl(*command, *arguments, stdin=stdin)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """stdout, on the operator's namespace; raises AssertionError with what helm said."""
        command = [program("helm"), f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={SYSTEM}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def operator_restarts(self) -> list[str]:
        """Of each operator pod whose container was started anew: how the last one ended, and its last words."""
        restarts = []
        for pod in self.kubectl.list("pods", SYSTEM, selector="app.kubernetes.io/name=conclave"):
            name, (container,) = pod["metadata"]["name"], pod["status"]["containerStatuses"]
            if container["restartCount"]:
                times, end = container["restartCount"], container["lastState"]
                words = self.kubectl("logs", f"--namespace={SYSTEM}", name, "--previous", "--tail=60")
                restarts.append(f"operator pod {name} was started anew {times} times, last {end}\n{words}")
        return restarts

    def set_gpus(self, counts: Sequence[int]) -> None:
        """Fake GPUs of each node of the local cluster; another cluster has what it has."""
        if self.is_ours:
            _cluster_up(counts)


def readable(path: Path) -> Path:
    """For the pods' user, who is not the one that wrote it."""
    for entry in (path, *path.rglob("*")):
        entry.chmod(0o755 if entry.is_dir() else 0o644)
    return path


def make_site(weights: Path) -> Site:
    """Idempotent: what is there is taken, what is not is made; raises with the command's own words."""
    given = os.environ.get("CONCLAVE_E2E_KUBECONFIG")
    if given:
        images = Images(os.environ["CONCLAVE_E2E_OPERATOR_IMAGE"], os.environ["CONCLAVE_E2E_IMAGE"])
        kubectl, environment = Kubectl(Path(given)), None
    else:
        _cluster_up([2, 2])
        kubectl = Kubectl(layout_of(None).kubeconfig)
        environment, images = import_images(references(project_version()))
    site = Site(kubectl, images, not given, weights)
    _namespaces(site)
    runtime_class = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": RUNTIME_CLASS}}
    kubectl.apply(runtime_class | {"handler": "runc"}, *policies(with_environment=environment is not None))
    for namespace in (RESTRICTED, INCOMPLETE, PRIVILEGED, CALLERS, STRANGERS):
        if environment is not None:
            kubectl.apply(*volume_and_claim(namespace, ENVIRONMENT_CLAIM, environment))
        if namespace in (RESTRICTED, INCOMPLETE, PRIVILEGED):
            kubectl.apply(*volume_and_claim(namespace, WEIGHTS_CLAIM, weights))
    install_chart(site, images, {} if given else LOCAL_NETWORK)
    for namespace in (CALLERS, STRANGERS):
        kubectl.apply(_client(namespace, images.serving, with_environment=environment is not None))
    for namespace in (CALLERS, STRANGERS):
        kubectl("wait", f"--namespace={namespace}", "pod", CLIENT, "--for=condition=Ready", "--timeout=120s")
    return site


def install_chart(site: Site, images: Images, network: Mapping[str, Any], root: Path = ROOT) -> None:
    """The product's chart with its defaults, but for the images and requests that two cores have room for.

    `root` is this project, or a former tree of it.
    """
    values = {
        "image": _image(images.operator),
        "serving": {"image": _image(images.serving), "allowedImages": [NOWHERE]},
        "network": {**network, "metricsFrom": [SCRAPERS]},
        "podAnnotations": {"e2e.conclave.dev/build": images.build},
        "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
    }
    try:
        options = [str(root / "charts" / "conclave"), "--wait", "--timeout=180s", "--values=-"]
        if more := os.environ.get("CONCLAVE_E2E_VALUES"):
            options.append(f"--values={more}")
        site.helm("upgrade", "--install", RELEASE, *options, stdin=json.dumps(values))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{site.kubectl('get', 'pods,events', f'--namespace={SYSTEM}')}") from error


def _image(reference: str) -> dict[str, str]:
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag}


def end_cluster() -> None:
    """`make cluster-down`; raises where something of it is left."""
    subprocess.run([sys.executable, "-m", "tools.cluster", "down"], cwd=ROOT, check=True)


def _cluster_up(gpus: Sequence[int]) -> None:
    options = [f"--gpus={','.join(map(str, gpus))}", f"--gpu-product={GPU}", f"--gpu-memory-mib={GPU_MEMORY_MIB}"]
    subprocess.run([sys.executable, "-m", "tools.cluster", "up", *options], cwd=ROOT, check=True)


def import_images(names: Mapping[str, str], root: Path = ROOT) -> tuple[Path, Images]:
    """The Python environment's directory, and the images under these names, built from this tree, in both nodes."""
    apart = builder((ENVIRONMENT_PATH,), root)
    serving = apart.image("serving-e2e")
    whole = builder(root=root)
    archives = [
        whole.archive(whole.image("operator"), "operator", names["operator"]),
        apart.archive(serving, "serving-e2e", names["serving-e2e"]),
    ]
    layout = layout_of(None)
    for archive in archives:
        stamp = layout.state / "imported" / Path(archive).name
        if not stamp.is_file():
            import_archive(layout, Path(archive))
            stamp.parent.mkdir(exist_ok=True)
            stamp.touch()
    images = Images(names["operator"], names["serving-e2e"], Path(archives[0]).stem)
    return Path(serving.apart[ENVIRONMENT_PATH]), images


def _namespaces(site: Site) -> None:
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    labels = {
        RESTRICTED: {**restricted, MARK: "restricted"},
        INCOMPLETE: {**restricted, MARK: "restricted", INCOMPLETE_MARK: "true"},
        PRIVILEGED: {"pod-security.kubernetes.io/enforce": "privileged", MARK: "privileged"},
        CALLERS: restricted,
        STRANGERS: restricted,
        SYSTEM: restricted,
    }
    for name, own in labels.items():
        site.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": own}})
    for name in labels:
        eventually(lambda name=name: site.kubectl.get("serviceaccount", "default", name))


def _client(namespace: str, image: str, *, with_environment: bool) -> dict[str, Any]:
    """A pod that sleeps, with Python and the openai client."""
    container: dict[str, Any] = {
        "name": "client",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if with_environment:
        container["volumeMounts"] = [{"name": "environment", "mountPath": ENVIRONMENT_PATH, "readOnly": True}]
        claim = {"claimName": ENVIRONMENT_CLAIM, "readOnly": True}
        spec["volumes"] = [{"name": "environment", "persistentVolumeClaim": claim}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CLIENT, "namespace": namespace},
        "spec": spec,
    }


def weights_folder() -> Path:
    """Where the tiny checkpoints lie, outside of the tree."""
    folder = Path(os.environ.get("CONCLAVE_E2E_WEIGHTS") or cache_dir() / "e2e-weights")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    return folder

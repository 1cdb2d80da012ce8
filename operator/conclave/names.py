"""Every object name, label, annotation, selector and port of Conclave; no other module spells one out.

A deployment's name has at most 40 characters and no dot (its CRD says so), so that every name made of it is short
enough (KubeRay allows 47), and those with a dot cannot be another deployment's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "conclave.dev"
FIELD_MANAGER = "conclave"

# Labels.
NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "app.kubernetes.io/managed-by"
MODEL_DEPLOYMENT = f"{PREFIX}/model-deployment"
WEIGHTS_OF = f"{PREFIX}/weights-of"
"""On pods that fetch a deployment's weights, which are none of its own: its policies do not open them to each other."""
WEIGHTS_KEY = f"{PREFIX}/weights-key"
"""On a Job: which weights it fetches."""
INSPECTION_OF = f"{PREFIX}/inspection-of"
"""On pods that read the config.json of a model that the catalogue does not know: they reach nobody."""
INSPECTION_KEY = f"{PREFIX}/inspection-key"
"""On a Job: what it looks at."""
POD_OWNERS = (MODEL_DEPLOYMENT, WEIGHTS_OF, INSPECTION_OF)
"""Each pod of ours bears one of these, which names its deployment."""
RAY_NODE_TYPE = "ray.io/node-type"
RAY_CLUSTER = "ray.io/cluster"
REGION = "topology.kubernetes.io/region"

# Annotations.
MODEL = f"{PREFIX}/model"
MODEL_REVISION = f"{PREFIX}/model-revision"
MODEL_DIGEST = f"{PREFIX}/model-digest"
DATA_CLASS = f"{PREFIX}/data-class"
ROLLOUT = f"{PREFIX}/rollout"
"""On pod templates: hash of what must replace pods although the template does not show it."""
CLAIM_UID = f"{PREFIX}/claim-uid"
"""On a download Job: the claim that it fills; another one of the same name is empty."""
RECORD_VERSION = f"{PREFIX}/record-version"
"""On a ControllerRevision: the version of Conclave that wrote it; 0.1.0 wrote none."""
REFRESH = f"{PREFIX}/refresh"
"""On a ModelDeployment: any new value asks for a fresh plan and build."""

NO_MESH_LABELS: Mapping[str, str] = {
    "istio.io/dataplane-mode": "none",
    "kuma.io/sidecar-injection": "disabled",
    "sidecar.istio.io/inject": "false",
}
NO_MESH_ANNOTATIONS: Mapping[str, str] = {"linkerd.io/inject": "disabled"}
"""On pods: a proxy of a service mesh would sit before Ray's own ports, keep Jobs from ending, and not reach its control
plane past our NetworkPolicies."""

# Containers, volumes, paths.
RAY_CONTAINER = "ray"
CANARY_CONTAINER = "egress-canary"
"""Tells whether NetworkPolicies are enforced where the pod runs."""
HEAD_WAIT_CONTAINER = "wait-gcs-ready"
"""KubeRay's own, the last init container of a worker."""
VERIFY_CONTAINER = "verify-weights"
"""The model's; an adapter's, and then a draft's, has its number behind it."""
AWAIT_CONTAINER = "await-weights"
"""Behind those: it ends when all that they found unfit is mended."""
DOWNLOAD_CONTAINER = "download"
"""The last step; the init containers before it have the percents behind it that they end at."""
DOWNLOAD_ADAPTER_CONTAINER = "download-adapter"
"""Of an adapter, with its number behind it."""
INSPECTION_CONTAINER = "inspect"
CACHE_VOLUME = "cache"
WEIGHTS_VOLUME = "weights"
"""The model's; other volumes, of adapters and of a draft, have a number behind it."""
TOKEN_VOLUME = "endpoint-token"  # noqa: S105 - a volume's name
API_TOKEN_VOLUME = "kubernetes-api"  # noqa: S105 - a volume's name
MODEL_PATH = "/models/weights"
ADAPTERS_PATH = "/models/adapters"
DRAFT_PATH = "/models/draft"
CACHE_PATH = "/models/cache"
OFFICIAL_HUB = "https://huggingface.co"
"""Where `huggingFace` sources without an endpoint are fetched from."""
UNFIT_WEIGHTS_PATH = "/tmp/unfit-weights.json"  # noqa: S108 - a volume of the pod's own
"""Of worker pods: what verification found unfit."""
TOKEN_DIRECTORY = "/var/run/secrets/conclave.dev"  # noqa: S105 - a path
TOKEN_KEY = "token"  # noqa: S105 - a key's name
TOKEN_PATH = f"{TOKEN_DIRECTORY}/{TOKEN_KEY}"
CA_VOLUME = "ca-bundle"
CA_DIRECTORY = "/etc/conclave-ca"
"""Certificates of whoever stands between the cluster and what is outside."""
API_TOKEN_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path

# Ports.
SERVE_PORT = 8000
ENGINE_PID_VARIABLE = "CONCLAVE_ENGINE_PID_FILE"
"""Of worker pods: where a warm engine writes its process id, so that the pod's readiness is the engine's."""
ENGINE_PID_PATH = "/tmp/conclave-engine.pid"  # noqa: S108 - a volume of the pod's own
HOST_IP_VARIABLE = "VLLM_HOST_IP"
"""Of pods whose first address is an IPv6 one: that address, by which vLLM's ranks and Ray's nodes find each other."""
DASHBOARD_PORT = 8265
DASHBOARD_AGENT_PORT = 52365
GCS_PORT = 6379
METRICS_PORT = 8080
API_SERVER_PORTS = (443, 6443)
"""Where clusters have their API server: its Service's port, and most often its own."""


@dataclass(frozen=True)
class GpuVendor:
    """How one vendor's device plugin and node labeller spell things."""

    resource: str
    product_label: str

    @property
    def domain(self) -> str:
        """What all names of the vendor's device plugin begin with."""
        return self.resource.partition("/")[0]

    @property
    def toleration(self) -> dict[str, str]:
        """What every worker pod tolerates: the taint of nodes that only pods with GPUs may use."""
        return {"key": self.resource, "operator": "Exists", "effect": "NoSchedule"}


NVIDIA = GpuVendor(resource="nvidia.com/gpu", product_label="nvidia.com/gpu.product")
AMD = GpuVendor(resource="amd.com/gpu", product_label="amd.com/gpu.product-name")


def gpu_vendor(accelerator: str) -> GpuVendor:
    """By the product's name: AMD's labeller begins them with AMD."""
    return AMD if accelerator.startswith("AMD") else NVIDIA


def worker_group(role: str) -> str:
    """The Ray worker group of a role; the first role kept the name that it had when it was the only one."""
    return "gpu" if role == "serve" else role


def is_verification(container: str) -> bool:
    """Whether an init container compares files with their digest."""
    return container.startswith(VERIFY_CONTAINER)


def adapter_path(adapter: str) -> str:
    """Where the pods see an adapter's files; flat, since a mount cannot be made inside a read-only one."""
    return f"{ADAPTERS_PATH}/{adapter.replace('/', '+')}"


def rayservice(deployment: str) -> str:
    """The RayService; KubeRay derives RayCluster, pod and service names of it."""
    return deployment


def serve_service(deployment: str) -> str:
    """The Service that KubeRay makes for the RayService's endpoints."""
    return f"{rayservice(deployment)}-serve-svc"


def token_secret(deployment: str, uid: str) -> str:
    """The endpoint's bearer token. Nobody knows the object's UID before the object exists, and so nobody can have put a
    Secret of this name there for the operator to find.

    What remains: whoever may create Secrets, and reads the UID of a deployment before its first plan is carried out,
    can make one of this name and then knows the token.
    """
    return f"{former_token_secret(deployment)}-{hashlib.sha256(uid.encode()).hexdigest()[:10]}"


def former_token_secret(deployment: str) -> str:
    """As the first builds of 0.1.0 named it: a deployment that was recorded with it keeps it."""
    return f"{deployment}-token"


def token_secrets(deployment: str, uid: str) -> tuple[str, str]:
    """All that a deployment's token may be in."""
    return token_secret(deployment, uid), former_token_secret(deployment)


def network_policy(deployment: str) -> str:
    """Who reaches the pods and whom they reach."""
    return deployment


def head_network_policy(deployment: str) -> str:
    """What the head needs besides: its autoscaler talks to the API server."""
    return f"{deployment}.head"


def cache_claim(deployment: str) -> str:
    """The claim that keeps downloaded weights."""
    return f"{deployment}.weights"


def download_network_policy(deployment: str) -> str:
    """Whom the pods that fetch weights reach."""
    return f"{deployment}.weights"


def weights_job(deployment: str, content_hash: str) -> str:
    """A Job that fetches weights; equal content has an equal name, since a Job's pods never change."""
    return f"{deployment}-weights-{content_hash[:10]}"


def inspection_network_policy(deployment: str) -> str:
    """That the pods which read config.json reach nobody."""
    return f"{deployment}.inspection"


def inspection_job(deployment: str, content_hash: str) -> str:
    """A Job that reads config.json; equal content has an equal name, since a Job's pods never change."""
    return f"{deployment}-inspection-{content_hash[:10]}"


def is_given(name: str, deployment: str) -> bool:
    """Whether the RayService or a NetworkPolicy of a deployment has this name."""
    given = (network_policy, head_network_policy, download_network_policy, inspection_network_policy, rayservice)
    return name in {make(deployment) for make in given}


def revision(deployment: str, content_hash: str) -> str:
    """A ControllerRevision; equal content has an equal name."""
    return f"{deployment}-{content_hash[:10]}"


def labels(deployment: str, component: str) -> dict[str, str]:
    """Labels of every object that is made for a deployment."""
    return {
        NAME: "conclave-model",
        INSTANCE: deployment,
        COMPONENT: component,
        PART_OF: "conclave",
        MANAGED_BY: "conclave",
        MODEL_DEPLOYMENT: deployment,
    }


def pod_selector(deployment: str) -> dict[str, str]:
    """Selects the deployment's pods, head and workers; small, since selectors outlive builders."""
    return {MODEL_DEPLOYMENT: deployment}


def head_selector(deployment: str) -> dict[str, str]:
    """Selects the deployment's head pods."""
    return {MODEL_DEPLOYMENT: deployment, RAY_NODE_TYPE: "head"}


def worker_selector(deployment: str) -> dict[str, str]:
    """Selects the deployment's worker pods, those that hold GPUs."""
    return {MODEL_DEPLOYMENT: deployment, RAY_NODE_TYPE: "worker"}


def weights_selector(deployment: str) -> dict[str, str]:
    """Selects the pods that fetch the deployment's weights."""
    return {WEIGHTS_OF: deployment}


def weights_pod_labels(deployment: str) -> dict[str, str]:
    """Of those pods; without the label that makes a pod one of the model's."""
    return _foreign_pod_labels(deployment, "weights") | weights_selector(deployment)


def inspection_selector(deployment: str) -> dict[str, str]:
    """Selects the pods that read the config.json of the deployment's weights."""
    return {INSPECTION_OF: deployment}


def inspection_pod_labels(deployment: str) -> dict[str, str]:
    """Of those pods; without the label that makes a pod one of the model's."""
    return _foreign_pod_labels(deployment, "inspection") | inspection_selector(deployment)


def _foreign_pod_labels(deployment: str, component: str) -> dict[str, str]:
    return {key: value for key, value in labels(deployment, component).items() if key != MODEL_DEPLOYMENT}


def selector_string(selector: dict[str, str]) -> str:
    """As a list request and the scale subresource spell it."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def endpoint_url(deployment: str, namespace: str, cluster_domain: str) -> str:
    """Base URL that OpenAI clients are given."""
    return f"http://{serve_service(deployment)}.{namespace}.svc.{cluster_domain}:{SERVE_PORT}/v1"

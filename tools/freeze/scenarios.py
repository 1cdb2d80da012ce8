"""The deployments that are frozen: their specs, what is edited later, and what their pods report in the end.

Between them they use the features that leave something in a cluster. A later version adds deployments for what it adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tools.freeze.reports import OTHER_DIGEST, Reports

Json = dict[str, Any]
H100, L40S = "NVIDIA-H100-80GB-HBM3", "NVIDIA-L40S"
NODES = (("h100-1", H100, 8, 81559), ("l40s-1", L40S, 4, 46068), ("l40s-2", L40S, 4, 46068))
"""Name, product, GPUs, MiB each: the arguments of `create_gpu_node`."""
CLAIMS = ("weights", "adapters")
SERVICE_ACCOUNT = "team-models"
OWN_IMAGE = "registry.test/team/serving:1.4"
CHART_VALUES: Json = {
    "serving": {"allowedImages": [OWN_IMAGE], "allowedServiceAccounts": [SERVICE_ACCOUNT]},
    "network": {"apiServerCidrs": ["10.96.0.1/32"]},
}
MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


@dataclass(frozen=True)
class Scenario:
    """One deployment, from its creation to the state that is frozen."""

    spec: Json
    edits: tuple[Json, ...] = ()
    """Merge patches of the whole object, one after the other, each when the one before has been carried out."""
    job: str = ""
    """Of its first Job's pod: `done` or what `pods.report_job` knows; nothing where there is none."""
    pods: str = ""
    """Of its model pods: `serving`, `starting`, `unfit`; nothing where they are left as KubeRay made them."""
    has_pods: bool = True
    """Whether KubeRay makes pods of it."""


def claim(path: str, name: str = "weights") -> Json:
    return {"persistentVolumeClaim": {"claimName": name, "path": path}}


def spec(model: Json, **parts: Any) -> Json:
    return {"model": model, "access": {"dataClass": "internal"}, "hardware": {"accelerators": [H100]}} | parts


def mixtral(**model: Any) -> Json:
    return {"id": MIXTRAL, "source": claim("mixtral")} | model


def stored(**model: Any) -> Json:
    store = {"uri": "s3://models/mixtral", "endpoint": "http://minio.storage:9000", "secretName": "store"}
    cache = {"size": "20Gi", "storageClassName": "shared"}
    return {"id": MIXTRAL, "source": {"objectStore": store}, "cache": cache} | model


def from_hub() -> Json:
    """The adapter too, in the same cache."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    tone = {"huggingFace": {"repository": "acme/tone", "revision": commit, "endpoint": "https://hub.test"}}
    source = {"huggingFace": {"repository": MIXTRAL, "revision": commit, "secretName": "hub"}}
    cache = {"size": "20Gi", "storageClassName": "shared"}
    return {"id": MIXTRAL, "source": source, "cache": cache, "adapters": [{"name": "tone", "source": tone}]}


def scenarios(reports: Reports) -> dict[str, Scenario]:
    """By the deployment's name."""
    tuned = {"name": "support-tone", "source": claim("support-tone", "adapters"), "maxRank": 32}
    tracing = {"tracing": {"endpoint": "http://collector.telemetry:4318", "samplingRatio": "0.05"}}
    resources = {"head": {"cpu": "2", "memory": "8Gi"}, "worker": {"cpu": "4", "memory": "48Gi"}}
    runtime = {"image": OWN_IMAGE, "serviceAccountName": SERVICE_ACCOUNT, "resources": resources}
    pods = {
        "head": {
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "system", "operator": "Exists"}],
        },
        "podLabels": {"example.com/cost-centre": "1234"},
        "podAnnotations": {"example.com/note": "a model of chat"},
        "resources": {"worker": {"sharedMemory": "32Gi", "devices": {"rdma/hca_shared_devices_a": 1}}},
        "probes": {"periodSeconds": 20, "timeoutSeconds": 15},
        "startupSeconds": 3600,
    }
    dense = {"id": LLAMA, "source": claim("llama"), "licence": {"accepted": "llama-3-community-license"}}
    drafts = {"method": "ngram", "numSpeculativeTokens": 4, "promptLookupMax": 4, "promptLookupMin": 2}
    two_nodes = {
        "parallelism": {"tensor": 4, "pipeline": 2},
        "hardware": {"accelerators": [L40S], "maxGpusPerReplica": 8},
        "access": {"dataClass": "restricted", "regions": ["eu-west-1"], "allowedNamespaces": ["chat"]},
    }
    return {
        "dense": Scenario(spec(dense), pods="serving"),
        "two-nodes": Scenario(spec(mixtral(), **two_nodes), pods="serving"),
        "adapters": Scenario(
            spec(mixtral(adapters=[tuned], servedName="mixtral", digest=reports.digest), telemetry=tracing),
            pods="starting",
        ),
        "downloaded": Scenario(spec(stored(digest=reports.digest)), job="done", pods="serving"),
        "from-hub": Scenario(spec(from_hub()), job="done", pods="serving"),
        "downloading": Scenario(spec(stored()), job="half", has_pods=False),
        "download-refused": Scenario(spec(stored()), job="refused", has_pods=False),
        "inspected": Scenario(
            spec({"id": "acme/own-mixtral", "source": claim("own")}), job="inspected", pods="starting"
        ),
        "inspecting": Scenario(spec({"id": "acme/newer", "source": claim("newer")}), has_pods=False),
        "not-fitting": Scenario(spec(mixtral(), hardware={"accelerators": ["NVIDIA-A100-SXM4-80GB"]}), has_pods=False),
        "suspended": Scenario(spec(mixtral()), pods="gone", edits=({"spec": {"suspend": True}},)),
        "own-runtime": Scenario(spec(mixtral(), runtime=runtime), pods="serving"),
        "drafting": Scenario(spec(dense, engine={"speculative": drafts}), pods="serving"),
        "own-pods": Scenario(spec(mixtral(), runtime=pods), pods="serving"),
        "labelled-download": Scenario(
            spec(stored(), runtime=pods, hardware={"accelerators": [H100], "nodeSelector": {"pool": "h100"}}),
            job="half",
            has_pods=False,
        ),
        "edited": Scenario(
            spec(mixtral(), scaling={"minReplicas": 1, "maxReplicas": 3}),
            edits=(
                {"spec": {"scaling": {"targetConcurrency": 12}}},
                {"spec": {"engine": {"maxModelLen": 8192}}},
                {"spec": {"access": {"allowedNamespaces": ["chat", "search"]}}},
            ),
            pods="starting",
        ),
        "refreshed": Scenario(
            spec(mixtral()),
            edits=({"metadata": {"annotations": {"conclave.dev/refresh": "2026-11-30"}}},),
            pods="serving",
        ),
        "unfit-weights": Scenario(spec(mixtral(digest=OTHER_DIGEST)), pods="unfit"),
    }

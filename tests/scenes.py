"""Deployments, plans and cluster objects for tests of the pure core: one place that knows their shape."""

from __future__ import annotations

from typing import Any

from conclave.api import plan as wire
from conclave.api.modeldeployment import ModelDeployment
from conclave.api.plan import PlanMemory
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding
from conclave.kubernetes.objects import JsonObject
from conclave.planning.roles import Plan
from conclave.settings import OperatorSettings

GIB = 2**30
SETTINGS = OperatorSettings(image="images.test/conclave-serving:0.1.0")
DIGEST = "sha256:" + "ab" * 32


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A deep merge: mappings are merged, anything else is replaced."""
    result = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def make_deployment(spec: dict[str, Any] | None = None, **metadata: Any) -> ModelDeployment:
    """Mixtral from a claim, with what a test changes merged in."""
    return ModelDeployment.model_validate(
        {
            "apiVersion": "conclave.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {
                "name": "mixtral",
                "namespace": "llm",
                "uid": "11111111-1111-1111-1111-111111111111",
                "generation": 1,
                **metadata,
            },
            "spec": merged(
                {
                    "model": {
                        "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
                        "source": {"persistentVolumeClaim": {"claimName": "weights", "path": "mixtral"}},
                    },
                    "access": {"dataClass": "internal"},
                },
                spec or {},
            ),
        }
    )


def make_plan(*, tensor: int = 2, pipeline: int = 1, nodes: int = 1, **changes: Any) -> Plan:
    """A plan whose GPUs are spread evenly over its nodes."""
    gpus = tensor * pipeline
    memory = PlanMemory(
        total=80 * GIB,
        weights=44 * GIB,
        kv_cache=26 * GIB,
        activations=2 * GIB,
        graphs=GIB,
        overhead=GIB,
        free=6 * GIB,
    )
    fields: dict[str, Any] = {
        "accelerator": "NVIDIA-H100-80GB-HBM3",
        "tensor": tensor,
        "pipeline": pipeline,
        "gpus_per_replica": gpus,
        "nodes_per_replica": nodes,
        "gpus_per_node": gpus // nodes,
        "max_model_len": 32768,
        "longest_context_tokens": 425_000,
        "kv_cache_tokens": 425_000,
        "max_concurrency": 12,
        "memory": memory,
        "because": ("TP=2 holds the weights",),
    }
    return Plan.of_flat(wire.Plan.model_validate(fields | changes))


def make_pod(kind: str, *, name: str = "", ready: bool = True, **status: Any) -> JsonObject:
    """A head or worker pod as KubeRay makes it; running unless `status` says otherwise."""
    running = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": str(ready)}, {"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{"name": "ray", "ready": ready, "state": {"running": {}}}],
    }
    name = name or f"mixtral-x7k2p-{kind}-abcde"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "llm",
            "uid": f"uid-of-{name}",
            "labels": {
                "conclave.dev/model-deployment": "mixtral",
                "ray.io/cluster": "mixtral-x7k2p",
                "ray.io/node-type": kind,
            },
        },
        "spec": {
            "containers": [
                {
                    "name": "ray",
                    "resources": {
                        "requests": {"cpu": "5", "memory": "20Gi", "nvidia.com/gpu": "2"},
                        "limits": {"cpu": "5", "memory": "20Gi", "nvidia.com/gpu": "2"},
                    },
                }
            ]
        },
        "status": status or running,
    }


def waiting(reason: str, message: str = "", *, container: str = "ray") -> JsonObject:
    """The status of a pod one of whose containers waits."""
    part = "containerStatuses" if container == "ray" else "initContainerStatuses"
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", part: [{"name": container, "state": state}]}


def dead(reason: str, message: str = "", *, exit_code: int = 1, container: str = "ray") -> JsonObject:
    """The status of a pod one of whose containers has ended badly."""
    part = "containerStatuses" if container == "ray" else "initContainerStatuses"
    state = {"terminated": {"reason": reason, "message": message, "exitCode": exit_code}}
    return {"phase": "Failed", part: [{"name": container, "state": state}]}


def make_event(item: JsonObject, reason: str, message: str) -> JsonObject:
    """A warning about an object."""
    metadata = item["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "type": "Warning",
        "metadata": {"name": f"{metadata['name']}.{reason.lower()}", "namespace": "llm"},
        "involvedObject": {"kind": item["kind"], "name": metadata["name"], "uid": metadata["uid"]},
        "reason": reason,
        "message": message,
        "lastTimestamp": "2026-11-23T12:00:00Z",
    }


def make_rayservice(*, serving: bool = False, upgrading: bool = False, **service: Any) -> JsonObject:
    """A RayService that KubeRay has looked at."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "mixtral", "namespace": "llm", "uid": "uid-of-rayservice", "generation": 1},
        "spec": {},
        "status": {
            "observedGeneration": 1,
            "conditions": [
                {
                    "type": "Ready",
                    "status": str(serving),
                    "reason": "NonZeroServeEndpoints" if serving else "Initializing",
                },
                {"type": "UpgradeInProgress", "status": str(upgrading)},
            ],
            "activeServiceStatus" if serving else "pendingServiceStatus": {
                "rayClusterName": "mixtral-x7k2p",
                **service,
            },
        },
    }


def refusal(message: str, reason: Reason = Reason.NOTHING_FITS) -> Finding:
    """Why there is no plan for the deployment of `make_deployment`."""
    return Finding(
        condition=ConditionType.PLAN_READY, reason=reason, subject="ModelDeployment llm/mixtral", seen=message
    )

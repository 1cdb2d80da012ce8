"""The RayService of a deployment, for KubeRay 1.6.2.

Worker pods come and go by Serve's own demand through the in-tree autoscaler, always: KubeRay takes replica bounds over
only when it makes a cluster, so that a fixed size could never be changed without a second cluster.
"""

from __future__ import annotations

import re

import yaml

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.engine.load_bounds import IDLE_TIMEOUT_S
from conclave.engine.serve_config import build_serve_config
from conclave.kubernetes.hardening import CONTAINER_SECURITY
from conclave.kubernetes.objects import JsonObject, content_hash, without_empty
from conclave.modeldeployment.objects import metadata
from conclave.modeldeployment.pods import SCRATCH_MOUNTS
from conclave.modeldeployment.serving.pods import head_template, own_address, worker_template
from conclave.planning.roles import Plan, Role
from conclave.settings import OperatorSettings

API_VERSION = "ray.io/v1"
KIND = "RayService"
MOST_REPLICAS = 1000
"""Upper bound of `scaling.maxReplicas`; below it Serve's own bounds decide."""
OBJECT_STORE_BYTES = 1 << 30
"""Requests and answers are small; Ray's default would take 30 % of the memory."""

_FAST_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_./-]{1,120}")


def build_rayservice(
    deployment: ModelDeployment, plan: Plan, settings: OperatorSettings, token_secret: str = ""
) -> JsonObject:
    """Deterministic; holds only fields that Conclave owns. `token_secret` is the recorded one, empty for a new object.

    `excludeHeadPodFromServeSvc` stays unset: false is its default, and KubeRay drops it when it sets its finalizer.
    """
    serve_config = build_serve_config(
        deployment,
        plan,
        model_path=names.MODEL_PATH,
        token_path=names.TOKEN_PATH,
        adapter_paths={adapter.name: names.adapter_path(adapter.name) for adapter in deployment.spec.model.adapters},
        http_host=settings.any_address,
        draft_path=names.DRAFT_PATH,
        http_port=names.SERVE_PORT,
    )
    model = deployment.spec.model
    annotations = without_empty(
        {
            names.MODEL: model.id,
            names.MODEL_REVISION: model.commit,
            names.MODEL_DIGEST: model.digest,
            names.DATA_CLASS: deployment.spec.access.data_class,
        }
    )
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata(deployment, names.rayservice(deployment.metadata.name), "rayservice", annotations),
        "spec": {
            "upgradeStrategy": {"type": "NewCluster"},
            "serveConfigV2": serve_config_text(serve_config),
            "rayClusterConfig": _cluster(deployment, plan, settings, serve_config, token_secret),
        },
    }


def _cluster(
    deployment: ModelDeployment, plan: Plan, settings: OperatorSettings, serve_config: JsonObject, token_secret: str
) -> JsonObject:
    head = head_template(deployment, settings, token_secret)
    workers = [worker_template(deployment, role, settings, token_secret) for role in plan.roles]
    arguments = serve_config["applications"][0]["args"]
    marker = _rollout_hash(workers[0]["spec"]["tolerations"], head["spec"].get("tolerations", []), arguments)
    for template in (head, *workers):
        template["metadata"]["annotations"][names.ROLLOUT] = marker
    return {
        "rayVersion": settings.ray_version,
        "suspend": deployment.spec.suspend,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": IDLE_TIMEOUT_S,
            "imagePullPolicy": settings.image_pull_policy,
            "securityContext": CONTAINER_SECURITY,
            "env": [{"name": "HOME", "value": "/tmp"}, {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],  # noqa: S108
            "resources": {part: {"cpu": "500m", "memory": "1Gi"} for part in ("requests", "limits")},
            "volumeMounts": [
                *SCRATCH_MOUNTS[:2],
                {"name": names.API_TOKEN_VOLUME, "mountPath": names.API_TOKEN_DIRECTORY, "readOnly": True},
            ],
        },
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {
                "dashboard-host": settings.any_address,
                "num-gpus": "0",
                **_start_options(settings),
            },
            "template": head,
        },
        "workerGroupSpecs": [
            _worker_group(deployment, role, worker, settings) for role, worker in zip(plan.roles, workers, strict=True)
        ],
    }


def _start_options(settings: OperatorSettings) -> dict[str, str]:
    """Of `ray start` on every node. KubeRay writes them into a shell command, which knows the pod's variables."""
    address = {"node-ip-address": f"${names.HOST_IP_VARIABLE}"} if own_address(settings) else {}
    return {**address, "object-store-memory": str(OBJECT_STORE_BYTES)}


def _worker_group(
    deployment: ModelDeployment, role: Role, worker: JsonObject, settings: OperatorSettings
) -> JsonObject:
    """The worker pods of a role; a new cluster begins with those of the least replicas.

    Ray and its autoscaler count only resources whose name ends with gpu, so that others are told as num-gpus.
    """
    gpus = {"num-gpus": str(role.gpus_per_node)} if role.resource else {}
    return {
        "groupName": names.worker_group(role.name),
        "replicas": deployment.spec.scaling.min_replicas * role.nodes_per_replica,
        "minReplicas": 0,
        "maxReplicas": MOST_REPLICAS * role.nodes_per_replica,
        "numOfHosts": 1,
        "rayStartParams": {**gpus, **_start_options(settings)},
        "template": worker,
    }


def in_place(recorded: JsonObject, fresh: JsonObject) -> JsonObject:
    """A recorded RayService with what may change without new pods taken from a fresh one.

    That is load bounds, size, suspension and the data class.
    """
    serve_config = _read(recorded)
    (application,) = serve_config["applications"]
    (fresh_application,) = _read(fresh)["applications"]
    application["deployments"] = fresh_application["deployments"]
    recorded_cluster, fresh_cluster = recorded["spec"]["rayClusterConfig"], fresh["spec"]["rayClusterConfig"]
    groups = [
        {**group, "replicas": fresh_group["replicas"]}
        for group, fresh_group in zip(
            recorded_cluster["workerGroupSpecs"], fresh_cluster["workerGroupSpecs"], strict=True
        )
    ]
    data_class = {names.DATA_CLASS: fresh["metadata"]["annotations"][names.DATA_CLASS]}
    return {
        **recorded,
        "metadata": {**recorded["metadata"], "annotations": recorded["metadata"]["annotations"] | data_class},
        "spec": {
            **recorded["spec"],
            "serveConfigV2": serve_config_text(serve_config),
            "rayClusterConfig": {
                **recorded_cluster,
                "suspend": fresh_cluster["suspend"],
                "workerGroupSpecs": groups,
            },
        },
    }


def serve_config_text(serve_config: JsonObject) -> str:
    """YAML, letter for letter what PyYAML's own writer makes: recorded builds hold its text.

    libyaml is ten times as fast, and differs only where a key is empty or has characters that need quotes.
    """
    dumper = _FAST_DUMPER if _has_plain_keys(serve_config) else yaml.SafeDumper
    text: str = yaml.dump(serve_config, Dumper=dumper, sort_keys=True, width=1_000_000)
    return text


def _read(rayservice: JsonObject) -> JsonObject:
    serve_config: JsonObject = yaml.load(rayservice["spec"]["serveConfigV2"], Loader=_FAST_LOADER)  # noqa: S506
    return serve_config


def _has_plain_keys(value: object) -> bool:
    if isinstance(value, dict):
        return all(_PLAIN_KEY.fullmatch(str(key)) and _has_plain_keys(below) for key, below in value.items())
    return not isinstance(value, list) or all(map(_has_plain_keys, value))


def _rollout_hash(tolerations: list[JsonObject], of_head: list[JsonObject], arguments: JsonObject) -> str:
    """Of what must replace pods: tolerations, which KubeRay's hash leaves out, and the engine, which would restart."""
    return content_hash([tolerations, arguments, *([of_head] if of_head else [])])[:16]

"""The Job that reads the config.json of a model that the catalogue does not know, and its network policy: nobody.

Like a download it tells what it found by ending (docs/adr/0009, 0010). It is created once under a name made of its
content, and kept: its pod's message is the record of what was found.
"""

from __future__ import annotations

from conclave.api.modeldeployment import ModelDeployment
from conclave.manifests import names
from conclave.manifests.objects import content_hash, metadata, without_empty
from conclave.manifests.pods import CONTAINER_SECURITY, POD_SECURITY, image, model_files, placement, pull_secrets
from conclave.manifests.settings import OperatorSettings
from conclave.manifests.weights_job import FOREVER
from conclave.observation import JsonObject


def inspection_key(deployment: ModelDeployment, cache: JsonObject | None) -> str:
    """Of what is looked at: a refresh looks again, and so does a cache that was made anew."""
    model = deployment.spec.model
    refresh = deployment.metadata.annotations.get(names.REFRESH, "")
    return content_hash([model.source.to_wire(), model.digest, refresh, cache and cache["metadata"]["uid"]])[:16]


def build_inspection_policy(deployment: ModelDeployment) -> JsonObject:
    """No peer and no port: the pod reads a volume and ends."""
    name = deployment.metadata.name
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(deployment, names.inspection_network_policy(name), "inspection"),
        "spec": {
            "podSelector": {"matchLabels": names.inspection_selector(name)},
            "policyTypes": ["Ingress", "Egress"],
        },
    }


def build_inspection_job(deployment: ModelDeployment, settings: OperatorSettings, key: str) -> JsonObject:
    """Tried for ever, at growing intervals of up to five minutes: whoever mends the files restarts nothing."""
    spec: JsonObject = {
        "backoffLimit": FOREVER,
        "podReplacementPolicy": "Failed",
        "template": {
            "metadata": {"labels": names.inspection_pod_labels(deployment.metadata.name)},
            "spec": _pod(deployment, settings),
        },
    }
    described = metadata(
        deployment, names.inspection_job(deployment.metadata.name, content_hash([spec, key])), "inspection"
    )
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": described | {"labels": described["labels"] | {names.INSPECTION_KEY: key}},
        "spec": spec,
    }


def _pod(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """On any node that the deployment may use and the volume is mounted on; it takes no accelerator."""
    volume, mount = model_files(deployment)
    report = names.TERMINATION_MESSAGE_PATH
    container = {
        "name": names.INSPECTION_CONTAINER,
        "image": image(deployment, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "conclave_weights", "inspect", "--report", report, names.MODEL_PATH],
        # The headers of a checkpoint of 100,000 tensors take some hundred MiB.
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "volumeMounts": [mount],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": report,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec = without_empty(
        {
            **placement(deployment, None),
            "containers": [container],
            "imagePullSecrets": pull_secrets(deployment, settings),
            "priorityClassName": deployment.spec.runtime.priority_class_name,
            "restartPolicy": "OnFailure",
            "securityContext": POD_SECURITY,
            "volumes": [volume],
        }
    )
    spec["automountServiceAccountToken"] = False
    return spec

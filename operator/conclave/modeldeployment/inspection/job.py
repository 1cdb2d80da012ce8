"""The Job that reads the config.json of a model that the catalogue does not know, and its network policy: nobody.

Like a download it tells what it found by ending (docs/adr/0009, 0010). It is created once under a name made of its
content, and kept: its pod's message is the record of what was found.
"""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.job_builder import build_job, job_pod, job_spec, reporting_container
from conclave.kubernetes.objects import JsonObject, content_hash
from conclave.kubernetes.peers import build_policy
from conclave.kubernetes.reports import REPORT_PATH
from conclave.modeldeployment.objects import metadata
from conclave.modeldeployment.pods import for_job, image, job_placement, model_files, pull_secrets
from conclave.settings import OperatorSettings


def inspection_key(deployment: ModelDeployment, cache: JsonObject | None) -> str:
    """Hash of the weights to inspect. A refresh changes it, and so does a new cache claim."""
    model = deployment.spec.model
    refresh = deployment.metadata.annotations.get(names.REFRESH, "")
    return content_hash([model.source.to_wire(), model.digest, refresh, cache and cache["metadata"]["uid"]])[:16]


def build_inspection_policy(deployment: ModelDeployment) -> JsonObject:
    """A policy without peers and ports: the pod only reads a volume."""
    name = deployment.metadata.name
    return build_policy(
        metadata(deployment, names.inspection_network_policy(name), "inspection"),
        names.inspection_selector(name),
        egress=[],
        is_closed=True,
    )


def build_inspection_job(deployment: ModelDeployment, settings: OperatorSettings, key: str) -> JsonObject:
    """The Job retries without end, at intervals of up to five minutes: a repair of the files needs no restart."""
    name = deployment.metadata.name
    spec = job_spec(names.inspection_pod_labels(name), _pod(deployment, settings))
    described = metadata(deployment, names.inspection_job(name, content_hash([spec, key])), "inspection")
    return build_job(described, {names.INSPECTION_KEY: key}, for_job(deployment, spec))


def _pod(deployment: ModelDeployment, settings: OperatorSettings) -> JsonObject:
    """On any node that the deployment may use and the volume is mounted on. The pod takes no accelerator."""
    volume, mount = model_files(deployment)
    container = reporting_container(
        names.INSPECTION_CONTAINER,
        image(deployment, settings),
        ["python", "-m", "conclave_weights", "inspect", "--report", REPORT_PATH, names.MODEL_PATH],
        # The headers of a checkpoint of 100,000 tensors take some hundred MiB.
        resources={"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        volumeMounts=[mount],
    )
    return job_pod(
        [container],
        [volume],
        job_placement(deployment),
        has_fixed_ids=settings.fixed_user_ids,
        imagePullSecrets=pull_secrets(deployment, settings),
        priorityClassName=deployment.spec.runtime.priority_class_name,
    )

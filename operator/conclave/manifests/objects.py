"""What all built objects share: metadata with an owner reference, a canonical hash, and JSON without empty parts."""

from __future__ import annotations

import hashlib
import json

from conclave.api.modeldeployment import API_VERSION, KIND, ModelDeployment
from conclave.manifests import names
from conclave.observation import JsonObject


def metadata(
    deployment: ModelDeployment, name: str, component: str, annotations: dict[str, str] | None = None
) -> JsonObject:
    """Metadata of an object that belongs to the deployment and goes when it goes."""
    return without_empty(
        {
            "name": name,
            "namespace": deployment.metadata.namespace,
            "labels": names.labels(deployment.metadata.name, component),
            "annotations": annotations,
            "ownerReferences": [owner_reference(deployment)],
        }
    )


def owner_reference(deployment: ModelDeployment) -> JsonObject:
    """The garbage collector follows it; there is no finalizer."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": deployment.metadata.name,
        "uid": deployment.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def content_hash(content: object) -> str:
    """Hex digest of the canonical JSON of some content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def without_empty(json_object: JsonObject) -> JsonObject:
    """Without keys whose value is None, "", [] or {}: server-side apply would own them for nothing."""
    return {key: value for key, value in json_object.items() if value not in (None, "", [], {}, ())}

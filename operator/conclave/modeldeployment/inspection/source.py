"""Where the weights are, in words."""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import ModelDeployment


def files_of(deployment: ModelDeployment) -> str:
    """Where the weights are, for messages."""
    source, namespace = deployment.spec.model.source, deployment.metadata.namespace
    if source.downloaded is not None:
        claim = names.cache_claim(deployment.metadata.name)
        return f"PersistentVolumeClaim {namespace}/{claim}, filled from {source.downloaded.uri}"
    if source.image is not None:
        where, path = f"image {source.image.reference}", source.image.path
    else:
        claimed = source.persistent_volume_claim
        name, path = (claimed.claim_name, claimed.path) if claimed else ("", "")
        where = f"PersistentVolumeClaim {namespace}/{name}"
    return f"{where}, path {path}" if path else where

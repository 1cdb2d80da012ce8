"""The Secret of an endpoint's bearer token: created once with a random value, never patched, never read by us."""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.objects import metadata


def new_token_secret(deployment: ModelDeployment) -> str:
    """Its name where nothing is recorded yet; what is recorded is kept, since clients know it."""
    return names.token_secret(deployment.metadata.name, deployment.metadata.uid)


def build_token_secret(deployment: ModelDeployment, name: str, token: str) -> JsonObject:
    """Kubernetes encodes `stringData`; the token itself is the caller's, since builders are pure."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(deployment, name, "endpoint-token"),
        "type": "Opaque",
        "stringData": {names.TOKEN_KEY: token},
    }

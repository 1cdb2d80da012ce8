"""Metadata of the objects that are made for a ModelDeployment."""

from __future__ import annotations

from conclave import names
from conclave.api.modeldeployment import API_VERSION, KIND, ModelDeployment
from conclave.kubernetes import objects
from conclave.kubernetes.objects import JsonObject, Owner


def owner_of(deployment: ModelDeployment) -> Owner:
    """The ModelDeployment as the owner of its objects."""
    metadata = deployment.metadata
    return Owner(API_VERSION, KIND, metadata.namespace, metadata.name, metadata.uid)


def metadata(
    deployment: ModelDeployment, name: str, component: str, annotations: dict[str, str] | None = None
) -> JsonObject:
    """Metadata of an object that belongs to the deployment."""
    return objects.metadata(owner_of(deployment), name, names.labels(deployment.metadata.name, component), annotations)

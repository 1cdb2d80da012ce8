"""What the builder needs of KubeRay's RayService CRD, of which the cluster room asks what the installed one lacks."""

from __future__ import annotations

from conclave.kubernetes.objects import JsonObject

REQUIRED_FIELDS = (
    "spec.serveConfigV2",
    "spec.upgradeStrategy.type",
    "spec.rayClusterConfig.authOptions.mode",
    "spec.rayClusterConfig.autoscalerOptions.version",
    "spec.rayClusterConfig.suspend",
    "spec.rayClusterConfig.workerGroupSpecs.template.spec.volumes.image",
)
"""An unknown field is refused by server-side apply; these came last, KubeRay 1.5 and 1.6 have them all."""
TRIED_VERSION = "1.6.2"


def missing_fields(schema: JsonObject) -> tuple[str, ...]:
    """Of REQUIRED_FIELDS, those that the RayService's OpenAPI schema lacks."""
    return tuple(field for field in REQUIRED_FIELDS if not _has(schema, field.split(".")))


def _has(schema: object, path: list[str]) -> bool:
    for step in path:
        schema = _below(_below(schema, "items") or schema, "properties")
        if not isinstance(schema, dict) or step not in schema:
            return False
        schema = schema[step]
    return True


def _below(schema: object, field: str) -> object:
    return schema.get(field) if isinstance(schema, dict) else None

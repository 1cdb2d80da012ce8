"""What makes a pod fit the restricted Pod Security Standard; each pod that Conclave builds has both."""

from __future__ import annotations

from conclave.kubernetes.objects import JsonObject

USER_ID = 1000
"""User and group of every container, as the images have them."""
CONTAINER_SECURITY: JsonObject = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY: JsonObject = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}

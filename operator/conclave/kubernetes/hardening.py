"""What makes a pod fit the restricted Pod Security Standard; each pod that Conclave builds has both.

Where the platform assigns users, as OpenShift's restricted-v2 does, the pod names none: the platform refuses pods that
name one outside of their namespace's range.
"""

from __future__ import annotations

from conclave.kubernetes.objects import JsonObject

USER_ID = 1000
"""User and group of every container, as the images have them, where the platform assigns no others."""
CONTAINER_SECURITY: JsonObject = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_FIXED_IDS = {"runAsUser": USER_ID, "runAsGroup": USER_ID, "fsGroup": USER_ID}


def pod_security(*, has_fixed_ids: bool) -> JsonObject:
    """Of the whole pod. `fsGroup` is what lets another user than root read Secrets and write to claims."""
    return {
        "runAsNonRoot": True,
        **(_FIXED_IDS if has_fixed_ids else {}),
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }

"""What OpenShift's SecurityContextConstraints `restricted-v2` do to a pod, as far as our pods are concerned.

After bindata/bootkube/scc-manifests/0000_20_kube-apiserver-operator_00_scc-restricted-v2.yaml of
openshift/cluster-kube-apiserver-operator: MustRunAsRange, MustRunAs for fsGroup, all capabilities dropped, no
privilege escalation, RuntimeDefault, and these kinds of volumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FIRST_ID, IDS = 1_000_650_000, 10_000
"""Of a namespace: annotations openshift.io/sa.scc.uid-range and openshift.io/sa.scc.supplemental-groups."""
_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def refusals(pod: dict[str, Any]) -> Iterator[str]:
    """Why the constraints would not admit the pod's spec; nothing where they would."""
    security = pod.get("securityContext", {})
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    for where, context in [
        ("pod", security),
        *((item["name"], item.get("securityContext", {})) for item in containers),
    ]:
        user = context.get("runAsUser", FIRST_ID)
        if not FIRST_ID <= user < FIRST_ID + IDS:
            yield f"{where}: runAsUser {user} is outside of the namespace's range"
        if (profile := context.get("seccompProfile", {"type": "RuntimeDefault"})) != {"type": "RuntimeDefault"}:
            yield f"{where}: seccompProfile {profile}"
    if (group := security.get("fsGroup", FIRST_ID)) != FIRST_ID:
        yield f"pod: fsGroup {group} is not the namespace's"
    for item in containers:
        context = item.get("securityContext", {})
        if context.get("allowPrivilegeEscalation", True) or context.get("privileged"):
            yield f"{item['name']}: may escalate its privileges"
        if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
            yield f"{item['name']}: keeps capabilities"
    for volume in pod.get("volumes", []):
        if kinds := volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {volume['name']}: kind {kinds} is not allowed"
    if any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")):
        yield "pod: shares a namespace of the host"

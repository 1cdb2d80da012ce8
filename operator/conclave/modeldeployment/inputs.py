"""What a pass comes from: while it stays the same, another pass would give the same result (docs/adr/0021)."""

from __future__ import annotations

from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import container_statuses
from conclave.modeldeployment.observed import Observed


def inputs_of(observed: Observed, *, rests_on_nodes: bool) -> object:
    """Objects by their versions. Nodes count only while the decision rests on them.

    How long a pod has waited or been dead matters while one is in trouble: then time alone changes the status.
    """
    pods = (*observed.pods, *observed.weights.pods, *observed.inspection.pods)
    if observed.events or not all(map(_is_at_work, pods)):
        return None
    objects = (
        *((observed.rayservice,) if observed.rayservice else ()),
        *observed.rayclusters,
        *pods,
        *observed.revisions,
        *observed.network_policies,
        *observed.weights.jobs,
        *observed.inspection.jobs,
        *((observed.cache,) if observed.cache else ()),
    )
    versions = tuple((item["metadata"].get("uid"), item["metadata"].get("resourceVersion")) for item in objects)
    inventory = observed.inventory if rests_on_nodes else None
    configs = {name: hash(frozenset(data.items())) for name, data in observed.config_maps.items()}
    return versions, inventory, observed.kuberay, observed.claims, configs, observed.failures


def _is_at_work(pod: JsonObject) -> bool:
    return pod.get("status", {}).get("phase") in ("Running", "Succeeded") and not any(
        "waiting" in container.get("state", {}) or container.get("lastState") for container in container_statuses(pod)
    )

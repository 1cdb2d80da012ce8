"""What keeps a deployment's pods off a node: taints, a cordon, a node that is not ready.

Pure; called by `inventory`. Each barrier says what was seen and what would admit the pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from conclave.api.modeldeployment import Toleration
from conclave.kubernetes.objects import JsonObject
from conclave.names import GpuVendor
from conclave.planning.inventory import Barrier, tolerations_in_words

_KEEPS_AWAY = ("NoSchedule", "NoExecute")
_CORDON = "node.kubernetes.io/unschedulable"
_STATES: Mapping[str, tuple[str, str]] = {
    "node.kubernetes.io/not-ready": ("not ready", "see `kubectl describe node`"),
    "node.kubernetes.io/unreachable": ("unreachable", "see whether its kubelet runs and reaches the API server"),
    "node.kubernetes.io/out-of-service": ("out of service", "start it again and take the taint off"),
    "node.kubernetes.io/memory-pressure": ("short of memory", "free memory on it"),
    "node.kubernetes.io/disk-pressure": ("short of disk space", "free disk space on it"),
    "node.kubernetes.io/pid-pressure": ("short of process ids", "end processes on it"),
    "node.kubernetes.io/network-unavailable": ("without a network", "see whether the network plugin runs on it"),
    "node.cloudprovider.kubernetes.io/uninitialized": ("not initialized", "wait for the cloud's controller"),
    "node.cloudprovider.kubernetes.io/shutdown": ("shut down", "start it"),
    "node.cilium.io/agent-not-ready": ("without a network", "see whether Cilium's agent runs on it"),
    "ToBeDeletedByClusterAutoscaler": ("about to be deleted", "the cluster autoscaler removes it"),
    "DeletionCandidateOfClusterAutoscaler": ("a candidate for deletion", "the cluster autoscaler may remove it"),
    "karpenter.sh/disrupted": ("about to be deleted", "Karpenter removes it"),
    "karpenter.sh/disruption": ("about to be deleted", "Karpenter removes it"),
    "karpenter.sh/unregistered": ("not registered", "wait for Karpenter"),
}
"""Taints that tell of a state which passes or has to be mended: a toleration for them is no advice."""


def barriers_of(node: JsonObject, tolerations: Iterable[Toleration], vendor: GpuVendor) -> tuple[Barrier, ...]:
    """What keeps pods with these tolerations, and the one that each worker has, off the node."""
    return tuple(_barriers(node, (Toleration.model_validate(vendor.toleration), *tolerations)))


def _barriers(node: JsonObject, tolerations: tuple[Toleration, ...]) -> Iterator[Barrier]:
    spec, status = node.get("spec", {}), node.get("status", {})
    taints = [taint for taint in spec.get("taints", []) if taint["effect"] in _KEEPS_AWAY]
    is_cordoned = spec.get("unschedulable", False) or any(taint["key"] == _CORDON for taint in taints)
    cordon = {"key": _CORDON, "effect": "NoSchedule"}
    if is_cordoned and not any(tolerates(toleration, cordon) for toleration in tolerations):
        yield Barrier(seen="cordoned (spec.unschedulable is true)", remedy="`kubectl uncordon` admits pods again")
    ready = _ready(status)
    if ready != "True":
        yield Barrier(
            seen=f"not ready (its condition Ready is {ready})", remedy="see `kubectl describe node`, and mend it"
        )
    refused = [taint for taint in taints if taint["key"] != _CORDON and not _is_tolerated(taint, tolerations)]
    for taint in refused:
        if taint["key"] in _STATES and ready == "True":
            state, remedy = _STATES[taint["key"]]
            yield Barrier(seen=f"{state} (taint {taint_in_words(taint)})", remedy=remedy)
    keeping = [taint for taint in refused if taint["key"] not in _STATES]
    if keeping:
        lacked = tuple(map(_toleration_for, keeping))
        words = " and ".join(map(taint_in_words, keeping))
        seen = f"taint {words} is not tolerated" if len(keeping) == 1 else f"taints {words} are not tolerated"
        if passing := [taint for taint in keeping if _is_tolerated_for_a_while(taint, tolerations)]:
            seen += (
                f" ({', '.join(map(taint_in_words, passing))} only for tolerationSeconds, after which pods are evicted)"
            )
        yield Barrier(seen=seen, remedy=f"add hardware.tolerations {tolerations_in_words(lacked)}", tolerations=lacked)


def _ready(status: JsonObject) -> str:
    conditions = status.get("conditions", [])
    return next((condition["status"] for condition in conditions if condition["type"] == "Ready"), "missing")


def tolerates(toleration: Toleration, taint: JsonObject) -> bool:
    """As the scheduler reads it: no key with Exists is every key, no effect is every effect."""
    if toleration.effect not in (None, taint["effect"]):
        return False
    if toleration.operator == "Exists":
        return toleration.key in (None, "", taint["key"])
    return bool(toleration.key == taint["key"] and (toleration.value or "") == taint.get("value", ""))


def _is_tolerated(taint: JsonObject, tolerations: tuple[Toleration, ...]) -> bool:
    """For as long as a pod runs: with tolerationSeconds a pod is evicted after that time."""
    return any(toleration.toleration_seconds is None and tolerates(toleration, taint) for toleration in tolerations)


def _is_tolerated_for_a_while(taint: JsonObject, tolerations: tuple[Toleration, ...]) -> bool:
    return any(tolerates(toleration, taint) for toleration in tolerations)


def taint_in_words(taint: JsonObject) -> str:
    """As kubectl writes it: key=value:effect, or key:effect."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def _toleration_for(taint: JsonObject) -> Toleration:
    """What tolerates this taint and nothing else. A taint that the API would not take as a toleration is no taint of
    a node, and is given as it is."""
    if taint.get("value"):
        return Toleration.model_construct(
            key=taint["key"], operator="Equal", value=taint["value"], effect=taint["effect"]
        )
    return Toleration.model_construct(key=taint["key"], operator="Exists", effect=taint["effect"])

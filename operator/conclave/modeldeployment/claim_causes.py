"""Checks of the PersistentVolumeClaims that the spec names."""

from __future__ import annotations

from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding
from conclave.modeldeployment.scene import Scene


def claim_unusable(scene: Scene) -> Finding | None:
    if _is_unreadable(scene, "persistentvolumeclaims"):
        return None
    for claim in scene.deployment.spec.claims:
        phase = scene.observed.claims.get(claim)
        subject = scene.name_of("PersistentVolumeClaim", claim)
        if phase is None:
            return Finding(
                condition=ConditionType.WEIGHTS_READY,
                reason=Reason.CLAIM_MISSING,
                subject=subject,
                seen="does not exist, although the spec names this claim",
                remedy="create the claim and put the weights there, or correct the name in the spec",
            )
        if phase == "Lost":
            return Finding(
                condition=ConditionType.WEIGHTS_READY,
                reason=Reason.CLAIM_LOST,
                subject=subject,
                seen="phase is Lost, expected Bound: the volume is gone",
                remedy="restore the volume, or name another claim in the spec",
            )
    return None


def claim_pending(scene: Scene) -> Finding | None:
    """A claim that is not bound. Checked after the pods, since a claim may wait until its first pod has a node."""
    phases = scene.observed.claims
    claim = next((claim for claim in scene.deployment.spec.claims if phases.get(claim) == "Pending"), None)
    if claim is None:
        return None
    return Finding(
        condition=ConditionType.WEIGHTS_READY,
        reason=Reason.CLAIM_PENDING,
        subject=scene.name_of("PersistentVolumeClaim", claim),
        seen="phase is Pending, expected Bound",
        remedy="`kubectl describe` the claim to see what its storage class waits for",
        is_stalled=False,
    )


def _is_unreadable(scene: Scene, resource: str) -> bool:
    return any(failure.resource == resource for failure in scene.observed.failures)

"""Why the config.json of a model that the catalogue does not know has not been read: what the inspection Job waits for.

What the Job found wrong with the files is a refusal of the plan, and not told here.
"""

from __future__ import annotations

from conclave.api.reasons import ConditionType, Reason
from conclave.catalogue.models import suggest_models
from conclave.finding import Finding
from conclave.kubernetes.pods import dead_containers
from conclave.modeldeployment.claim_causes import claim_pending
from conclave.modeldeployment.inspection.source import files_of
from conclave.modeldeployment.job_causes import job_waits, undone_pods
from conclave.modeldeployment.observed import Work
from conclave.modeldeployment.scene import Scene


def not_inspected(scene: Scene) -> Finding:
    """The first reason why the operator has not read the model's config.json yet; the Job may only need more time."""
    if scene.deployment.spec.suspend:
        return Finding(
            condition=ConditionType.PLAN_READY,
            reason=Reason.SUSPENDED,
            subject=scene.subject,
            seen="spec.suspend is true: the weights are not inspected",
            is_stalled=False,
        )
    work = scene.observed.inspection
    waits = job_waits(scene, work, ConditionType.PLAN_READY) or claim_pending(scene)
    found = waits or _container_failed(scene, work) or _inspecting(scene)
    return found.model_copy(update={"condition": ConditionType.PLAN_READY})


def _container_failed(scene: Scene, work: Work) -> Finding | None:
    """Failures that say nothing about the files: memory, an image without the command, a volume that cannot be read."""
    for pod in undone_pods(work):
        for container in dead_containers(pod):
            subject = scene.name_of("Pod", pod["metadata"]["name"])
            lines = [line.strip() for line in container.message.splitlines() if line.strip()]
            if container.reason == "OOMKilled":
                reason, words = Reason.OUT_OF_MEMORY, "it used more than its memory limit"
                remedy = "please report this; until then, give the model's config.json in spec.model.configRef"
            else:
                reason, words = Reason.INSPECTION_FAILED, lines[-1] if lines else f"exit code {container.exit_code}"
                remedy = "the Job tries again within five minutes; with spec.model.configRef no Job is needed"
            return Finding(
                condition=ConditionType.PLAN_READY,
                reason=reason,
                subject=subject,
                seen=f"container {container.name} ended: {words}",
                remedy=remedy,
                evidence=(subject, *lines[-8:]),
            )
    return None


def _inspecting(scene: Scene) -> Finding:
    model_id = scene.deployment.spec.model.id
    near = " or ".join(suggest_models(model_id))
    if not scene.is_downloaded:
        step = "after the download, config.json will be read from"
    else:
        step = "config.json is being read from"
    return Finding(
        condition=ConditionType.PLAN_READY,
        reason=Reason.INSPECTING,
        subject=scene.subject,
        seen=f"the catalogue does not know {model_id}{f' (did you mean {near}?)' if near else ''}: {step} "
        f"{files_of(scene.deployment)}",
        evidence=tuple(scene.name_of("Job", job["metadata"]["name"]) for job in scene.observed.inspection.jobs),
        is_stalled=False,
    )

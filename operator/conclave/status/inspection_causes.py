"""Why the config.json of a model that the catalogue does not know has not been read: what the inspection Job waits for.

What the Job found wrong with the files is a refusal of the plan, and not told here.
"""

from __future__ import annotations

from conclave.api.reasons import ConditionType, Reason
from conclave.catalogue.models import suggest_models
from conclave.manifests.inspection import files_of
from conclave.status.dependencies import claim_pending
from conclave.status.finding import Finding, Scene
from conclave.status.pods import dead_containers
from conclave.status.weights_causes import job_rejected, pod_waits, undone_pods


def not_inspected(scene: Scene) -> Finding | None:
    """The first thing that keeps the plan from the model's config.json, be it only time."""
    if not scene.decision.is_inspecting or scene.deployment.spec.suspend:
        return None
    observed = scene.observed
    jobs = {"jobs": observed.inspection_jobs, "weights_pods": observed.inspection_pods}
    on_these = scene.model_copy(update={"observed": observed.model_copy(update=jobs)})
    waits = job_rejected(on_these) or pod_waits(on_these) or claim_pending(scene)
    found = waits or _container_failed(on_these) or _inspecting(scene)
    return found.model_copy(update={"condition": ConditionType.PLAN_READY})


def _container_failed(scene: Scene) -> Finding | None:
    """Whatever is no verdict on the files: memory, an image without the command, a volume that cannot be read."""
    for pod in undone_pods(scene):
        for container in dead_containers(pod):
            subject = scene.name_of("Pod", pod["metadata"]["name"])
            lines = [line.strip() for line in container.message.splitlines() if line.strip()]
            if container.reason == "OOMKilled":
                reason, words = Reason.OUT_OF_MEMORY, "it used more than its memory limit"
                remedy = "report this, and give the model's config.json by spec.model.configRef meanwhile"
            else:
                reason, words = Reason.INSPECTION_FAILED, lines[-1] if lines else f"exit code {container.exit_code}"
                remedy = "it is tried again, at the latest after five minutes; spec.model.configRef does without it"
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
    if scene.decision.is_downloaded is False:
        step = "once the weights are downloaded, config.json is read from"
    else:
        step = "config.json is being read from"
    return Finding(
        condition=ConditionType.PLAN_READY,
        reason=Reason.INSPECTING,
        subject=scene.name_of("ModelDeployment", scene.name),
        seen=f"the catalogue does not know {model_id}{f' (did you mean {near}?)' if near else ''}: {step} "
        f"{files_of(scene.deployment)}",
        evidence=tuple(scene.name_of("Job", job["metadata"]["name"]) for job in scene.observed.inspection_jobs),
        is_stalled=False,
    )

"""Which RayService a spec gets: the recorded one where it is for this spec, else a fresh one.

A newer operator, whose builders may build otherwise, replaces no pod of a running model: it reports `UpdateAvailable`.
"""

from __future__ import annotations

from typing import NamedTuple

from conclave import names
from conclave.api.reasons import Reason
from conclave.errors import InvalidInput
from conclave.finding import Finding
from conclave.modeldeployment.part import PartScene
from conclave.modeldeployment.records.record import Record, make_record
from conclave.modeldeployment.serving.rayservice import build_rayservice, in_place
from conclave.modeldeployment.serving.token import new_token_secret
from conclave.planning.roles import Plan


class Build(NamedTuple):
    """The record of a RayService, and what a refresh would change in it."""

    record: Record
    update_available: str = ""


def choose_build(scene: PartScene, plan: Plan) -> Build | Finding:
    """The build for the spec as it is now; a finding where no engine could be started with the spec."""
    current = scene.current
    token_secret = current.token_secret if current else new_token_secret(scene.deployment)
    try:
        rayservice = build_rayservice(scene.deployment, plan, scene.settings, token_secret)
    except InvalidInput as error:
        return scene.refuse(Reason.INVALID_SPEC, str(error))
    fresh = make_record(scene.keys, plan, rayservice, token_secret)
    number = current.number + 1 if current else 1
    if current is None or not scene.is_for_this_spec(current):
        if current is not None and current.rayservice == fresh.rayservice:
            fresh = fresh.model_copy(update={"builder": current.builder})
        return Build(fresh.model_copy(update={"number": number}))
    record = current
    if current.spec != fresh.spec:
        kept = {"builder": current.builder, "refresh": current.refresh, "number": number}
        changed = in_place(current.rayservice, fresh.rayservice)
        record = fresh.model_copy(update={"rayservice": changed, **kept})
    return Build(record, _difference(scene, record, fresh))


def with_suspension(scene: PartScene, record: Record) -> Record:
    """A record of an older spec with the suspension of the newer one, whatever is wrong with the rest of that spec.

    The result is a record of neither spec, so that its `spec` is empty.
    """
    spec, suspend = record.rayservice["spec"], scene.deployment.spec.suspend
    if spec["rayClusterConfig"]["suspend"] == suspend:
        return record
    cluster = {**spec["rayClusterConfig"], "suspend": suspend}
    rayservice = {**record.rayservice, "spec": {**spec, "rayClusterConfig": cluster}}
    return record.model_copy(update={"rayservice": rayservice, "spec": "", "number": record.number + 1})


def _difference(scene: PartScene, record: Record, fresh: Record) -> str:
    if record.rayservice == fresh.rayservice:
        return ""
    recorded, built = record.rayservice["spec"], fresh.rayservice["spec"]
    parts = [part for part in sorted(recorded.keys() | built.keys()) if recorded.get(part) != built.get(part)]
    return (
        f"RayService {names.rayservice(scene.name)} was built by conclave {record.builder}. Conclave {fresh.builder}, "
        f"with its present settings, would change {', '.join(parts) or 'metadata'}. The model keeps running "
        f"unchanged; to take the new build, set the annotation {names.REFRESH} of the ModelDeployment to a new value"
    )

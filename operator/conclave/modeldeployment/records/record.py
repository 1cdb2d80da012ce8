"""The operator's decisions, in ControllerRevisions that the deployment owns. The status only shows them.

The data of a ControllerRevision never changes. Each new decision is a new one; the highest number counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conclave import __version__, names
from conclave.api.modeldeployment import ModelDeployment
from conclave.api.plan import Plan
from conclave.kubernetes.objects import JsonObject, content_hash
from conclave.modeldeployment.objects import metadata
from conclave.modeldeployment.records.version import annotated, written_by
from conclave.modeldeployment.weights.keys import adapter_keys, weights_key
from conclave.planning import roles

HISTORY = 5
"""Records that are kept: what went before is what a person compares with."""

MOST_DELETED = 20


class Record(BaseModel):
    """One decision: for which spec, which plan, which RayService."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    spec: str
    """Hash of the whole spec."""
    shape: str
    """Hash of that part of the spec whose change needs another plan or other pods."""
    planned: str
    """Hash of that part of the spec which the plan was made for."""
    refresh: str = ""
    """The refresh annotation's value that was answered."""
    builder: str
    """Version of Conclave that built the RayService."""
    plan: Plan
    rayservice: JsonObject
    token_secret: str
    """Secret of the endpoint's token, created before this record was."""
    weights_key: str = Field(default="", exclude_if=lambda key: not key)
    """Directory of the cache that the pods mount; left out where the model's weights are not downloaded."""
    adapter_keys: tuple[str, ...] = Field(default=(), exclude_if=lambda keys: not keys)
    """Directories of adapters in the cache; left out where none is downloaded."""
    number: int = 0
    """The ControllerRevision's `revision`; not part of its data."""
    name: str = ""
    """The ControllerRevision's; empty before it is made, and not part of its data."""
    version: str = ""
    """Of the Conclave that wrote the record; empty of 0.1.0's, and not part of the data."""


class Keys(NamedTuple):
    """The hashes that identify a spec. Each key is the `Record` field of that name."""

    spec: str
    """Hash of the whole spec."""
    shape: str
    """Hash of the spec without what changes in place: load bounds, suspension, data class and callers."""
    planned: str
    """Hash of what a plan is made for: another image or volume needs no new plan."""
    refresh: str
    weights_key: str
    adapter_keys: tuple[str, ...]


def keys_of(deployment: ModelDeployment) -> Keys:
    """The keys of the spec as it is now. Defaults are left out: a field that a newer version adds changes no key."""
    spec: JsonObject = deployment.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    in_place = ("scaling", "suspend", "access")
    regions = list(deployment.spec.access.regions)
    return Keys(
        spec=content_hash(spec),
        shape=content_hash([{key: value for key, value in spec.items() if key not in in_place}, regions]),
        planned=_planned_hash(deployment, spec),
        refresh=deployment.metadata.annotations.get(names.REFRESH, ""),
        weights_key=weights_key(deployment),
        adapter_keys=adapter_keys(deployment),
    )


def _planned_hash(deployment: ModelDeployment, spec: JsonObject) -> str:
    model = deployment.spec.model
    parts = {part: spec.get(part) for part in ("engine", "hardware", "parallelism")}
    asked = [model.id, model.config_ref and model.config_ref.name, parts, list(deployment.spec.access.regions)]
    ranks = [adapter.max_rank for adapter in model.adapters]
    return content_hash([*asked, ranks] if ranks else asked)


def make_record(keys: Keys, plan: roles.Plan, rayservice: JsonObject, token_secret: str) -> Record:
    """A record of this version for the spec of these keys; the RayService mounts that Secret."""
    return Record(
        **keys._asdict(),
        builder=__version__,
        plan=plan.flat(),
        rayservice=rayservice,
        token_secret=token_secret,
        version=__version__,
    )


def build_revision(deployment: ModelDeployment, record: Record) -> JsonObject:
    """The ControllerRevision of a record. Equal decisions have equal names, even with different numbers."""
    data = record.model_dump(mode="json", by_alias=True, exclude={"number", "name", "version"})
    name = names.revision(deployment.metadata.name, content_hash(data))
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata(deployment, name, "revision", annotated(record.version)),
        "data": data,
        "revision": record.number,
    }


def read_records(revisions: Iterable[JsonObject]) -> tuple[Record, ...]:
    """The records, oldest first. A record that cannot be read counts as absent."""
    records = []
    for revision in revisions:
        data = revision.get("data")
        if not isinstance(data, dict):
            continue
        try:
            about = {"number": revision.get("revision"), "name": revision["metadata"]["name"]}
            about |= {"version": written_by(revision)}
            records.append(Record.model_validate({**data, **about}))
        except ValidationError:
            continue
    return tuple(sorted(records, key=lambda record: record.number))


def superseded(revisions: Iterable[JsonObject], current: JsonObject) -> tuple[JsonObject, ...]:
    """Revisions older than the history, at most as many as one pass may delete.

    Each deletion causes another pass, so that many forged revisions do not delay other deployments.
    """
    name = current["metadata"]["name"]
    others = [revision for revision in revisions if revision["metadata"]["name"] != name]
    others.sort(key=lambda revision: int(revision.get("revision", 0)), reverse=True)
    return tuple(others[HISTORY - 1 :][:MOST_DELETED])

"""Which records are valid: those that a version of the operator can have written for this deployment (docs/adr/0014).

The operator applies what is recorded with its own rights, so that whoever can write ControllerRevisions would otherwise
have these rights too. Called by `sync`; pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import ValidationError

from conclave import names
from conclave.api.modeldeployment import GROUP, KIND, ModelDeployment
from conclave.api.pod_formats import PLANNED_DEVICE
from conclave.api.reasons import ConditionType, Reason
from conclave.finding import Finding
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.records.record import Keys, Record, read_records
from conclave.modeldeployment.records.recorded import Owner, RecordedRayService, Template, first_difference
from conclave.modeldeployment.records.recorded_serve_config import serve_config_difference
from conclave.modeldeployment.records.version import NewerRecord, is_version, newer_records
from conclave.policy.runtime_lists import parse_image
from conclave.settings import OperatorSettings
from conclave.visible_text import one_line

MOST_REFUSED = 16
"""Records that are looked at for one that counts: a flood of forged ones costs no more."""
_HIGHEST_NUMBER = 2**31
_WEIGHTS_KEY = re.compile("[0-9a-f]{16}")
_ANNOTATIONS = {names.MODEL, names.MODEL_REVISION, names.MODEL_DIGEST, names.DATA_CLASS}
_COUNTED = {"cpu", "memory", "ephemeral-storage"}
"""Resources that every node has."""
_LONGEST_DIFFERENCE = 600


class History(NamedTuple):
    """The records of a deployment: the valid ones, and the objections to the others."""

    records: tuple[Record, ...] = ()
    """Oldest first; the last one counts."""
    refused: tuple[Record, ...] = ()
    """Those newer than it: nothing of them is ever applied."""
    objections: tuple[Finding, ...] = ()
    """One for each of these, which names it."""
    newer: tuple[NewerRecord, ...] = ()
    """Records of a newer version, the latest first, where they are later than the one that counts."""

    @property
    def current(self) -> Record | None:
        return self.records[-1] if self.records else None


def read_history(deployment: ModelDeployment, keys: Keys, observed: Observed, settings: OperatorSettings) -> History:
    """Skips refused records. A forged record beside a real one changes only condition WithinPolicy."""
    newer = newer_records(observed.revisions)
    unread = {record.name for record in newer}
    records = list(read_records(item for item in observed.revisions if item["metadata"]["name"] not in unread))
    running = observed.own_rayservice(deployment.metadata.uid)
    refused: list[Record] = []
    objections: list[Finding] = []
    while records and len(refused) < MOST_REFUSED:
        difference = find_difference(deployment, keys, records[-1], settings, running)
        if difference is None:
            later = tuple(record for record in newer if record.number >= records[-1].number)
            return History(tuple(records), tuple(refused), tuple(objections), later)
        refused.append(records.pop())
        objections.append(_objection(deployment, refused[-1], difference))
    return History((), tuple(refused), tuple(objections), newer)


def find_token_secret(rayservice: JsonObject) -> str | None:
    """The Secret that a live RayService's head mounts as the endpoint's token."""
    group = rayservice.get("spec", {}).get("rayClusterConfig", {}).get("headGroupSpec", {})
    volumes = group.get("template", {}).get("spec", {}).get("volumes", [])
    mounted = (
        volume.get("secret", {}).get("secretName") for volume in volumes if volume.get("name") == names.TOKEN_VOLUME
    )
    return next(mounted, None)


def find_difference(
    deployment: ModelDeployment, keys: Keys, record: Record, settings: OperatorSettings, running: JsonObject | None
) -> str | None:
    """The first part of a record that no version of the operator writes for this deployment, or None."""
    try:
        recorded = RecordedRayService.model_validate(record.rayservice)
    except ValidationError as error:
        return f"in its RayService, {first_difference(error)}"
    return next(_differences(deployment, keys, record, recorded, settings, running), None)


def _differences(
    deployment: ModelDeployment,
    keys: Keys,
    record: Record,
    recorded: RecordedRayService,
    settings: OperatorSettings,
    running: JsonObject | None,
) -> Iterator[str]:
    name, namespace, uid = deployment.metadata.name, deployment.metadata.namespace, deployment.metadata.uid
    metadata, templates = recorded.metadata, recorded.spec.ray_cluster_config.templates
    if (metadata.name, metadata.namespace) != (names.rayservice(name), namespace):
        yield f"its RayService is {metadata.namespace}/{metadata.name}, expected {namespace}/{names.rayservice(name)}"
    if not _is_owner(metadata.owner_references, name, uid):
        yield f"its RayService has another owner than {KIND} {namespace}/{name}"
    if metadata.labels != names.labels(name, "rayservice"):
        yield f"metadata.labels: {metadata.labels} are not this deployment's"
    if foreign := sorted(metadata.annotations.keys() - _ANNOTATIONS):
        yield f"metadata.annotations: no version of the operator sets {', '.join(foreign)}"
    for component, template in templates.items():
        if not names.labels(name, component).items() <= template.metadata.labels.items():
            yield f"the labels of its {component} pods are not this deployment's: {template.metadata.labels}"
        if component != "head" and any(volume.projected for volume in template.spec.volumes):
            yield f"its {component} pods have a token for the API server; only the head may have one"
        for volume in template.spec.volumes:
            if volume.secret is not None and volume.secret.secret_name != record.token_secret:
                yield f"its {component} pods mount Secret {volume.secret.secret_name}, expected {record.token_secret}"
    if record.token_secret not in (expected := _token_secrets(name, uid, running)):
        yield f"token_secret is {record.token_secret}, expected {' or '.join(expected)}"
    if record.weights_key and not _WEIGHTS_KEY.fullmatch(record.weights_key):
        yield f"weights_key is {record.weights_key}, expected 16 hex digits or nothing"
    if foreign := [key for key in record.adapter_keys if not _WEIGHTS_KEY.fullmatch(key)]:
        yield f"adapter_keys has {foreign[0]}, expected 16 hex digits"
    if record.version and not is_version(record.version):
        yield f"metadata.annotations: {names.RECORD_VERSION} is {record.version}, expected a version of Conclave"
    if not 0 <= record.number < _HIGHEST_NUMBER:
        yield f"its revision {record.number} is larger than any that the operator writes"
    if difference := serve_config_difference(recorded.spec.serve_config_v2, name):
        yield f"in its RayService, spec.serveConfigV2: {difference}"
    yield from _of_another_runtime_class(deployment, templates, is_for_this_spec=record.shape == keys.shape)
    if record.shape == keys.shape:
        yield from _outside_of_regions(deployment.spec.access.regions, templates)
    yield from _unlisted(name, templates, namespace, settings, running)


def _of_another_runtime_class(
    deployment: ModelDeployment, templates: dict[str, Template], *, is_for_this_spec: bool
) -> Iterator[str]:
    """The head has none; the workers have the spec's, in a record that is for this spec."""
    found = {component: template.spec.runtime_class_name for component, template in templates.items()}
    if found["head"] is not None:
        yield f"its head pods have the RuntimeClass {found['head']}; no version of the operator gives them any"
    wanted = deployment.spec.runtime.runtime_class_name
    if is_for_this_spec and found["worker"] != wanted:
        yield f"its worker pods have the RuntimeClass {found['worker']}, expected {wanted}"


def _outside_of_regions(regions: tuple[str, ...], templates: dict[str, Template]) -> Iterator[str]:
    """Pods that could start elsewhere. Each term has to keep to the regions, since any one of them suffices."""
    for component, template in templates.items() if regions else ():
        terms = template.spec.affinity.terms if template.spec.affinity else []
        bound = [
            any(found.key == names.REGION and set(found.values) <= set(regions) for found in term.match_expressions)
            for term in terms
        ]
        if not (bound and all(bound)):
            yield f"its {component} pods may run outside of spec.access.regions {', '.join(regions)}"


def _token_secrets(name: str, uid: str, running: JsonObject | None) -> tuple[str, ...]:
    """The former name, which anybody can guess, is none for a model that runs with the new one."""
    wanted = names.token_secret(name, uid)
    return (wanted,) if running and find_token_secret(running) == wanted else names.token_secrets(name, uid)


def _is_owner(references: list[Owner], name: str, uid: str) -> bool:
    found = [(owner.api_version.partition("/")[0], owner.kind, owner.name, owner.uid) for owner in references]
    return found == [(GROUP, KIND, name, uid)]


def _unlisted(
    name: str, templates: dict[str, Template], namespace: str, settings: OperatorSettings, running: JsonObject | None
) -> Iterator[str]:
    """Images, accounts, devices, and keys of labels and annotations that the operator's lists do not hold.

    Allowed besides: what the live RayService runs with already, since applying it starts nothing new; and any tag or
    digest of the operator's own serving repository, since earlier releases of the chart had others as their default.
    """
    lists, own = settings.runtime_lists, parse_image(settings.image).repository
    runs = _runs_with(running or {})
    for component, template in templates.items():
        account = template.spec.service_account_name
        if account and account not in runs.accounts and not lists.allows_account(namespace, account):
            yield f"its {component} pods run as service account {account}, which is not in the operator's list"
        for container in (*template.spec.init_containers, *template.spec.containers):
            image = container.image
            if not (image in runs.images or lists.allows_image(image) or parse_image(image).repository == own):
                yield f"its {component} pods run image {image}, which is not in the operator's list"
            resources = container.resources
            for device in sorted((resources.requests.keys() | resources.limits.keys()) - _COUNTED - runs.devices):
                if not (PLANNED_DEVICE.matches(device) or lists.allows_device(device)):
                    yield f"its {component} pods ask for {device}, which is not in the operator's list"
        keys = template.metadata.labels.keys() - names.labels(name, component).keys()
        keys |= template.metadata.annotations.keys() - {names.ROLLOUT}
        for key in sorted(keys - runs.pod_keys):
            if not lists.allows_pod_key(key):
                yield f"its {component} pods have a label or annotation {key}, which is not in the operator's list"


class _Run(NamedTuple):
    """What pods of a live RayService have that the operator's lists are about."""

    images: set[str]
    accounts: set[str]
    devices: set[str]
    pod_keys: set[str]


def _runs_with(rayservice: JsonObject) -> _Run:
    found = _Run(set(), set(), set(), set())
    cluster = rayservice.get("spec", {}).get("rayClusterConfig", {})
    for group in (cluster.get("headGroupSpec", {}), *cluster.get("workerGroupSpecs", [])):
        template = group.get("template", {})
        metadata, pod = template.get("metadata", {}), template.get("spec", {})
        found.pod_keys.update(metadata.get("labels", {}), metadata.get("annotations", {}))
        found.accounts.add(pod.get("serviceAccountName"))
        for container in (*pod.get("initContainers", []), *pod.get("containers", [])):
            found.images.add(container.get("image"))
            found.devices.update(container.get("resources", {}).get("limits", {}))
    return found


def _objection(deployment: ModelDeployment, record: Record, difference: str) -> Finding:
    """A forger's words are cut: they end up in a status."""
    shown = one_line(difference, _LONGEST_DIFFERENCE)
    return Finding(
        condition=ConditionType.WITHIN_POLICY,
        reason=Reason.RECORD_REFUSED,
        subject=f"ControllerRevision {deployment.metadata.namespace}/{record.name}",
        seen=f"the operator makes no such record and applies nothing of it: {shown}",
        remedy="find out who wrote this ControllerRevision, and delete it",
    )

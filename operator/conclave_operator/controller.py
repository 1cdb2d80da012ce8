"""Turns triggers into reconciles and reconciles into status, events and metrics, for all ModelDeployments.

Made by `process`; the simulations of the unit tests drive it against the fake cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import ValidationError

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.kubernetes.objects import JsonObject
from conclave.settings import OperatorSettings
from conclave_cluster.cache import labels_of
from conclave_cluster.cluster import Cluster
from conclave_cluster.lease import LeadershipLost
from conclave_cluster.resources import EVENT, POD, RAY_CLUSTER, Resource
from conclave_operator.fleet import Fleet, Key
from conclave_operator.metrics import Metrics
from conclave_operator.reconcile import Reconciled, failures_of, reconcile
from conclave_operator.tracing import span
from conclave_operator.transitions import Budget, build_events
from conclave_operator.undecided import described, failed_status, unreadable_status
from conclave_operator.work_queue import WorkQueue

logger = logging.getLogger(__name__)

CONCURRENCY = 8


def utc_now() -> datetime:
    return datetime.now(UTC)


class Controller:
    """One of them works at a time: the process that holds the Lease."""

    def __init__(
        self,
        cluster: Cluster,
        settings: OperatorSettings,
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.fleet = Fleet()
        self.queue: WorkQueue[Key] = WorkQueue(self.process, CONCURRENCY, self._failed, (LeadershipLost,))
        self._cluster = cluster
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._budget = Budget()
        self._waiting_for_hardware: set[Key] = set()

    def heard(self, resource: Resource, item: JsonObject) -> None:
        """A cache saw a change: the deployments that it may concern are looked at again."""
        for key in self._concerned(resource, item):
            self.queue.add(key)

    def resync(self, items: list[JsonObject]) -> None:
        """A list found these ModelDeployments: all are looked at again, whether anything was heard or not."""
        before = set(self.fleet.known())
        self.fleet.listed(items)
        for key in before | set(self.fleet.known()):
            self.queue.add(key)

    async def process(self, key: Key) -> bool:
        """One pass over one ModelDeployment; False where it should be tried again soon.

        Whatever it raises is told in the object's status first. The queue then logs it and tries again.
        """
        item = self.fleet.get(key)
        if item is None or item["metadata"].get("deletionTimestamp"):
            self._waiting_for_hardware.discard(key)
            return True  # owner references do the rest
        try:
            return await self._look_at(key, item)
        except LeadershipLost:
            raise  # nothing may be written any more
        except Exception as error:
            now = self._clock()
            await self._report(key, item, failed_status(item, error, now), now)
            raise

    def _failed(self, key: Key, error: Exception) -> None:
        """A pass raised: most likely for an object of somebody else's that nobody has foreseen."""
        self._metrics.results.labels("internal_error").inc()
        fields = {"namespace": key[0], "deployment": key[1], "result": "internal_error"}
        logger.error("%s/%s: the pass failed and is tried again: %s", *key, described(error), extra=fields)

    async def _look_at(self, key: Key, item: JsonObject) -> bool:
        namespace, name = key
        began = time.monotonic()
        now = self._clock()
        with span("reconcile", {"k8s.namespace.name": namespace, "conclave.model_deployment": name}) as current:
            try:
                deployment = parse(item)
            except ValidationError as error:
                logger.warning("%s/%s cannot be read: %s", namespace, name, described(error))
                status = unreadable_status(item, error, now)
                return await self._report(key, item, status, now)
            reconciled = await reconcile(deployment, self._cluster, self._settings, now)
            is_reported = await self._report(key, item, reconciled.status, now)
            result = _result(reconciled)
            current.set_attributes({"conclave.result": result, "conclave.writes": len(reconciled.outcome.written)})
        self._waiting_for_hardware.discard(key)
        if reconciled.desired.waits_for_hardware:
            self._waiting_for_hardware.add(key)
        self._count(key, reconciled, result, time.monotonic() - began)
        return is_reported and not failures_of(reconciled) and reconciled.desired.resync_after_s is None

    async def _report(self, key: Key, item: JsonObject, status: JsonObject, now: datetime) -> bool:
        written = await self._cluster.patch_status(item, status)
        if written.failure is not None:
            logger.warning("%s/%s: status not written: %s", *key, written.failure.message)
            return False
        if written.verb:
            self.fleet.status_written(key, status)
        for event in build_events(item, status, now) if written.verb else ():
            if self._budget.take(item["metadata"]["uid"], time.monotonic()):
                recorded = await self._cluster.record_event(event)
                if recorded.failure is not None:
                    logger.warning("%s/%s: event not recorded: %s", *key, recorded.failure.message)
        return True

    def _count(self, key: Key, reconciled: Reconciled, result: str, duration_s: float) -> None:
        self._metrics.duration_s.observe(duration_s)
        self._metrics.results.labels(result).inc()
        for what in reconciled.outcome.written:
            verb, _, target = what.partition(" ")
            self._metrics.writes.labels(verb, target.partition("/")[0]).inc()
        fields = {"namespace": key[0], "deployment": key[1], "result": result, "duration_s": round(duration_s, 4)}
        for failure in failures_of(reconciled):
            logger.warning(
                "%s/%s: %s %s: %s",
                *key,
                failure.verb,
                failure.resource,
                failure.message or failure.reason,
                extra=fields,
            )
        if reconciled.outcome.written:
            written = ", ".join(reconciled.outcome.written)
            logger.info("%s/%s: %s", *key, written, extra={**fields, "written": reconciled.outcome.written})

    def _concerned(self, resource: Resource, item: JsonObject) -> tuple[Key, ...]:
        metadata = item["metadata"]
        if not metadata:  # a kind came, went, or became unreadable
            return self.fleet.known()
        namespace = metadata.get("namespace", "")
        if resource == EVENT:
            # KubeRay names what it makes after the RayService, and we after the deployment.
            about, _, _ = str(item.get("involvedObject", {}).get("name", "")).partition(".")
            return tuple(
                key for key in self.fleet.known() if key[0] == namespace and f"{about}-".startswith(f"{key[1]}-")
            )
        labels = labels_of(item)
        owner = next((labels[label] for label in names.POD_OWNERS if label in labels), "")
        if resource == RAY_CLUSTER:
            owner = next((reference.get("name", "") for reference in metadata.get("ownerReferences", [])), "")
        if owner:
            return self._known(namespace, owner)
        if resource.namespaced and resource != POD:
            return self._known(namespace, metadata["name"])
        return tuple(self._waiting_for_hardware)  # a node, or a pod of others that holds GPUs

    def _known(self, namespace: str, name: str) -> tuple[Key, ...]:
        return ((namespace, name),) if self.fleet.get((namespace, name)) else ()


def parse(item: JsonObject) -> ModelDeployment:
    """The object; a status that somebody forged beyond the schema is left out, since it is never read as truth."""
    try:
        return ModelDeployment.model_validate(item)
    except ValidationError:
        return ModelDeployment.model_validate({key: value for key, value in item.items() if key != "status"})


def _result(reconciled: Reconciled) -> str:
    return "failed" if failures_of(reconciled) else reconciled.desired.result

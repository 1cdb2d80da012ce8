"""Turns triggers into reconciles and reconciles into status, events and metrics, for all objects of our kinds.

Made by `process`; the simulations of the unit tests drive it against the fake cluster. It knows no kind by name.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from pydantic import ValidationError

from conclave.kubernetes.desired import Seen
from conclave.kubernetes.failures import ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave_cluster.cluster import Cluster
from conclave_cluster.lease import LeadershipLost
from conclave_cluster.resources import Resource
from conclave_operator.fleet import Fleet, digest
from conclave_operator.kinds import AnyKind, Key, Kinds, Known
from conclave_operator.metrics import Metrics
from conclave_operator.reconcile import Pass, observe, reconcile
from conclave_operator.tracing import span
from conclave_operator.transitions import Budget, build_events
from conclave_operator.undecided import described, failed_status, unreadable_status
from conclave_operator.work_queue import LONGEST_RETRY_S, WorkQueue

logger = logging.getLogger(__name__)

CONCURRENCY = 8


def utc_now() -> datetime:
    return datetime.now(UTC)


class _Rest(NamedTuple):
    """What an object's last reconcile came from; while that is the same, so is what another one would come to."""

    content: bytes
    """The object's digest: the object itself is in the fleet already."""
    inputs_of: Callable[[Seen], object]
    inputs: object
    resync_after_s: float | None


class Controller:
    """One of them works at a time: the process that holds the Lease."""

    def __init__(
        self,
        kinds: Kinds,
        cluster: Cluster,
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.fleet = Fleet()
        self.queue: WorkQueue[Key] = WorkQueue(self.process, CONCURRENCY, self._failed, (LeadershipLost,))
        self._kinds: dict[str, AnyKind] = {kind.name: kind for kind in kinds}
        self._cluster = cluster
        self._metrics = metrics
        self._clock = clock
        self._budget = Budget()
        self._waiting_for_nodes: dict[str, set[Key]] = {kind: set() for kind in self._kinds}
        self._at_rest: dict[Key, _Rest] = {}

    def heard(self, resource: Resource, item: JsonObject) -> None:
        """A cache saw a change: the objects that it may concern are looked at again."""
        for kind in self._kinds.values():
            if all(resource != watch.resource for watch in kind.watches):
                continue
            if not item["metadata"]:  # a kind came, went, or became unreadable
                concerned = self.fleet.known(kind.name)
            else:
                known = Known(partial(self._known, kind.name), self._waiting_for_nodes[kind.name])
                concerned = tuple(kind.concerned(resource, item, known))
            for key in concerned:
                self.queue.add(key)

    def resync(self, kind: str, items: list[JsonObject]) -> None:
        """A list found these objects of a kind: all are looked at again, whether anything was heard or not."""
        before = set(self.fleet.known(kind))
        self.fleet.listed(kind, items)
        for key in before | set(self.fleet.known(kind)):
            self.queue.add(key, is_news=False)

    async def process(self, key: Key) -> float | None:
        """One look at one object. Returns None when it is done, else the longest delay in seconds before the next look.

        Whatever it raises is told in the object's status first. The queue then logs it and tries again.
        """
        item = self.fleet.get(key)
        if item is None or item["metadata"].get("deletionTimestamp"):
            self._waiting_for_nodes[key.kind].discard(key)
            self._at_rest.pop(key, None)
            return None  # owner references do the rest
        try:
            return await self._look_at(key, item)
        except LeadershipLost:
            raise  # nothing may be written any more
        except Exception as error:
            now = self._clock()
            self._at_rest.pop(key, None)
            await self._report(key, item, failed_status(item, error, now), now)
            raise

    def _failed(self, key: Key, error: Exception) -> None:
        """A pass raised: most likely for an object of somebody else's that nobody has foreseen."""
        self._metrics.results.labels("internal_error").inc()
        fields = {"namespace": key.namespace, "deployment": key.name, "result": "internal_error"}
        text = "%s/%s: the pass failed and is tried again: %s"
        logger.error(text, key.namespace, key.name, described(error), extra=fields)

    async def _look_at(self, key: Key, item: JsonObject) -> float | None:
        kind, content = self._kinds[key.kind], self.fleet.content(key)
        now = self._clock()
        attributes = {"k8s.namespace.name": key.namespace, f"conclave.{_snake(key.kind)}": key.name}
        with span("reconcile", attributes) as current:
            try:
                parent = kind.parse(item)
            except ValidationError as error:
                logger.warning("%s/%s cannot be read: %s", key.namespace, key.name, described(error))
                status = unreadable_status(item, error, now, kind)
                return None if await self._report(key, item, status, now) else LONGEST_RETRY_S
            observed = await observe(kind, parent, self._cluster)
            rest = self._at_rest.get(key)
            if rest and rest.content == content and rest.inputs == rest.inputs_of(observed):
                self._metrics.unchanged.inc()
                return rest.resync_after_s
            self._at_rest.pop(key, None)
            done = await reconcile(kind, parent, observed, self._cluster, partial(self._passed, key))
            status = done.desired.status(done.observed, done.outcome, now)
            is_reported = await self._report(key, item, status, now)
            result = _result(done.desired.is_refused, done.failures)
            current.set_attributes({"conclave.result": result, "conclave.writes": len(done.outcome.written)})
        waiting = self._waiting_for_nodes[key.kind]
        waiting.discard(key)
        if done.desired.is_waiting_for_nodes:
            waiting.add(key)
        if not is_reported or done.failures or not done.is_settled:
            return LONGEST_RETRY_S
        inputs = done.desired.inputs_of(done.observed)
        if inputs is not None:
            was = digest({**item, "status": status})
            self._at_rest[key] = _Rest(was, done.desired.inputs_of, inputs, done.desired.resync_after_s)
        return done.desired.resync_after_s

    async def _report(self, key: Key, item: JsonObject, status: JsonObject, now: datetime) -> bool:
        kind = self._kinds[key.kind]
        written = await self._cluster.patch_status(kind.resource, item, status)
        if written.failure is not None:
            logger.warning("%s/%s: status not written: %s", key.namespace, key.name, written.failure.message)
            return False
        if written.verb:
            self.fleet.status_written(key, status)
        for event in build_events(item, status, now, kind) if written.verb else ():
            if self._budget.take(item["metadata"]["uid"], time.monotonic()):
                recorded = await self._cluster.record_event(event)
                if recorded.failure is not None:
                    words = recorded.failure.message
                    logger.warning("%s/%s: event not recorded: %s", key.namespace, key.name, words)
        return True

    def _passed(self, key: Key, done: Pass) -> None:
        """Counts and logs one full pass."""
        result = _result(done.desired.is_refused, done.failures)
        self._metrics.duration_s.observe(done.duration_s)
        self._metrics.results.labels(result).inc()
        for what in done.outcome.written:
            verb, _, target = what.partition(" ")
            self._metrics.writes.labels(verb, target.partition("/")[0]).inc()
        fields: dict[str, object] = {"namespace": key.namespace, "deployment": key.name, "result": result}
        fields |= {"duration_s": round(done.duration_s, 4)}
        for failure in done.failures:
            words = failure.message or failure.reason
            text = "%s/%s: %s %s: %s"
            logger.warning(text, key.namespace, key.name, failure.verb, failure.resource, words, extra=fields)
        if done.outcome.written:
            written = ", ".join(done.outcome.written)
            fields |= {"written": done.outcome.written}
            logger.info("%s/%s: %s", key.namespace, key.name, written, extra=fields)

    def _known(self, kind: str, namespace: str, name: str) -> tuple[Key, ...]:
        key = Key(kind, namespace, name)
        return (key,) if key in self.fleet else ()


def _result(is_refused: bool, failures: tuple[ApiFailure, ...]) -> str:
    if failures:
        return "failed"
    return "refused" if is_refused else "ok"


def _snake(kind: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()

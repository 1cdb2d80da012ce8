"""Leadership by a coordination.k8s.io Lease, with a fence: who lost it, or may have, can no longer write.

Kopf's peering has no fencing, and kubernetes.aio's election compares wall clocks and does not tell writers.
Times are monotonic and taken before the request that they belong to: a stopped process wakes up fenced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from conclave.kubernetes.objects import JsonObject
from conclave_cluster.client import WRITE_TIMEOUT_S, Client, RequestError
from conclave_cluster.resources import LEASE

logger = logging.getLogger(__name__)

DURATION_S = 15.0
RETRY_S = 2.0
MARGIN_S = WRITE_TIMEOUT_S + 1.0
"""A write begins only this long before the Lease could be taken over, so that it has ended by then."""


class LeadershipLost(Exception):
    """The Lease is gone or can no longer be vouched for; nothing may be written any more."""


class Lease:
    """One candidate for one Lease."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        duration_s: float = DURATION_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.has_answered = False
        """Whether the API server has answered a try, won or not."""
        self._clock = clock
        self._answered_at = clock()
        self._client = client
        self._namespace, self._name, self.identity = namespace, name, identity
        self._duration_s = duration_s
        self._lease: JsonObject | None = None
        self._seen: tuple[object, float] = (None, clock())
        self._renewed_at: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether a write that begins now ends before anybody else can lead."""
        return self._renewed_at is not None and self._clock() < self._renewed_at + self._duration_s - MARGIN_S

    @property
    def is_leading(self) -> bool:
        """Whether it was won and not given up, be it still vouched for or not."""
        return self._renewed_at is not None

    @property
    def silent_s(self) -> float:
        """Seconds since the API server last answered a try: the standby's sign of life."""
        return self._clock() - self._answered_at

    def fence(self) -> None:
        """Called before every write; raises LeadershipLost."""
        if not self.is_held:
            raise LeadershipLost(f"Lease {self._namespace}/{self._name} is no longer held by {self.identity}")

    async def acquire(self) -> None:
        """Returns once the Lease is won."""
        while not await self.attempt():  # noqa: ASYNC110 - the other holder is on another machine
            await asyncio.sleep(RETRY_S)
        logger.info("leading: Lease %s/%s is held by %s", self._namespace, self._name, self.identity)

    async def keep(self) -> None:
        """Renews until the Lease is lost, then raises LeadershipLost."""
        while True:
            await asyncio.sleep(RETRY_S)
            await self.attempt()
            self.fence()

    async def release(self) -> None:
        """Lets a standby lead at once; for a process that ends and has stopped writing."""
        held, self._renewed_at = self._lease, None
        if held is None or held["spec"].get("holderIdentity") != self.identity:
            return
        held["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._client.replace(held, LEASE)
        except RequestError as error:
            logger.warning("the Lease could not be released and runs out by itself: %s", error)

    async def attempt(self) -> bool:
        """One try to win or renew; optimistic locking on the Lease lets only one of two succeed."""
        began = self._clock()
        try:
            self._lease = await self._write(began)
        except RequestError as error:
            if error.failure.code != 0:
                self._hear()
            if error.failure.reason not in ("Conflict", "AlreadyExists"):
                logger.warning("Lease %s/%s: %s", self._namespace, self._name, error)
            return False
        self._hear()
        if self._lease is None:
            self._renewed_at = None
            return False
        self._renewed_at = began
        return True

    def _hear(self) -> None:
        self.has_answered, self._answered_at = True, self._clock()

    async def _write(self, began: float) -> JsonObject | None:
        """The Lease as written, or None where somebody else holds it."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self.identity, "leaseDurationSeconds": int(self._duration_s), "renewTime": now}
        try:
            lease = await self._client.get(LEASE, self._namespace, self._name)
        except RequestError as error:
            if error.failure.code != 404:
                raise
            metadata = {"name": self._name, "namespace": self._namespace}
            head = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata}
            return await self._client.create(
                {**head, "spec": {**spec, "acquireTime": now, "leaseTransitions": 0}}, LEASE
            )
        found = lease.get("spec") or {}
        holder = found.get("holderIdentity") or ""
        if holder != self.identity:
            if holder and not self._has_expired(found, began):
                return None
            spec |= {"acquireTime": now, "leaseTransitions": found.get("leaseTransitions", 0) + 1}
        return await self._client.replace({**lease, "spec": {**found, **spec}}, LEASE)

    def _has_expired(self, found: JsonObject, now: float) -> bool:
        """Judged by how long this process has seen the same renewal: clocks of two machines are never compared."""
        renewal = (found.get("holderIdentity"), found.get("renewTime"))
        if renewal != self._seen[0]:
            self._seen = (renewal, now)
        return now >= self._seen[1] + float(found.get("leaseDurationSeconds") or self._duration_s)

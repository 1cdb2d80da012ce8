"""The operator's process: connects, waits for the Lease, leads until it ends or the Lease is lost.

Called by `conclave operator run`. A standby watches nothing and writes nothing but its try for the Lease; whoever
loses it exits, so that no half-ended work of a former leader is left in memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kopf
from pydantic import BaseModel, ConfigDict

from conclave import __version__
from conclave.errors import EnvironmentUnfit
from conclave.kubernetes.objects import JsonObject
from conclave.settings import OperatorSettings
from conclave_cluster.cache import Cache
from conclave_cluster.client import WATCH_SILENCE_S, Client, RequestError, load_configuration
from conclave_cluster.kubernetes_cluster import KubernetesCluster
from conclave_cluster.lease import DURATION_S, LeadershipLost, Lease
from conclave_cluster.resources import Resource
from conclave_operator.controller import Controller
from conclave_operator.handlers import build_registry, build_settings
from conclave_operator.kinds import Kinds, watches_of
from conclave_operator.metrics import Metrics
from conclave_operator.model_deployments import model_deployments
from conclave_operator.probes import serve_probes, stale_watch

logger = logging.getLogger(__name__)

RESYNC_S = 60.0
CRD_RETRY_S = 5.0
STALE_AFTER_S = 2 * WATCH_SILENCE_S
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What ends this process in order."""


class ProcessOptions(BaseModel):
    """How this process runs; what it builds is in OperatorSettings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespaces: tuple[str, ...] = ()
    """Watched namespaces; all where empty."""
    kubeconfig: str | None = None
    lease_name: str = "conclave-operator"
    lease_namespace: str
    http_port: int = 8080
    resync_s: float = RESYNC_S


def own_namespace() -> str:
    """Where this process runs, for its Lease."""
    mounted = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return os.environ.get("POD_NAMESPACE") or (mounted.read_text().strip() if mounted.exists() else "default")


async def run_operator(options: ProcessOptions, settings: OperatorSettings) -> None:
    """The operator of all kinds that are shipped; as `run_kinds`."""
    if not settings.api_server_cidrs:
        logger.warning("api_server_cidrs is empty: every Ray head may reach any address on ports 443 and 6443")
    await run_kinds(options, (model_deployments(settings),))


async def run_kinds(options: ProcessOptions, kinds: Kinds) -> None:
    """Until a signal; raises EnvironmentUnfit where the Lease is lost or the API server cannot be used."""
    task = asyncio.current_task()
    assert task is not None  # inside a coroutine there is one
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, task.cancel)  # until Kopf runs
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    metrics = Metrics()
    async with Client(await load_configuration(options.kubeconfig)) as client:
        lease = Lease(client, options.lease_namespace, options.lease_name, identity)
        cluster = KubernetesCluster(client, options.namespaces, lease.fence)
        leader = _Leader(options, kinds, client, cluster, lease, metrics)
        async with serve_probes(options.http_port, metrics.registry, leader.problem, leader.unready) as port:
            logger.info("conclave %s: probes and metrics on port %d", __version__, port)
            try:
                await lease.acquire()
                await leader.lead()
            except BaseExceptionGroup as group:
                raise _cause(group) from group
            finally:
                await lease.release()


class _Leader:
    """What runs while the Lease is held."""

    def __init__(
        self,
        options: ProcessOptions,
        kinds: Kinds,
        client: Client,
        cluster: KubernetesCluster,
        lease: Lease,
        metrics: Metrics,
    ) -> None:
        self._options = options
        self._resources = tuple(kind.resource for kind in kinds)
        self._watches = watches_of(kinds)
        self._client = client
        self._cluster = cluster
        self._lease = lease
        self._controller = Controller(kinds, cluster, metrics)
        self._waiting_for = "the Lease's first answer"
        fleet, queue = self._controller.fleet, self._controller.queue
        metrics.watch(queue.__len__, fleet.__len__, lambda: lease.is_held, fleet.lag_s)
        metrics.watch_ages(self._ages_s)
        metrics.watch_skipped(self._skipped)

    def _ages_s(self) -> Iterable[tuple[str, float]]:
        """The greatest of each resource, which several caches may watch."""
        ages_s: dict[str, float] = {}
        for cache in self._cluster.caches:
            ages_s[cache.resource.plural] = max(cache.age_s, ages_s.get(cache.resource.plural, 0.0))
        return ages_s.items()

    def _skipped(self) -> Iterable[tuple[str, int]]:
        """Of each resource, over the caches that watch it."""
        skipped: Counter[str] = Counter()
        for cache in self._cluster.caches:
            skipped[cache.resource.plural] += cache.skipped
        return skipped.items()

    def problem(self) -> str:
        """Why this process should be restarted; empty while it hears what it should hear."""
        if not self._lease.is_leading:
            silent_s = self._lease.silent_s
            return f"no answer about the Lease for {silent_s:.0f} s" if silent_s > 2 * DURATION_S else ""
        return stale_watch(self._ages_s(), self._controller.fleet.lag_s(), STALE_AFTER_S)

    def unready(self) -> str:
        """A standby is ready: it would lead at once."""
        if self._lease.is_leading:
            return self._waiting_for
        return "" if self._lease.has_answered else "no answer about the Lease yet"

    async def lead(self) -> None:
        """Until kopf ends by a signal; the first failure ends everything."""
        self._waiting_for = "the caches"
        caches = list(self._watch())
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(cache.run()) for cache in caches]
            running.append(tasks.create_task(self._lease.keep()))
            await self._cluster.synced()
            self._waiting_for = "the CRDs of its kinds"
            await self._wait_for_crds()
            running.append(tasks.create_task(self._controller.queue.run()))
            running.append(tasks.create_task(self._resync()))
            self._waiting_for = ""
            with _quiet_kopf():
                await self._run_kopf()
            for task in running:
                task.cancel()

    async def _run_kopf(self) -> None:
        """Until a signal. Kopf's own handlers would not tell us that it was one."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        others = asyncio.all_tasks()
        fleet, queue = self._controller.fleet, self._controller.queue
        # Without an identity, Kopf asks for the user's name, which an image need not know.
        identity: Any = self._lease.identity
        tasks = await kopf.spawn_tasks(
            registry=build_registry(self._resources, fleet, queue.add, self._options.kubeconfig),
            settings=build_settings(),
            identity=identity,
            standalone=True,
            namespaces=self._options.namespaces,
            clusterwide=not self._options.namespaces,
            stop_flag=ended,
        )
        for number in SIGNALS:
            loop.add_signal_handler(number, ended.set)
        try:
            await kopf.run_tasks(tasks, ignored=others)
        except AssertionError:
            # Seen with Kopf 1.45 where it is still reading the server's API groups when it is ended.
            if not ended.is_set():
                raise

    def _watch(self) -> Iterator[Cache]:
        for watch in self._watches:
            for selection in watch.selections:
                yield from self._cluster.watch(
                    watch.resource,
                    self._controller.heard,
                    watch.projection,
                    selection,
                    watch.bound,
                    watch.indexed,
                    watch.is_packed,
                )

    async def _wait_for_crds(self) -> None:
        for resource in self._resources:
            while True:
                if await self._is_served(resource):
                    break
                await asyncio.sleep(CRD_RETRY_S)

    async def _is_served(self, resource: Resource) -> bool:
        try:
            for namespace in self._options.namespaces or ("",):
                await self._client.list(resource, namespace, limit="1")
        except RequestError as error:
            if error.failure.code in (401, 403):
                raise EnvironmentUnfit(
                    f"cannot list {resource.kind}s: {error.failure.message}; grant list and watch on "
                    f"{resource.plural}.{resource.group} to this user (the chart's role has them)"
                ) from error
            missing = error.failure.code == 404
            logger.warning("%s", f"the {resource.kind} CRD is absent; install the chart" if missing else error)
            return False
        return True

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._options.resync_s)
            for resource in self._resources:
                try:
                    self._controller.resync(resource.kind, await self._list(resource))
                except RequestError as error:
                    logger.warning("resync: %s", error)

    async def _list(self, resource: Resource) -> list[JsonObject]:
        """Page by page, without what nobody reads: all at once would be the most that this process ever holds."""
        found: list[JsonObject] = []
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        for namespace in self._options.namespaces or ("",):
            async for item in self._client.list_all(resource, namespace):
                item["metadata"].pop("managedFields", None)
                found.append({**head, **item})
        return found


def _cause(error: BaseException) -> BaseException:
    """What ended the tasks of a group, as the command line tells it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, LeadershipLost):
        return EnvironmentUnfit(f"{error}; this process ends, another one may lead")
    return error


@contextmanager
def _quiet_kopf() -> Iterator[None]:
    """Kopf logs each object that it sees; what we do with it is in our own log."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    yield

"""The work that `operator_scale` gives an operator (models, nodes, foreign pods, edits), and when it was seen done.

All of it goes to the API server of the test bed on loopback. Times are those of a watch, so that polling costs the
measured operator nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.eventually import eventually
from tests.integration.testbed.kube import Kube
from tests.integration.testbed.nodes import gpu_node
from tests.integration.testbed.operator import claim, model_deployment, volume_for

from conclave_cluster.client import MERGE_PATCH, Client, RequestError
from conclave_cluster.resources import MODEL_DEPLOYMENT, NODE, POD, RAY_SERVICE, Resource

Json = dict[str, Any]
Key = tuple[str, str]
NAMESPACES = 10
PRODUCT, GPUS_OF_NODE, GPU_MIB = "NVIDIA-H100-80GB-HBM3", 8, 81559
NODES = 8
"""Of the cluster without a crowd."""
GPUS_OF_FOREIGN_POD = 2
AT_ONCE = 16
"""Requests of the load that are under way."""
LONGEST_EDIT_S = 30.0


def namespace_of(number: int) -> str:
    return f"models-{number % NAMESPACES}"


def prepare(kube: Kube) -> None:
    """Namespaces, each with a bound claim that holds the weights of its models."""
    namespaces = [namespace_of(number) for number in range(NAMESPACES)]
    kube.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in namespaces))
    claims = [{**claim(), "metadata": {**claim()["metadata"], "namespace": name}} for name in namespaces]
    kube.apply(*claims, *(volume_for("weights", name) for name in namespaces))
    eventually(lambda: kube.get("v1", "ServiceAccount", "default", namespaces[0]))  # pods need it

    def is_bound() -> bool:
        claims = kube.list("v1", "PersistentVolumeClaim")
        return len(claims) == NAMESPACES and all(item["status"]["phase"] == "Bound" for item in claims)

    eventually(is_bound, timeout=60)


async def all_of(work: Iterable[Awaitable[object]]) -> None:
    """A bounded number of them at once."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(what: Awaitable[object]) -> None:
        async with places:
            await what

    async with asyncio.TaskGroup() as tasks:
        for what in work:
            tasks.create_task(one(what))


async def create_nodes(client: Client, count: int) -> None:
    """Ready, and without the taint that admission adds to each new node."""

    async def create(name: str) -> None:
        await client.create(gpu_node(name, PRODUCT, GPUS_OF_NODE, GPU_MIB), NODE)
        await client.patch(NODE, "", name, {"spec": {"taints": None}}, MERGE_PATCH)

    await all_of(create(f"node-{number}") for number in range(count))


async def create_foreign_pods(client: Client, count: int, nodes: int) -> None:
    """Pods of somebody else that hold GPUs, spread over the nodes."""
    namespace = namespace_of(0)

    def pod(number: int) -> Json:
        limits = {"nvidia.com/gpu": str(GPUS_OF_FOREIGN_POD)}
        container = {"name": "work", "image": "images.test/work", "resources": {"limits": limits}}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"foreign-{number}", "namespace": namespace, "labels": {"app": "work"}},
            "spec": {"nodeName": f"node-{number % nodes}", "containers": [container]},
        }

    await all_of(client.create(pod(number), POD) for number in range(count))


async def create_models(client: Client, count: int) -> None:
    """A thousand times the same model under other names."""

    def model(number: int) -> Json:
        item = model_deployment(f"model-{number}")
        return {**item, "metadata": {**item["metadata"], "namespace": namespace_of(number)}}

    await all_of(client.create(model(number), MODEL_DEPLOYMENT) for number in range(count))


class Watched:
    """When each model was planned (its status has a plan) and applied (its RayService has this generation)."""

    def __init__(self) -> None:
        self.planned_at: dict[Key, float] = {}
        self.applied_at: dict[Key, dict[int, float]] = {}
        self._changed = asyncio.Event()

    def done(self) -> int:
        """Models that are planned and applied."""
        return len(self.planned_at.keys() & self.applied_at.keys())

    def done_at(self) -> float:
        """When the last of them was."""
        applied = (min(times.values()) for times in self.applied_at.values())
        return max((*self.planned_at.values(), *applied), default=time.monotonic())

    async def until_done(self, count: int, timeout_s: float) -> None:
        """Until so many are, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.done() < count:
                    await self._next_change()

    async def applied_beyond(self, key: Key, generation: int) -> float:
        """When the RayService of a model got a newer generation than this one."""
        while True:
            later = [at for found, at in self.applied_at[key].items() if found > generation]
            if later:
                return min(later)
            await self._next_change()

    def saw(self, resource: Resource, item: Json) -> None:
        now, metadata = time.monotonic(), item["metadata"]
        key = metadata["namespace"], metadata["name"]
        if resource == MODEL_DEPLOYMENT:
            if item.get("status", {}).get("plan"):
                self.planned_at.setdefault(key, now)
        else:
            self.applied_at.setdefault(key, {}).setdefault(metadata["generation"], now)
        self._changed.set()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


@asynccontextmanager
async def watching(client: Client) -> AsyncIterator[Watched]:
    """Follows models and RayServices while the block runs."""
    watched = Watched()
    tasks = [asyncio.create_task(_follow(client, kind, watched)) for kind in (MODEL_DEPLOYMENT, RAY_SERVICE)]
    try:
        yield watched
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(client: Client, resource: Resource, watched: Watched) -> None:
    while True:
        page = await client.list(resource)
        for item in page["items"]:
            watched.saw(resource, item)
        version = page["metadata"]["resourceVersion"]
        with suppress(RequestError):
            async for event in client.watch(resource, "", lambda: None, resourceVersion=version):
                if event["type"] == "ERROR":
                    break
                if event["type"] in ("ADDED", "MODIFIED"):
                    watched.saw(resource, event["object"])


async def edit(client: Client, watched: Watched, number: int, ceiling: int) -> float:
    """Seconds from the patch of a model's ceiling of replicas to its RayService that has it."""
    key = namespace_of(number), f"model-{number}"
    generation = max(watched.applied_at[key])
    began = time.monotonic()
    await client.patch(MODEL_DEPLOYMENT, *key, {"spec": {"scaling": {"maxReplicas": ceiling}}}, MERGE_PATCH)
    async with asyncio.timeout(LONGEST_EDIT_S):
        return await watched.applied_beyond(key, generation) - began

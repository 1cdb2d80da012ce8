"""The real cluster keeps the contract that the fake keeps (tests/unit/cluster/test_fake_contract.py)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.cluster_contract import ABSENT, CASES
from tests.integration.testbed.kube import Kube

from conclave_cluster.cache import Cache
from conclave_cluster.client import Client, load_configuration
from conclave_cluster.kubernetes_cluster import KubernetesCluster
from conclave_cluster.resources import EVENT, NETWORK_POLICY

RULES = (("networking.k8s.io", "networkpolicies"), ("", "configmaps"), ("", "secrets"), (ABSENT.group, ABSENT.plural))
VERBS = ("get", "list", "watch", "create", "patch", "delete")
VERSIONS = {
    "ConfigMap": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "ResourceSlice": "resource.k8s.io/v1",
    "Secret": "v1",
}


class RealBed:
    """`cluster` acts as a user with rights of its own, the other hands as the administrator."""

    absent = ABSENT

    def __init__(self, kube: Kube, namespace: str, user: str, cluster: KubernetesCluster) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._kube, self._user = kube, user

    async def put(self, manifest: dict[str, Any]) -> dict[str, Any]:
        metadata = manifest["metadata"]
        if metadata.get("uid") is None:
            made = self._kube.create(manifest, self.namespace)
            await self._seen(made["kind"], metadata["name"], made)
            return made
        body = {key: value for key, value in manifest.items() if key in ("spec", "data")}
        body["metadata"] = {"labels": metadata.get("labels", {})}
        kind = manifest["kind"]
        edited = self._kube.patch(VERSIONS[kind], kind, metadata["name"], body, self.namespace)
        await self._seen(kind, metadata["name"], edited)
        return edited

    async def live(self, kind: str, name: str) -> dict[str, Any] | None:
        return self._kube.get(VERSIONS[kind], kind, name, self.namespace)

    async def remove(self, kind: str, name: str) -> None:
        self._kube.delete(VERSIONS[kind], kind, name, self.namespace)
        await self._seen(kind, name, None)

    async def _seen(self, kind: str, name: str, item: dict[str, Any] | None) -> None:
        """Returns once the cluster under test sees this version: a cache learns of a change by its watch."""
        if kind != NETWORK_POLICY.kind:
            return
        version = item and item["metadata"]["resourceVersion"]
        async with asyncio.timeout(10):
            while True:
                found = (await self.cluster.get(NETWORK_POLICY, self.namespace, name)).objects
                if (found[0]["metadata"]["resourceVersion"] if found else None) == version:
                    return
                await asyncio.sleep(0.02)

    def forbid(self, verb: str, plural: str) -> None:
        self._kube.apply(*grants(self._user, self.namespace, without=(verb, plural)), namespace=self.namespace)


def grants(user: str, namespace: str, without: tuple[str, str] = ("", "")) -> list[dict[str, Any]]:
    rules = [
        {
            "apiGroups": [group],
            "resources": [plural],
            "verbs": [verb for verb in VERBS if (verb, plural) != without],
        }
        for group, plural in RULES
    ]
    api = "rbac.authorization.k8s.io"
    head: dict[str, Any] = {"apiVersion": f"{api}/v1", "metadata": {"name": user, "namespace": namespace}}
    wide: dict[str, Any] = {"apiVersion": f"{api}/v1", "metadata": {"name": user}}
    slices = {"apiGroups": ["resource.k8s.io"], "resources": ["resourceslices"], "verbs": ["list"]}
    return [
        {**wide, "kind": "ClusterRole", "rules": [slices]},
        {
            **wide,
            "kind": "ClusterRoleBinding",
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
        },
        {**head, "kind": "Role", "rules": rules},
        {
            **head,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": api, "kind": "Role", "name": user},
            "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
        },
    ]


@asynccontextmanager
async def running(cluster: KubernetesCluster, caches: Sequence[Cache]) -> AsyncIterator[None]:
    """Lists and watches meanwhile, from when all is known."""
    tasks = [asyncio.create_task(cache.run()) for cache in caches]
    try:
        await asyncio.wait_for(cluster.synced(), 10)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    while True:
        if is_so():
            return
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("cached", [False, True], ids=["reads by request", "reads from a cache"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_real_api_server_keeps_the_contract(kube: Kube, namespace: str, case: Any, cached: bool) -> None:
    user = f"contract-{uuid.uuid4().hex[:6]}"
    kube.apply(*grants(user, namespace), namespace=namespace)
    kubeconfig = str(kube.user_kubeconfig(user))

    async def run() -> None:
        async with Client(await load_configuration(kubeconfig)) as client:
            cluster = KubernetesCluster(client, [namespace])
            async with running(cluster, cluster.watch(NETWORK_POLICY) if cached else ()):
                await case(RealBed(kube, namespace, user, cluster))

    asyncio.run(run())


def test_what_was_deleted_before_its_write_was_noted_is_not_remembered(kube: Kube, namespace: str) -> None:
    """The garbage collector can be faster than the answer to a write; the deletion is told only once."""
    policy = {
        "apiVersion": VERSIONS["NetworkPolicy"],
        "kind": "NetworkPolicy",
        "metadata": {"name": "model", "namespace": namespace},
        "spec": {"podSelector": {}},
    }

    async def run() -> None:
        async with Client(await load_configuration(str(kube.kubeconfig))) as client:
            cluster = KubernetesCluster(client, [namespace])
            (cache,) = caches = cluster.watch(NETWORK_POLICY)
            async with running(cluster, caches), asyncio.timeout(20):
                written = await client.create(policy, NETWORK_POLICY)
                await until(lambda: cache.get(namespace, "model") is not None)
                await client.delete(NETWORK_POLICY, namespace, "model", written["metadata"]["uid"])
                await until(lambda: cache.get(namespace, "model") is None)
                cache.learn(written)
                assert cache.get(namespace, "model") is None

                newer = await client.create(policy, NETWORK_POLICY)
                cache.learn(newer)
                seen = cache.get(namespace, "model")
                assert seen is not None
                assert seen["metadata"]["uid"] == newer["metadata"]["uid"]

    asyncio.run(run())


def test_a_watch_that_has_nothing_to_tell_is_no_dead_one(
    kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of events no bookmark comes: in a quiet cluster the operator took its watch for dead and ended itself."""
    monkeypatch.setattr("conclave_cluster.client.WATCH_SILENCE_S", 0.5)

    async def run() -> None:
        async with Client(await load_configuration(str(kube.kubeconfig))) as client:
            cluster = KubernetesCluster(client, [namespace])
            (cache,) = caches = cluster.watch(EVENT)
            ages_s = []
            async with running(cluster, caches):
                began = asyncio.get_running_loop().time()
                while asyncio.get_running_loop().time() < began + 5:
                    ages_s.append(cache.age_s)
                    await asyncio.sleep(0.1)
            assert list(cache) == []
            assert max(ages_s) < 4
            await asyncio.sleep(4)
            assert cache.age_s >= 4  # nobody asks any more

    asyncio.run(run())

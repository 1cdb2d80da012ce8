"""The fake keeps the contract that the real cluster keeps (tests/integration/test_contract_cluster.py)."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from tests.cluster_contract import ABSENT, CASES
from tests.fake_cluster import FakeCluster

from conclave_cluster.resources import CONFIG_MAP, NETWORK_POLICY, RESOURCE_SLICE, SECRET, Resource

BY_KIND = {resource.kind: resource for resource in (CONFIG_MAP, NETWORK_POLICY, RESOURCE_SLICE, SECRET)}


class FakeBed:
    namespace = "ns"
    absent = ABSENT

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.cluster.absent.add(ABSENT)

    async def put(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.cluster.put(manifest))

    async def live(self, kind: str, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.cluster.objects.get((BY_KIND[kind], self.namespace, name)))

    async def remove(self, kind: str, name: str) -> None:
        resource = BY_KIND[kind]
        self.cluster.remove(resource, self.namespace if resource.namespaced else "", name)

    def forbid(self, verb: str, plural: str) -> None:
        resource: Resource = next(resource for resource in BY_KIND.values() if resource.plural == plural)
        self.cluster.forbidden.add((verb, resource))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_fake_keeps_the_contract(case: Any) -> None:
    asyncio.run(case(FakeBed()))

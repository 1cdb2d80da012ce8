"""Leadership: one of two, taken over when silent, and fenced before anybody else can lead."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, cast

import pytest

from conclave.kubernetes.failures import ApiFailure
from conclave_cluster.client import WRITE_TIMEOUT_S, Client, RequestError
from conclave_cluster.lease import LeadershipLost, Lease
from conclave_cluster.resources import Resource

DURATION_S = 15.0


class LeaseStore:
    """One Lease behind optimistic locking; the transport that the client would be."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.is_down = False

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        self._check(0 if self.is_down else 404 if self.lease is None else 200, "NotFound")
        return copy.deepcopy(cast("dict[str, Any]", self.lease))

    async def create(self, manifest: dict[str, Any], resource: Resource) -> dict[str, Any]:
        self._check(0 if self.is_down else 409 if self.lease is not None else 200, "AlreadyExists")
        return self._store(manifest)

    async def replace(self, manifest: dict[str, Any], resource: Resource) -> dict[str, Any]:
        is_stale = manifest["metadata"]["resourceVersion"] != str(self.version)
        self._check(0 if self.is_down else 409 if is_stale else 200, "Conflict")
        return self._store(manifest)

    def _store(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    def _check(self, code: int, reason: str) -> None:
        if code != 200:
            raise RequestError(ApiFailure(verb="get", resource="leases", code=code, reason=reason))


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.store = LeaseStore()

    def candidate(self, name: str) -> Lease:
        client = cast("Client", self.store)
        return Lease(client, "system", "conclave", name, DURATION_S, clock=lambda: self.now)


def attempt(lease: Lease) -> bool:
    return asyncio.run(lease.attempt())


def test_one_of_two_leads_and_keeps_leading_while_it_renews() -> None:
    world = World()
    first, second = world.candidate("first"), world.candidate("second")
    assert attempt(first)
    for _ in range(20):
        world.now += 2
        assert attempt(first)
        assert not attempt(second)
    assert first.is_held
    assert not second.is_held


def test_who_falls_silent_is_fenced_before_the_other_may_lead() -> None:
    world = World()
    first, second = world.candidate("first"), world.candidate("second")
    attempt(first)
    attempt(second)
    while not attempt(second):
        world.now += 0.5
        still_held = first.is_held
    assert not still_held
    assert world.now >= DURATION_S
    with pytest.raises(LeadershipLost):
        first.fence()
    second.fence()


def test_a_write_that_begins_at_the_last_moment_ends_before_a_takeover() -> None:
    world = World()
    first = world.candidate("first")
    attempt(first)
    world.now = DURATION_S - WRITE_TIMEOUT_S
    with pytest.raises(LeadershipLost):
        first.fence()


def test_a_former_leader_that_wakes_up_learns_that_it_lost() -> None:
    world = World()
    first, second = world.candidate("first"), world.candidate("second")
    attempt(first)
    attempt(second)
    world.now += DURATION_S + 1
    assert attempt(second)
    assert not attempt(first)
    assert not first.is_leading


def test_clocks_of_two_machines_are_never_compared() -> None:
    world = World()
    second = world.candidate("second")
    spec = {"holderIdentity": "first", "leaseDurationSeconds": 15, "renewTime": "2001-01-01T00:00:00.000000Z"}
    metadata = {"name": "conclave", "namespace": "system"}
    asyncio.run(world.store.create({"metadata": metadata, "spec": spec}, cast("Resource", None)))
    assert not attempt(second)
    world.now += 14
    assert not attempt(second)
    world.now += 2
    assert attempt(second)


def test_a_release_hands_over_at_once() -> None:
    world = World()
    first, second = world.candidate("first"), world.candidate("second")
    attempt(first)
    assert not attempt(second)
    asyncio.run(first.release())
    with pytest.raises(LeadershipLost):
        first.fence()
    assert attempt(second)


def test_an_api_server_that_does_not_answer_is_no_sign_of_life() -> None:
    world = World()
    first = world.candidate("first")
    attempt(first)
    world.store.is_down = True
    world.now += 5
    assert not attempt(first)
    assert first.silent_s == 5
    assert first.is_held
    world.now += DURATION_S
    assert not first.is_held

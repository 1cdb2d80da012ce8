"""A controller over the fake cluster, driven pass by pass: no clock, no network, no waiting."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.fake_cluster import FakeCluster

from conclave.kubernetes.kuberay import REQUIRED_FIELDS
from conclave.settings import OperatorSettings
from conclave_cluster.resources import (
    CLAIM,
    CONFIG_MAP,
    EVENT,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    NODE,
    POD,
    RAY_CLUSTER,
    RAY_SERVICE,
    REVISION,
    SECRET,
)
from conclave_operator.controller import Controller
from conclave_operator.metrics import Metrics
from conclave_operator.model_deployments import model_deployments

Json = dict[str, Any]
NAMESPACE = "llm"
H100 = "NVIDIA-H100-80GB-HBM3"
WATCHED = (CLAIM, CONFIG_MAP, EVENT, NETWORK_POLICY, NODE, POD, RAY_CLUSTER, RAY_SERVICE, REVISION, SECRET)


class Crash(BaseException):
    """The operator dies here."""


class Simulation:
    """One cluster, and operators that come and go over it."""

    def __init__(self, nodes: int = 1, settings: OperatorSettings | None = None) -> None:
        self.cluster = FakeCluster()
        self.cluster.schemas[RAY_SERVICE] = _schema()
        self.settings = settings or OperatorSettings(image="conclave/serving:test")
        self.now = datetime(2026, 11, 23, tzinfo=UTC)
        for number in range(nodes):
            self.cluster.put(gpu_node(f"node-{number}"))
        self.cluster.put(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "weights", "namespace": NAMESPACE},
                "status": {"phase": "Bound"},
            }
        )
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is remembered."""
        self.controller = Controller(
            (model_deployments(self.settings),), self.cluster, Metrics(), clock=lambda: self.now
        )

    def put(self, manifest: Json) -> Json:
        return self.cluster.put(manifest)

    def deployment(self, name: str = "mixtral") -> Json:
        return copy.deepcopy(self.cluster.objects[MODEL_DEPLOYMENT, NAMESPACE, name])

    def edit(self, name: str = "mixtral", **spec: Any) -> None:
        item = self.deployment(name)
        item["spec"] |= spec
        self.put(item)

    def step(self) -> bool:
        """One pass over every ModelDeployment; whether all are done."""
        self.now += timedelta(seconds=1)
        items = [item for (kind, _, _), item in self.cluster.objects.items() if kind == MODEL_DEPLOYMENT]
        for item in items:
            self.controller.fleet.watched(copy.deepcopy(item))
        done = [asyncio.run(self.controller.process(key)) for key in self.controller.fleet.known()]
        return all(longest_s is None for longest_s in done)

    def settle(self, limit: int = 12) -> int:
        """Passes until one writes nothing; returns how many wrote something."""
        for passes in range(limit):
            before = len(self.cluster.writes)
            self.step()
            if len(self.cluster.writes) == before:
                return passes
        raise AssertionError(f"still writing after {limit} passes: {self.cluster.writes[-6:]}")

    def condition(self, kind: str, name: str = "mixtral") -> Json:
        conditions = self.deployment(name)["status"]["conditions"]
        return next(condition for condition in conditions if condition["type"] == kind)

    def children(self) -> dict[tuple[str, str], Json]:
        """What the operator made, without what only the API server knows."""
        kinds = (RAY_SERVICE, NETWORK_POLICY, REVISION)
        return {
            (kind.kind, name): {
                key: value for key, value in item.items() if key not in ("metadata", "status", "revision")
            }
            for (kind, _, name), item in self.cluster.objects.items()
            if kind in kinds
        }


def gpu_node(name: str, gpus: int = 8, product: str = H100, memory_mib: int = 81559) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "nvidia.com/gpu.product": product,
                "nvidia.com/gpu.memory": str(memory_mib),
                "topology.kubernetes.io/region": "eu-west-1",
            },
        },
        "spec": {},
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def model_deployment(name: str = "mixtral", **spec: Any) -> Json:
    base = {
        "model": {
            "id": "mistralai/Mixtral-8x7B-Instruct-v0.1",
            "source": {"persistentVolumeClaim": {"claimName": "weights"}},
        },
        "access": {"dataClass": "internal"},
    }
    return {
        "apiVersion": "conclave.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": base | spec,
    }


def _schema() -> Json:
    """The least RayService schema that has every required field."""
    schema: Json = {}
    for path in REQUIRED_FIELDS:
        at = schema
        for step in path.split("."):
            at = at.setdefault("properties", {}).setdefault(step, {})
    return schema

"""A kind that is not shipped: what a second one costs. One record for the operator's table, and rooms of its own here.

A Greeting wants one ConfigMap with its words, and tells in its status how often it has them. As a program it is an
operator of this kind and of ModelDeployment: `python -m tests.toy_kind operator run --kubeconfig=... --namespace=...`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.reasons import ConditionType
from conclave.kubernetes.desired import Desired
from conclave.kubernetes.failures import ApiFailure, Outcome
from conclave.settings import OperatorSettings
from conclave_cluster.cache import whole
from conclave_cluster.cluster import Cluster
from conclave_cluster.resources import CONFIG_MAP, Resource
from conclave_operator.kinds import Key, Kind, Known, Watch
from conclave_operator.logs import set_up_logs
from conclave_operator.model_deployments import model_deployments
from conclave_operator.process import ProcessOptions, run_kinds

Json = dict[str, Any]
GREETING = Resource("toys.conclave.dev", "v1", "Greeting", "greetings")
LABEL = "toys.conclave.dev/greeting"


class Spec(BaseModel):
    words: str = Field(max_length=20)


class Greeting(BaseModel):
    model_config = ConfigDict(extra="allow")

    metadata: Json
    spec: Spec


class Surroundings(NamedTuple):
    config_maps: tuple[Json, ...]
    failures: tuple[ApiFailure, ...]


async def observe(cluster: Cluster, greeting: Greeting) -> Surroundings:
    name, namespace = greeting.metadata["name"], greeting.metadata["namespace"]
    found = await cluster.list(CONFIG_MAP, namespace, {LABEL: name})
    return Surroundings(found.objects, (found.failure,) if found.failure else ())


def sync(greeting: Greeting, _: Surroundings) -> Desired[Surroundings]:
    """No clock, no cluster: what should be there, and what is told of it."""
    metadata, words = greeting.metadata, greeting.spec.words
    owner = {"apiVersion": GREETING.api_version, "kind": GREETING.kind, "controller": True}
    owner |= {"name": metadata["name"], "uid": metadata["uid"]}
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {LABEL: metadata["name"]},
            "ownerReferences": [owner],
        },
        "data": {"words": words},
    }

    def status(observed: Surroundings, outcome: Outcome, now: datetime) -> Json:
        count = sum(item.get("data", {}).get("words") == words for item in observed.config_maps)
        ready = {
            "type": ConditionType.READY.value,
            "status": "True" if count and not outcome.failures else "False",
            "reason": "AsWanted",
            "message": f"{count} ConfigMap says {words!r}",
        }
        return {"count": count, "observedGeneration": metadata["generation"], "conditions": [ready]}

    return Desired(status, apply=(child,), inputs_of=versions)


def versions(observed: Surroundings) -> object:
    return [item["metadata"]["resourceVersion"] for item in observed.config_maps], observed.failures


def concerned(_: Resource, item: Json, known: Known) -> Iterable[Key]:
    labels = item["metadata"].get("labels") or {}
    return known.by_name(item["metadata"].get("namespace", ""), labels.get(LABEL, ""))


GREETINGS = Kind(
    resource=GREETING,
    model=Greeting,
    parse=Greeting.model_validate,
    observe=observe,
    sync=sync,
    concerned=concerned,
    watches=(Watch(CONFIG_MAP, whole, ({"labelSelector": LABEL},), indexed=(LABEL,)),),
)


def crd() -> Json:
    """As loose as a CRD can be: what the operator does with an object that its model cannot read is to be seen."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}}
    version = {"name": GREETING.version, "served": True, "storage": True, "schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{GREETING.plural}.{GREETING.group}"},
        "spec": {
            "group": GREETING.group,
            "scope": "Namespaced",
            "names": {"plural": GREETING.plural, "singular": "greeting", "kind": GREETING.kind},
            "versions": [{**version, "subresources": {"status": {}}}],
        },
    }


def greeting(name: str, words: str) -> Json:
    return {
        "apiVersion": GREETING.api_version,
        "kind": GREETING.kind,
        "metadata": {"name": name},
        "spec": {"words": words},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("kubeconfig", "lease-namespace", "lease", "namespace"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--resync-seconds", type=float, default=60)
    given, _ = parser.parse_known_args()
    set_up_logs("json")
    options = ProcessOptions(
        namespaces=(given.namespace,),
        kubeconfig=given.kubeconfig,
        lease_namespace=given.lease_namespace,
        lease_name=f"{given.lease}-toy",
        http_port=given.http_port,
        resync_s=given.resync_seconds,
    )
    settings = OperatorSettings(image="images.test/conclave-serving:toy")
    asyncio.run(run_kinds(options, (model_deployments(settings), GREETINGS)))


if __name__ == "__main__":
    main()

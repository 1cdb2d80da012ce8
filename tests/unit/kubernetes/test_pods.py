"""What a pod asks of a node, as the scheduler counts it."""

from __future__ import annotations

from typing import Any

import pytest

from conclave.kubernetes.pods import scheduled_requests
from conclave.kubernetes.quantities import write_quantity
from conclave.kubernetes.shapes import read_pod


def container(restart: str | None = None, **requests: str) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": requests}} | ({"restartPolicy": restart} if restart else {})


SCHEDULED: dict[str, tuple[list[Any], list[Any], dict[str, str]]] = {
    "containers are summed up": (
        [container(cpu="4"), container(cpu="500m", memory="1Gi")],
        [],
        {"cpu": "4500m", "memory": "1Gi"},
    ),
    "the largest init container counts where it is larger": (
        [container(cpu="700m", memory="10Gi")],
        [container(cpu="250m"), container(cpu="1", memory="1Gi")],
        {"cpu": "1", "memory": "10Gi"},
    ),
    "a smaller init container changes nothing": ([container(cpu="2")], [container(cpu="1")], {"cpu": "2"}),
    "a sidecar counts as a container": ([container(cpu="2")], [container("Always", cpu="100m")], {"cpu": "2100m"}),
    "what is no quantity is left out": ([container(cpu="many", memory="1Gi")], [], {"memory": "1Gi"}),
    "a container without requests": ([{"name": "c"}], [{"name": "i", "resources": {}}], {}),
}


@pytest.mark.parametrize(("containers", "first", "expected"), SCHEDULED.values(), ids=SCHEDULED)
def test_a_node_must_have_free_what_the_scheduler_counts(
    containers: list[Any], first: list[Any], expected: dict[str, str]
) -> None:
    pod = read_pod(
        {"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": containers, "initContainers": first}}
    )
    assert pod is not None
    assert {resource: write_quantity(amount) for resource, amount in scheduled_requests(pod).items()} == expected

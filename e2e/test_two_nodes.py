"""One replica over two nodes, a rank in a pod on each: the same greedy tokens as bare vLLM, on the planned pods."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.bed.models import Model, Running, engine, model_deployment
from e2e.bed.references import Continuations
from e2e.bed.site import PRIVILEGED, Site

RANKS = """
import json, ray
from ray.util.placement_group import placement_group_table
ray.init(address="auto", namespace="serve", log_to_driver=False, logging_level="ERROR")
pods = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
ranks = [[(bundle, group["bundles"][bundle], pods[node]) for bundle, node in group["bundles_to_node_id"].items()]
         for group in groups]
print(json.dumps([group for group in ranks if any("GPU" in resources for _, resources, _ in group)]))
"""


@dataclass(frozen=True)
class Layout:
    """One checkpoint in one layout over two nodes of one GPU."""

    name: str
    model_id: str
    checkpoint: str
    tensor: int
    pipeline: int


LAYOUTS = [
    Layout("tensor", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral", 2, 1),
    Layout("pipeline", "acme/dbrx-tiny", "dbrx", 1, 2),
]


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda layout: layout.name)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


@pytest.fixture(scope="module")
def model(
    bare_vllm: dict[Path, Continuations],  # noqa: ARG001 - made first
    site: Site,
    running: Running,
    layout: Layout,
) -> Model:
    site.checkpoint(layout.checkpoint)
    manifest = model_deployment(
        PRIVILEGED,
        f"two-nodes-{layout.name}",
        layout.model_id,
        layout.checkpoint,
        engine=engine(compiled=layout.pipeline > 1),
        parallelism={"tensor": layout.tensor, "pipeline": layout.pipeline},
    )
    model = running.only(manifest, gpus=[1, 1])
    model.wait_until_ready()
    return model


def test_the_tokens_are_those_of_bare_vllm(
    bare_vllm: dict[Path, Continuations], site: Site, model: Model, layout: Layout
) -> None:
    assert model.greedy_tokens() == bare_vllm[site.checkpoint(layout.checkpoint)]


def test_the_workers_are_on_two_nodes(model: Model) -> None:
    assert {pod["spec"]["nodeName"] for pod in model.pods("worker")} == {"node-1", "node-2"}


def test_each_rank_is_in_the_pod_that_the_plan_gives_it(model: Model, layout: Layout) -> None:
    plan = model.status()["plan"]
    assert (plan["tensor"], plan["pipeline"]) == (layout.tensor, layout.pipeline)
    assert (plan["nodesPerReplica"], plan["gpusPerNode"]) == (2, 1)
    (head,) = model.pods("head")
    (ranks,) = json.loads(model.run(head, RANKS))
    workers = {pod["status"]["podIP"] for pod in model.pods("worker")}
    assert [resources["GPU"] for _, resources, _ in ranks] == [1] * plan["gpusPerReplica"]
    assert {address for _, _, address in ranks} == workers

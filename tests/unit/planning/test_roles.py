"""A plan of several roles: its flat form is that of the role that answers, and builders make a worker group a role."""

from __future__ import annotations

from tests.scenes import SETTINGS, make_deployment, make_plan

from conclave.modeldeployment.serving.rayservice import build_rayservice
from conclave.planning.roles import Plan


def test_the_flat_form_of_a_plan_of_one_role_loses_nothing() -> None:
    plan = make_plan(tensor=8, pipeline=2, nodes=2)
    assert Plan.of_flat(plan.flat()) == plan


def test_every_role_has_a_worker_group_of_its_own() -> None:
    serve = make_plan(tensor=2).role
    prefill = make_plan(tensor=4).role.model_copy(update={"name": "prefill"})
    plan = Plan(roles=(serve, prefill))
    assert (plan.gpus_per_replica, plan.nodes_per_replica) == (6, 2)
    groups = build_rayservice(make_deployment(), plan, SETTINGS)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    gpus = [group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for group in groups]
    assert [(group["groupName"], count) for group, count in zip(groups, gpus, strict=True)] == [
        ("gpu", "2"),
        ("prefill", "4"),
    ]

"""Decisions over time: what is kept, what is built anew, what is left alone."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scenes import GIB, SETTINGS, make_deployment, make_event, make_pod, waiting

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import Reason
from conclave.catalogue.models import find_model
from conclave.kubernetes.failures import ApiFailure
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import KubeRay, Observed
from conclave.modeldeployment.records.record import HISTORY, keys_of
from conclave.modeldeployment.sync import decide
from conclave.planning.inventory import Inventory, Node
from conclave.settings import OperatorSettings

TOKEN_SECRET = names.token_secret("mixtral", make_deployment().metadata.uid)
NEWER = SETTINGS.model_copy(update={"image": "images.test/conclave-serving:0.2.0"})


def h100(gpus: int = 8, name: str = "gpu-1") -> Node:
    return Node(
        name=name, accelerator="NVIDIA-H100-80GB-HBM3", memory_bytes=80 * GIB, gpus=gpus, free_gpus=gpus, labels={}
    )


class Cluster:
    """What a decision is carried out on: keeps objects by kind and name, as an API server would."""

    def __init__(self, *nodes: Node, **observed: Any) -> None:
        self.nodes = nodes or (h100(),)
        self.observed: dict[str, Any] = {"kuberay": KubeRay(installed=True), "claims": {"weights": "Bound"}} | observed
        self.objects: dict[tuple[str, str], JsonObject] = {}
        self.writes: list[str] = []

    def observe(self) -> Observed:
        def of(kind: str) -> tuple[JsonObject, ...]:
            return tuple(item for (found, _), item in self.objects.items() if found == kind)

        return Observed(
            inventory=Inventory(nodes=self.nodes),
            revisions=of("ControllerRevision"),
            network_policies=of("NetworkPolicy"),
            **({"rayservice": next(iter(of("RayService")), None)} | self.observed),
        )

    def reconcile(self, deployment: ModelDeployment, operator: OperatorSettings = SETTINGS) -> Decision:
        self.writes = []
        decision = decide(deployment, self.observe(), operator, "random")
        for item in decision.create:
            self.objects.setdefault(key(item), item)
        for item in decision.apply:
            if self.objects.get(key(item)) != item:
                self.writes.append(item["kind"])
                self.objects[key(item)] = copy.deepcopy(item)
        for item in decision.delete:
            del self.objects[key(item)]
        return decision

    @property
    def rayservice(self) -> JsonObject:
        return self.objects["RayService", "mixtral"]


def key(item: JsonObject) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def image_of(rayservice: JsonObject) -> str:
    containers = rayservice["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    return str(containers[0]["image"])


def test_the_order_is_token_record_policies_rayservice() -> None:
    decision = Cluster().reconcile(make_deployment())
    assert [item["kind"] for item in decision.create] == ["Secret"]
    assert [item["kind"] for item in decision.apply] == [
        "ControllerRevision",
        "NetworkPolicy",
        "NetworkPolicy",
        "RayService",
    ]


def test_a_quiet_cluster_is_not_written_to() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    assert cluster.reconcile(make_deployment()).create == ()
    assert cluster.writes == []


def test_a_newer_operator_rolls_nothing_and_says_so() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    decision = cluster.reconcile(make_deployment(), NEWER)
    assert cluster.writes == []
    assert "rayClusterConfig" in decision.update_available
    assert names.REFRESH in decision.update_available


def test_a_refresh_is_answered_once() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    asked = make_deployment(annotations={names.REFRESH: "1"})
    assert cluster.reconcile(asked, NEWER).update_available == ""
    assert image_of(cluster.rayservice) == NEWER.image
    cluster.reconcile(asked, SETTINGS)
    assert cluster.writes == []


def test_scaling_under_a_newer_operator_keeps_the_pods() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    before = cluster.rayservice
    scaled = make_deployment({"scaling": {"minReplicas": 2, "maxReplicas": 4}})
    assert cluster.reconcile(scaled, NEWER).update_available
    assert image_of(cluster.rayservice) == SETTINGS.image
    assert cluster.rayservice["spec"]["serveConfigV2"] != before["spec"]["serveConfigV2"]
    cluster.reconcile(scaled, NEWER)
    assert cluster.writes == []


def test_an_edit_is_built_by_the_operator_that_sees_it() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    assert cluster.reconcile(make_deployment({"engine": {"maxModelLen": 4096}}), NEWER).update_available == ""
    assert image_of(cluster.rayservice) == NEWER.image


def test_a_b_a_returns_to_a() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    first = cluster.rayservice
    cluster.reconcile(make_deployment({"engine": {"maxModelLen": 4096}}))
    assert cluster.rayservice != first
    decision = cluster.reconcile(make_deployment())
    assert cluster.rayservice == first
    assert decision.plan is not None
    cluster.reconcile(make_deployment())
    assert cluster.writes == []


def test_a_recorded_plan_outlives_the_nodes_it_was_made_for() -> None:
    cluster = Cluster()
    plan = cluster.reconcile(make_deployment()).plan
    cluster.nodes = (h100(0),)
    assert cluster.reconcile(make_deployment()).plan == plan
    assert cluster.writes == []


def test_another_image_keeps_the_layout_that_was_chosen_when_other_nodes_were_there() -> None:
    cluster = Cluster(h100(2, "a"))
    plan = cluster.reconcile(make_deployment()).plan
    cluster.nodes = (
        *cluster.nodes,
        Node(**(h100(8, "b").model_dump() | {"accelerator": "NVIDIA-H200", "memory_bytes": 141 * GIB})),
    )
    image = {"runtime": {"image": "images.test/own:1"}}
    listed = SETTINGS.model_copy(update={"allowed_images": ("images.test/own:*",)})
    kept = cluster.reconcile(make_deployment(image), listed).plan
    assert plan is not None
    assert kept is not None
    assert (kept.role.accelerator, kept.role.tensor) == (plan.role.accelerator, plan.role.tensor)
    asked = make_deployment(image, annotations={names.REFRESH: "1"})
    fresh = cluster.reconcile(asked, listed).plan
    assert fresh is not None
    assert fresh.role.accelerator == "NVIDIA-H200"


def test_what_runs_goes_on_when_an_edit_fits_nowhere() -> None:
    cluster = Cluster()
    plan = cluster.reconcile(make_deployment()).plan
    before = cluster.rayservice
    decision = cluster.reconcile(make_deployment({"hardware": {"accelerators": ["NVIDIA-B200"]}}))
    assert decision.refusal is not None
    assert decision.refusal.reason == Reason.NOTHING_FITS
    assert decision.plan == plan
    assert cluster.rayservice == before
    assert cluster.writes == []


def test_what_runs_can_be_suspended_whatever_is_wrong_with_an_edit() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    bad = {"hardware": {"accelerators": ["NVIDIA-B200"]}}
    cluster.reconcile(make_deployment(bad | {"suspend": True}))
    assert cluster.rayservice["spec"]["rayClusterConfig"]["suspend"] is True
    cluster.reconcile(make_deployment(bad | {"suspend": True}))
    assert cluster.writes == []
    cluster.reconcile(make_deployment())
    assert cluster.rayservice["spec"]["rayClusterConfig"]["suspend"] is False


def test_drift_is_repaired_from_the_record() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    good = cluster.rayservice
    del cluster.objects["RayService", "mixtral"]
    cluster.reconcile(make_deployment(), NEWER)
    assert cluster.rayservice == good


def test_an_unreadable_record_counts_as_absent() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    for (kind, _), item in cluster.objects.items():
        if kind == "ControllerRevision":
            item["data"] = {"plan": "forged"}
    assert cluster.reconcile(make_deployment()).plan is not None


def test_old_records_are_deleted() -> None:
    cluster = Cluster()
    for length in range(1024, 1024 * 12, 1024):
        cluster.reconcile(make_deployment({"engine": {"maxModelLen": length}}))
    numbers = [item["revision"] for (kind, _), item in cluster.objects.items() if kind == "ControllerRevision"]
    assert sorted(numbers) == list(range(11 - HISTORY + 1, 12))


LEFT_ALONE = {
    "the deployment is being deleted": (make_deployment(deletionTimestamp="2026-11-23T12:00:00Z"), {}),
    "records cannot be read": (
        make_deployment(),
        {
            "failures": (
                ApiFailure(verb="list", group="apps", resource="controllerrevisions", code=403, reason="Forbidden"),
            )
        },
    ),
    "nodes cannot be read": (
        make_deployment(),
        {"failures": (ApiFailure(verb="list", resource="nodes", code=0, reason="Unreachable"),)},
    ),
    "KubeRay is absent": (make_deployment(), {"kuberay": KubeRay(installed=False)}),
    "KubeRay is too old": (
        make_deployment(),
        {"kuberay": KubeRay(installed=True, missing_fields=("spec.rayClusterConfig.authOptions.mode",))},
    ),
}


@pytest.mark.parametrize(("deployment", "observed"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_nothing_is_written_while(deployment: ModelDeployment, observed: dict[str, Any]) -> None:
    decision = Cluster(**observed).reconcile(deployment)
    assert (decision.create, decision.apply, decision.delete) == ((), (), ())


def test_a_deleted_token_is_made_again_for_pods_that_wait_for_it() -> None:
    cluster = Cluster()
    cluster.reconcile(make_deployment())
    pod = make_pod("worker", **waiting("ContainerCreating"))
    event = make_event(pod, "FailedMount", f'MountVolume.SetUp failed : secret "{TOKEN_SECRET}" not found')
    cluster.observed |= {"pods": (pod,), "events": (event,)}
    assert [item["kind"] for item in cluster.reconcile(make_deployment()).create] == ["Secret"]
    cluster.observed |= {"pods": (make_pod("worker"),)}
    assert cluster.reconcile(make_deployment()).create == ()


CONFIG = find_model("mistralai/Mixtral-8x7B-Instruct-v0.1")
assert CONFIG is not None
OWN = {"model": {"id": "acme/own-mixtral", "configRef": {"name": "own"}}}
FBGEMM = {"quant_method": "fbgemm_fp8"}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], Reason, str]] = {
    "no ConfigMap": (
        OWN,
        {},
        Reason.CONFIG_MISSING,
        "ConfigMap llm/own: spec.model.configRef names this ConfigMap, and it does not exist",
    ),
    "no key in it": (OWN, {"config_maps": {"own": {"x": "{}"}}}, Reason.CONFIG_MISSING, "has no key config.json"),
    "no JSON": (
        OWN,
        {"config_maps": {"own": {"config.json": "{"}}},
        Reason.CONFIG_INVALID,
        "config.json is not valid JSON",
    ),
    "a list": (OWN, {"config_maps": {"own": {"config.json": "[]"}}}, Reason.CONFIG_INVALID, "is a list"),
    "an unknown architecture": (
        OWN,
        {"config_maps": {"own": {"config.json": '{"architectures": ["Nobody"]}'}}},
        Reason.MODEL_REFUSED,
        "Nobody",
    ),
    "a checkpoint that vLLM refuses": (
        OWN,
        {"config_maps": {"own": {"config.json": json.dumps({**CONFIG.config, "quantization_config": FBGEMM})}}},
        Reason.MODEL_REFUSED,
        "quantization_config: vLLM 0.32 refuses this checkpoint: The quantization method fbgemm_fp8 is deprecated",
    ),
    "quantization beside config.json that is no JSON": (
        OWN,
        {"config_maps": {"own": {"config.json": json.dumps(CONFIG.config), "hf_quant_config.json": "{"}}},
        Reason.CONFIG_INVALID,
        "hf_quant_config.json is not valid JSON",
    ),
    "a model without weights": (
        {"model": {"id": "openai/gpt-4o"}},
        {},
        Reason.MODEL_REFUSED,
        "a ModelDeployment cannot serve this model",
    ),
    "an unaccepted licence": (
        {"model": {"id": "meta-llama/Meta-Llama-3-8B-Instruct"}},
        {},
        Reason.MODEL_REFUSED,
        "licence",
    ),
    "an unknown data class": ({"access": {"dataClass": "secret"}}, {}, Reason.DATA_CLASS_UNKNOWN, "secret"),
    "a tensor size that heads do not divide by": ({"parallelism": {"tensor": 5}}, {}, Reason.INVALID_SPEC, "5"),
}


@pytest.mark.parametrize(("spec", "observed", "reason", "words"), REFUSED.values(), ids=REFUSED)
def test_a_spec_is_refused_for(spec: dict[str, Any], observed: dict[str, Any], reason: Reason, words: str) -> None:
    decision = Cluster(**observed).reconcile(make_deployment(spec))
    assert decision.refusal is not None
    assert decision.refusal.reason == reason
    assert words in decision.refusal.message
    assert (decision.create, decision.apply) == ((), ())


def test_a_model_of_ones_own_is_planned_from_its_config() -> None:
    assert CONFIG is not None
    config_maps = {"own": {"config.json": json.dumps(CONFIG.config)}}
    decision = Cluster(config_maps=config_maps).reconcile(make_deployment(OWN))
    assert decision.refusal is None
    assert decision.plan is not None


def test_a_model_of_ones_own_is_planned_from_the_quantization_beside_its_config() -> None:
    assert CONFIG is not None
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    data = {"config.json": json.dumps(CONFIG.config)}
    plain, quantized = (
        Cluster(config_maps={"own": keys}).reconcile(make_deployment(OWN)).plan
        for keys in (data, data | {"hf_quant_config.json": json.dumps(beside)})
    )
    assert plain is not None
    assert quantized is not None
    assert "weights (fp8)" in quantized.because[0]
    assert quantized.role.gpus_per_replica < plain.role.gpus_per_replica


def test_a_default_that_is_written_out_changes_no_hash() -> None:
    plain, spelled = make_deployment(), make_deployment({"suspend": False, "scaling": {"minReplicas": 1}})
    assert keys_of(plain).spec == keys_of(spelled).spec
    assert keys_of(plain).shape == keys_of(spelled).shape


edits = st.fixed_dictionaries(
    {},
    optional={
        "scaling": st.sampled_from([{"maxReplicas": 3}, {"minReplicas": 0}, {"minReplicas": 2, "maxReplicas": 2}]),
        "suspend": st.booleans(),
        "engine": st.sampled_from([{"maxModelLen": 2048}, {"maxModelLen": 4096}]),
        "parallelism": st.sampled_from([{"tensor": 4}, {"tensor": 2}, {"tensor": 7}]),
        "access": st.sampled_from([{"dataClass": "public"}, {"allowedNamespaces": ["chat"]}]),
    },
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(edits, st.sampled_from([SETTINGS, NEWER])), min_size=1, max_size=5))
def test_every_sequence_of_edits_comes_to_rest(steps: list[tuple[dict[str, Any], OperatorSettings]]) -> None:
    cluster = Cluster()
    for spec, operator in steps:
        deployment = make_deployment(spec)
        first = cluster.reconcile(deployment, operator)
        again = cluster.reconcile(deployment, operator)
        assert cluster.writes == []
        assert again.model_copy(update={"create": first.create, "delete": first.delete}) == first
        numbers = [item["revision"] for (kind, _), item in cluster.objects.items() if kind == "ControllerRevision"]
        assert len(numbers) == len(set(numbers)) <= HISTORY

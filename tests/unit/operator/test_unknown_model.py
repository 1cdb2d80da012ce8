"""A model that the catalogue does not know, pass by pass over the fake cluster: inspection Job, plan, and then Ray."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.sparse_weights import GRANITE
from tests.unit.operator.simulation import NAMESPACE, Simulation, model_deployment

from conclave.api.modeldeployment import ModelDeployment
from conclave.catalogue.inspected import InspectedWeights, write_report
from conclave.catalogue.measured import Amount, MeasuredLayer, MeasuredWeights
from conclave.catalogue.models import find_model
from conclave.modeldeployment.root_cause import explain
from conclave_cluster.observe import keep_pod, observe
from conclave_cluster.resources import CLAIM, JOB, NETWORK_POLICY, RAY_SERVICE, REVISION

Json = dict[str, Any]
DIGEST = "sha256:" + "ab" * 32
ENTRY = find_model("mistralai/Mixtral-8x7B-Instruct-v0.1")
assert ENTRY is not None
CONFIG = ENTRY.config


def own(**changes: Any) -> Json:
    return {"id": "acme/own", "source": {"persistentVolumeClaim": {"claimName": "weights", "path": "own"}}, **changes}


def report(config: Json | None = None) -> str:
    sizes: Json = {"files": 19, "parameters": 46_702_792_704, "size_bytes": 93_405_585_408, "dtypes": ("BF16",)}
    return write_report(InspectedWeights(config=CONFIG if config is None else config, **sizes))


@pytest.fixture
def world() -> Simulation:
    """A deployment whose inspection Job has just been made."""
    world = Simulation()
    world.put(model_deployment(model=own()))
    world.settle()
    return world


def of(world: Simulation, resource: Any) -> list[Json]:
    return [item for (kind, _, _), item in world.cluster.objects.items() if kind == resource]


def the_job(world: Simulation) -> Json:
    (job,) = of(world, JOB)
    return job


def pod(world: Simulation, state: Json, phase: str = "Pending") -> Json:
    """The Job's pod, with the state of its container."""
    job = the_job(world)
    owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"], "controller": True}
    return world.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{job['metadata']['name']}-x7k2p",
                "namespace": NAMESPACE,
                "labels": job["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "spec": job["spec"]["template"]["spec"],
            "status": {"phase": phase, "containerStatuses": [{"name": "inspect"} | state]},
        }
    )


def terminated(message: str, exit_code: int = 0, reason: str = "Completed") -> Json:
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}


def crashed(message: str, reason: str = "Error", exit_code: int = 4) -> Json:
    """Between two tries."""
    return {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": terminated(message, exit_code, reason),
    }


def fault(kind: str, message: str = "words") -> str:
    return json.dumps({"error": kind, "message": message})


def complete(world: Simulation, message: str) -> None:
    """What kubelet and Job controller write when the pod has ended well."""
    pod(world, {"state": terminated(message)}, "Succeeded")
    world.put(the_job(world) | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    world.settle()


def written(world: Simulation) -> list[str]:
    kinds = [write.partition("/")[0] for write in world.cluster.writes if "Event" not in write]
    return [kind for kind in kinds if kind != "patch ModelDeployment"]


def test_nothing_but_the_inspection_is_made_before_there_is_a_plan(world: Simulation) -> None:
    assert written(world) == ["create NetworkPolicy", "create Job"]
    for kind in ("Ready", "PlanReady"):
        condition = world.condition(kind)
        assert (condition["status"], condition["reason"]) == ("False", "Inspecting")
        assert "the catalogue does not know acme/own: config.json is being read from" in condition["message"]
        assert "PersistentVolumeClaim llm/weights, path own" in condition["message"]
    assert world.condition("Reconciling")["status"] == "True"
    assert world.condition("Stalled")["status"] == "False"


def test_the_pod_is_restricted_takes_no_accelerator_and_reaches_nobody(world: Simulation) -> None:
    template = the_job(world)["spec"]["template"]
    spec = template["spec"]
    (container,) = spec["containers"]
    assert container["command"][1:] == [
        *("-m", "conclave_weights", "inspect", "--report", "/dev/termination-log", "/models/weights")
    ]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["volumeMounts"] == [
        {"name": "weights", "mountPath": "/models/weights", "readOnly": True, "subPath": "own"}
    ]
    assert spec["volumes"] == [{"name": "weights", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}]
    assert "gpu" not in json.dumps(spec)
    (policy,) = of(world, NETWORK_POLICY)
    assert policy["spec"] == {
        "podSelector": {"matchLabels": {"conclave.dev/inspection-of": "mixtral"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert "conclave.dev/model-deployment" not in template["metadata"]["labels"]


def test_the_deployments_own_selector_tolerations_and_regions_hold_for_the_pod() -> None:
    world = Simulation()
    hardware = {"nodeSelector": {"pool": "llm"}, "tolerations": [{"key": "team", "operator": "Exists"}]}
    access = {"dataClass": "internal", "regions": ["eu-west-1"]}
    world.put(model_deployment(model=own(), hardware=hardware, access=access))
    world.settle()
    spec = the_job(world)["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == hardware["nodeSelector"]
    assert [each["key"] for each in spec["tolerations"]] == ["team", "nvidia.com/gpu", "amd.com/gpu"]
    assert "topology.kubernetes.io/region" in json.dumps(spec["affinity"])


def test_the_model_is_planned_and_built_like_a_known_one(world: Simulation) -> None:
    complete(world, report())
    known = Simulation()
    known.put(model_deployment())
    known.settle()
    plans = [one.deployment()["status"]["plan"] for one in (world, known)]
    told = plans[0]["because"].pop()
    assert plans[0] == plans[1]
    assert told == (
        "the catalogue does not know acme/own: planned from config.json of "
        "PersistentVolumeClaim llm/weights, path own: 19 files of 87.0 GiB hold 46702792704 parameters in BF16"
    )
    assert len(of(world, RAY_SERVICE)) == 1
    assert world.condition("PlanReady")["reason"] == "Planned"


def test_an_architecture_that_no_reader_knows_is_planned_from_what_the_job_read_of_its_tensors(
    world: Simulation,
) -> None:
    billion = Amount(floats=10**9)
    layers = (MeasuredLayer(matrices=Amount(floats=2 * 10**9)),) * GRANITE["num_hidden_layers"]
    tensors = MeasuredWeights(layers=layers, embedding=billion, tensors=29)
    sizes: Json = {"files": 3, "parameters": 7 * 10**9, "size_bytes": 14 * 10**9, "dtypes": ("BF16",)}
    complete(world, write_report(InspectedWeights(config=GRANITE, tensors=tensors, **sizes)))
    plan = world.deployment()["status"]["plan"]
    rotary = 4096 * 128 * 2
    assert plan["memory"]["weights"] == 14 * 10**9 + rotary
    uncertain = next(reason for reason in plan["because"] if reason.startswith("uncertain:"))
    assert "no reader knows GraniteMoeForCausalLM" in uncertain
    assert "29 tensors" in uncertain
    assert any(reason.startswith("the catalogue does not know acme/own") for reason in plan["because"])
    assert of(world, RAY_SERVICE)


def test_an_architecture_that_the_engine_lacks_is_refused_with_that_reason(world: Simulation) -> None:
    complete(world, report(CONFIG | {"architectures": ["RwkvForCausalLM"]}))
    condition = world.condition("PlanReady")
    assert (condition["status"], condition["reason"]) == ("False", "ModelRefused")
    assert "vLLM 0.32 has no such class" in condition["message"]


def test_it_stays_quiet_while_it_is_inspected_and_afterwards(world: Simulation) -> None:
    for _ in range(2):
        count = len(world.cluster.writes)
        for _ in range(3):
            world.step()
        world.restart()
        world.step()
        assert len(world.cluster.writes) == count
        complete(world, report())


VERDICTS = {
    "no config.json": (
        fault("ConfigMissing", "no config.json, expected one"),
        "ConfigMissing",
        "no config.json, expected",
    ),
    "no JSON": (
        fault("ConfigInvalid", "config.json: no JSON"),
        "ConfigInvalid",
        "path own: config.json: no JSON; the Job re",
    ),
    "no such engine": (
        fault("ArchitectureUnknown", "is 'Mamba'"),
        "ModelRefused",
        "path own: is 'Mamba'; the Job reads the weights again",
    ),
    "unsound files": (
        fault("WeightsUnfit", "no tokenizer"),
        "WeightsCorrupt",
        "no tokenizer; the Job reads the weights again within",
    ),
    "files that nobody may read": (
        fault("WeightsUnreadable", "EACCES"),
        "WeightsUnreadable",
        "EACCES; the Job reads the weights again",
    ),
    "words that break lines": (
        fault("ConfigInvalid", "a\n\x1b[31mb\ud800"),
        "ConfigInvalid",
        "path own: a\\n\\x1b[31mb?; the Job",
    ),
    "words without an end": (
        fault("ConfigInvalid", "x" * 3900),
        "ConfigInvalid",
        "path own: " + "x" * 1499 + "…; the Job",
    ),
    "words that are none": (
        json.dumps({"error": "ConfigInvalid", "message": [1]}),
        "ConfigInvalid",
        "path own: [1]; the Job",
    ),
}


@pytest.mark.parametrize(("message", "reason", "words"), VERDICTS.values(), ids=VERDICTS)
def test_what_is_wrong_with_the_files_is_why_there_is_no_plan(
    world: Simulation, message: str, reason: str, words: str
) -> None:
    pod(world, crashed(message))
    world.settle()
    condition = world.condition("PlanReady")
    assert (condition["status"], condition["reason"]) == ("False", reason)
    assert words in condition["message"]
    assert world.condition("Stalled")["status"] == "True"
    count = len(world.cluster.writes)
    pod(world, {"state": {"running": {}}, "lastState": terminated(message, 4, "Error")})
    world.settle()
    assert world.condition("PlanReady") == condition, "the next try has not found it right yet"
    assert len(world.cluster.writes) == count
    complete(world, report())
    assert world.condition("PlanReady")["status"] == "True"
    assert world.condition("Stalled")["status"] == "False"


TROUBLES: dict[str, tuple[Json, str, str, str]] = {
    "an image without the command": (
        crashed("usage: conclave_weights\nerror: invalid choice: 'inspect'", exit_code=2),
        "InspectionFailed",
        "container inspect ended: error: invalid choice: 'inspect'; the Job tries again",
        "True",
    ),
    "a report that is none": (crashed("[1, 2]"), "InspectionFailed", "container inspect ended: [1, 2]", "True"),
    "no words at all": (
        crashed("", exit_code=139),
        "InspectionFailed",
        "container inspect ended: exit code 139",
        "True",
    ),
    "too much memory": (crashed("", "OOMKilled", 137), "OutOfMemory", "more than its memory limit", "True"),
    "an image that is not pulled": (
        {"state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}},
        "ImageNotPulled",
        "denied",
        "True",
    ),
    "a path that is not there": (
        {
            "state": {
                "waiting": {
                    "reason": "CreateContainerConfigError",
                    "message": 'failed to create subPath directory for volumeMount "weights" of container "inspect"',
                }
            }
        },
        "WeightsMissing",
        "create the directory that the source's path in spec.model names",
        "True",
    ),
    "a pod that has begun": ({"state": {"running": {}}}, "Inspecting", "config.json is being read", "False"),
}


@pytest.mark.parametrize(("state", "reason", "words", "is_stalled"), TROUBLES.values(), ids=TROUBLES)
def test_what_keeps_the_pod_from_reading_is_told(
    world: Simulation, state: Json, reason: str, words: str, is_stalled: str
) -> None:
    pod(world, state)
    world.settle()
    for kind in ("PlanReady", "Ready"):
        condition = world.condition(kind)
        assert (condition["status"], condition["reason"]) == ("False", reason)
        assert words in condition["message"]
    assert world.condition("Stalled")["status"] == is_stalled
    complete(world, report())
    assert world.condition("PlanReady")["status"] == "True"


def test_a_claim_that_is_not_there_is_the_cause(world: Simulation) -> None:
    world.cluster.remove(CLAIM, NAMESPACE, "weights")
    world.settle()
    assert world.condition("Ready")["reason"] == "ClaimMissing"
    assert world.condition("PlanReady")["reason"] == "Inspecting"


def test_a_claim_that_is_not_bound_is_told(world: Simulation) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "weights", "namespace": NAMESPACE},
    }
    world.put(claim | {"status": {"phase": "Pending"}})
    world.settle()
    assert world.condition("PlanReady")["reason"] == "ClaimPending"


FORGED = {
    "no report": ("", "the report is ''"),
    "no JSON": ("ok", "the report is 'ok'"),
    "fields of nobody": (json.dumps({"config": {}, "image": "x"}), "the report's "),
    "a config that no reader takes": (report({"architectures": ["MixtralForCausalLM"]}), "config.json: "),
}


@pytest.mark.parametrize(("message", "words"), FORGED.values(), ids=FORGED)
def test_a_report_that_is_not_believed_is_told_and_nothing_is_planned(
    world: Simulation, message: str, words: str
) -> None:
    complete(world, message)
    condition = world.condition("PlanReady")
    assert (condition["status"], condition["reason"]) == ("False", "ConfigInvalid")
    assert words in condition["message"]
    assert of(world, RAY_SERVICE) == []
    world.cluster.remove(JOB, NAMESPACE, the_job(world)["metadata"]["name"])
    world.settle()
    assert world.condition("PlanReady")["reason"] == "Inspecting", "whatever the pod of the Job that went has told"
    complete(world, report())
    assert world.condition("PlanReady")["status"] == "True"


def test_a_pod_of_somebody_elses_job_is_not_asked(world: Simulation) -> None:
    forged = pod(world, {"state": terminated(report())}, "Succeeded")
    forged["metadata"]["ownerReferences"][0]["uid"] = "another"
    world.put(forged)
    world.put(the_job(world) | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    world.step()
    assert of(world, RAY_SERVICE) == []


def test_a_report_that_went_with_its_node_is_asked_for_again(world: Simulation) -> None:
    first = the_job(world)
    world.put(first | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    world.settle()
    assert [write for write in world.cluster.writes if "Job/" in write] == [
        f"{verb} Job/{first['metadata']['name']}" for verb in ("create", "delete", "create")
    ]
    complete(world, report())
    assert world.condition("PlanReady")["status"] == "True"


def test_a_pod_whose_end_has_not_been_seen_yet_is_waited_for(world: Simulation) -> None:
    pod(world, {"state": {"running": {}}}, "Running")
    job = the_job(world)
    world.put(job | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    world.settle()
    assert the_job(world)["metadata"]["uid"] == job["metadata"]["uid"]
    assert world.condition("PlanReady")["reason"] == "Inspecting"


def test_a_planned_model_is_not_inspected_again_by_a_newer_operator(world: Simulation) -> None:
    complete(world, report())
    job = the_job(world)
    world.settings = world.settings.model_copy(update={"image": "conclave/serving:newer"})
    world.restart()
    world.settle()
    assert the_job(world) == job
    assert world.condition("UpdateAvailable")["status"] == "True"
    world.cluster.remove(JOB, NAMESPACE, job["metadata"]["name"])
    world.settle()
    assert of(world, JOB) == []
    assert world.condition("PlanReady")["status"] == "True"


def test_an_image_that_is_corrected_makes_another_job(world: Simulation) -> None:
    first = the_job(world)["metadata"]
    pod(world, {"state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}})
    world.settings = world.settings.model_copy(update={"allowed_images": ("conclave/serving:right",)})
    world.restart()
    world.edit(runtime={"image": "conclave/serving:right"})
    world.settle()
    assert the_job(world)["metadata"]["name"] != first["name"]
    assert the_job(world)["metadata"]["labels"] == first["labels"]
    assert world.condition("PlanReady")["reason"] == "Inspecting"


@pytest.mark.parametrize(
    "model",
    [
        own(source={"persistentVolumeClaim": {"claimName": "weights", "path": "other"}}),
        own(source={"image": {"reference": f"registry.test/weights@{DIGEST}"}}),
        own(digest=DIGEST),
    ],
    ids=["another path", "an image volume", "a digest"],
)
def test_other_files_are_looked_at_while_what_serves_goes_on(world: Simulation, model: Json) -> None:
    complete(world, report())
    first, before = the_job(world)["metadata"]["name"], of(world, RAY_SERVICE)[0]["spec"]
    world.edit(model=model)
    world.settle()
    assert the_job(world)["metadata"]["name"] != first
    assert of(world, RAY_SERVICE)[0]["spec"] == before
    assert world.condition("PlanReady")["reason"] == "Inspecting"
    assert world.condition("Ready")["status"] == "False"
    complete(world, report())
    assert world.condition("PlanReady")["status"] == "True"
    assert of(world, RAY_SERVICE)[0]["spec"] != before


def test_another_engine_setting_is_planned_from_what_was_read(world: Simulation) -> None:
    complete(world, report())
    job = the_job(world)
    world.edit(engine={"maxModelLen": 4096})
    world.settle()
    assert the_job(world) == job
    assert world.deployment()["status"]["plan"]["maxModelLen"] == 4096


def test_a_refresh_looks_again(world: Simulation) -> None:
    complete(world, report())
    first = the_job(world)["metadata"]["name"]
    item = world.deployment()
    item["metadata"]["annotations"] = {"conclave.dev/refresh": "1"}
    world.put(item)
    world.settle()
    assert the_job(world)["metadata"]["name"] != first
    assert len(of(world, RAY_SERVICE)) == 1
    complete(world, report(CONFIG | {"num_hidden_layers": 16}))
    assert world.condition("PlanReady")["status"] == "True"


@pytest.mark.parametrize(
    "model",
    [own(id="mistralai/Mixtral-8x7B-Instruct-v0.1"), own(configRef={"name": "own"})],
    ids=["a catalogue entry", "a ConfigMap"],
)
def test_what_needs_no_inspection_ends_it(world: Simulation, model: Json) -> None:
    metadata = {"name": "own", "namespace": NAMESPACE}
    world.put(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"config.json": json.dumps(CONFIG)}}
    )
    world.edit(model=model)
    world.settle()
    assert of(world, JOB) == []
    assert len(of(world, RAY_SERVICE)) == 1


def test_a_refused_spec_is_not_looked_at() -> None:
    world = Simulation()
    world.put(model_deployment(model=own(), access={"dataClass": "cosmic"}))
    world.settle()
    assert of(world, JOB) == []
    assert world.condition("PlanReady")["reason"] == "DataClassUnknown"


def test_a_suspended_inspection_stops_and_goes_on_later(world: Simulation) -> None:
    world.edit(suspend=True)
    world.settle()
    assert of(world, JOB) == []
    assert (world.condition("Ready")["reason"], world.condition("PlanReady")["reason"]) == ("Suspended", "Suspended")
    world.edit(suspend=False)
    world.settle()
    assert the_job(world)
    complete(world, report())
    world.edit(suspend=True)
    world.settle()
    assert the_job(world)
    assert world.condition("PlanReady")["status"] == "True"


def test_a_download_comes_first_and_its_cache_is_then_looked_at() -> None:
    world = Simulation()
    source = {"objectStore": {"uri": "s3://models/own", "secretName": "store"}}
    world.put(model_deployment(model=own(source=source, cache={"size": "20Gi"})))
    world.settle()
    download = the_job(world)
    assert "conclave.dev/weights-key" in download["metadata"]["labels"]
    assert world.condition("Ready")["reason"] == "Downloading"
    plan = world.condition("PlanReady")
    assert (plan["status"], plan["reason"]) == ("False", "Inspecting")
    assert "after the download, config.json will be read from" in plan["message"]
    assert "PersistentVolumeClaim llm/mixtral.weights, filled from s3://models/own" in plan["message"]
    world.put(download | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    world.settle()
    inspection = next(job for job in of(world, JOB) if job["metadata"]["name"] != download["metadata"]["name"])
    (volume,) = inspection["spec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "mixtral.weights", "readOnly": True}
    assert world.condition("WeightsReady")["reason"] == "Downloaded"
    assert world.condition("Ready")["reason"] == "Inspecting"
    assert (
        "egress"
        not in next(item for item in of(world, NETWORK_POLICY) if item["metadata"]["name"].endswith("ion"))["spec"]
    )
    assert len(of(world, JOB)) == 2


def test_nothing_is_made_without_kuberay() -> None:
    world = Simulation()
    world.cluster.absent = {RAY_SERVICE}
    world.cluster.schemas.clear()
    world.put(model_deployment(model=own()))
    world.settle()
    assert (of(world, JOB), of(world, NETWORK_POLICY), of(world, REVISION)) == ([], [], [])
    assert world.condition("Ready")["reason"] == "DependencyMissing"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"state": {"running": {}}}, "Inspecting"),
        (crashed(fault("ConfigMissing")), "ConfigMissing"),
        (crashed("boom"), "InspectionFailed"),
    ],
    ids=["it runs", "it found no config.json", "it crashed"],
)
def test_explain_tells_the_same_without_deciding(world: Simulation, state: Json, reason: str) -> None:
    pod(world, state)
    world.settle()
    deployment = ModelDeployment.model_validate(world.deployment())
    observed = asyncio.run(observe(world.cluster, deployment))
    assert explain(deployment, observed, world.now)[0].reason == reason


def test_the_pods_of_an_inspection_are_kept_whole() -> None:
    item = {"metadata": {"name": "x", "labels": {"conclave.dev/inspection-of": "m"}}, "status": {"phase": "Running"}}
    assert keep_pod(item) == item

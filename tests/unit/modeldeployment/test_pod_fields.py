"""What spec.runtime adds to pods: where it is rendered, what it leaves alone, and that no Job is renamed by it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.scenes import SETTINGS, make_deployment, make_plan

from conclave import names
from conclave.api.modeldeployment import ModelDeployment, Probes
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.inspection.job import build_inspection_job
from conclave.modeldeployment.records.record import keys_of
from conclave.modeldeployment.serving.pods import ENGINE_UNREADY_S, HEAD_UNREADY_S, PROXY_DRAIN_S, engine_probe
from conclave.modeldeployment.serving.rayservice import build_rayservice
from conclave.modeldeployment.weights.job import build_download_job

Json = dict[str, Any]
COST: Json = {"example.com/cost-centre": "1234"}
TEAM: Json = {"key": "team", "operator": "Exists"}
GPUS = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in ("nvidia.com/gpu", "amd.com/gpu")]


def rayservice(runtime: Json, **plan: Any) -> JsonObject:
    return build_rayservice(make_deployment({"runtime": runtime}), make_plan(**plan), SETTINGS)


def templates(built: JsonObject) -> tuple[JsonObject, JsonObject]:
    cluster = built["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    return cluster["headGroupSpec"]["template"], group["template"]


def at(template: JsonObject, *path: str | int) -> Any:
    """None where there is nothing."""
    found: Any = template
    for step in path:
        found = found.get(step) if isinstance(found, dict) else found[step]
        if found is None:
            return None
    return found


LIMITS = ("spec", "containers", 0, "resources", "limits")
REQUESTS = ("spec", "containers", 0, "resources", "requests")
LIVENESS = ("spec", "containers", 0, "livenessProbe")
READINESS = ("spec", "containers", 0, "readinessProbe")
RENDERED: dict[str, tuple[Json, tuple[str | int, ...], Any, Any]] = {
    "a RuntimeClass is the workers' only": (
        {"runtimeClassName": "nvidia"},
        ("spec", "runtimeClassName"),
        None,
        "nvidia",
    ),
    "a node selector of the head is none of the workers'": (
        {"head": {"nodeSelector": {"kubernetes.io/arch": "amd64"}}},
        ("spec", "nodeSelector"),
        {"kubernetes.io/arch": "amd64"},
        None,
    ),
    "tolerations of the head are none of the workers'": (
        {"head": {"tolerations": [TEAM]}},
        ("spec", "tolerations"),
        [TEAM],
        GPUS[:1],
    ),
    "labels are of both": (
        {"podLabels": COST},
        ("metadata", "labels", "example.com/cost-centre"),
        "1234",
        "1234",
    ),
    "annotations are of both": (
        {"podAnnotations": {"example.com/note": "a b"}},
        ("metadata", "annotations", "example.com/note"),
        "a b",
        "a b",
    ),
    "pods are out of Istio's mesh": ({}, ("metadata", "labels", "sidecar.istio.io/inject"), "false", "false"),
    "pods are out of Istio's ambient mesh": ({}, ("metadata", "labels", "istio.io/dataplane-mode"), "none", "none"),
    "pods are out of Linkerd's mesh": ({}, ("metadata", "annotations", "linkerd.io/inject"), "disabled", "disabled"),
    "who asks for a mesh gets it": (
        {"podLabels": {"sidecar.istio.io/inject": "true"}},
        ("metadata", "labels", "sidecar.istio.io/inject"),
        "true",
        "true",
    ),
    "disk of the head is its limit": (
        {"resources": {"head": {"ephemeralStorage": "24Gi"}}},
        (*LIMITS, "ephemeral-storage"),
        "24Gi",
        None,
    ),
    "disk of the workers is their request": (
        {"resources": {"worker": {"ephemeralStorage": "48Gi"}}},
        (*REQUESTS, "ephemeral-storage"),
        None,
        "48Gi",
    ),
    "nothing is said of disks where the spec says nothing": ({}, (*REQUESTS, "ephemeral-storage"), None, None),
    "devices are requested": (
        {"resources": {"worker": {"devices": {"rdma/hca_shared_devices_a": 1}}}},
        (*REQUESTS, "rdma/hca_shared_devices_a"),
        None,
        "1",
    ),
    "devices are limited to what is requested": (
        {"resources": {"worker": {"devices": {"vpc.amazonaws.com/efa": 32}}}},
        (*LIMITS, "vpc.amazonaws.com/efa"),
        None,
        "32",
    ),
    "GPUs are the plan's beside devices": (
        {"resources": {"worker": {"devices": {"rdma/ib": 8}}}},
        (*LIMITS, "nvidia.com/gpu"),
        None,
        "2",
    ),
    "a longer period": ({"probes": {"periodSeconds": 20}}, (*LIVENESS, "periodSeconds"), 20, 20),
    "a longer time-out": ({"probes": {"timeoutSeconds": 15}}, (*READINESS, "timeoutSeconds"), 15, 15),
    "more failures of the liveness probe": (
        {"probes": {"livenessFailureThreshold": 90}},
        (*LIVENESS, "failureThreshold"),
        90,
        90,
    ),
    "fewer failures of the readiness probe at a longer period": (
        {"probes": {"periodSeconds": 20}},
        (*READINESS, "failureThreshold"),
        6,
        3,
    ),
}


@pytest.mark.parametrize(("runtime", "path", "of_head", "of_worker"), RENDERED.values(), ids=RENDERED)
def test_in_pods(runtime: Json, path: tuple[str | int, ...], of_head: Any, of_worker: Any) -> None:
    head, worker = templates(rayservice(runtime))
    assert (at(head, *path), at(worker, *path)) == (of_head, of_worker)


def shared_memory(template: JsonObject) -> str:
    return next(
        str(volume["emptyDir"]["sizeLimit"])
        for volume in template["spec"]["volumes"]
        if volume["name"] == "shared-memory"
    )


@pytest.mark.parametrize(
    ("resources", "sizes"),
    [
        ({}, ("2Gi", "6Gi")),
        ({"head": {"sharedMemory": "4Gi"}, "worker": {"sharedMemory": "32Gi"}}, ("4Gi", "32Gi")),
    ],
    ids=["by the number of GPUs", "as the spec says"],
)
def test_shared_memory_is_sized(resources: Json, sizes: tuple[str, str]) -> None:
    head, worker = templates(rayservice({"resources": resources}, tensor=4))
    assert (shared_memory(head), shared_memory(worker)) == sizes


def test_no_label_of_a_spec_replaces_one_by_which_pods_are_found() -> None:
    """Admission refuses such keys; an object that was stored before would still be harmless."""
    deployment = make_deployment()
    runtime = deployment.spec.runtime.model_copy(update={"pod_labels": {names.MODEL_DEPLOYMENT: "other"}})
    spec = deployment.spec.model_copy(update={"runtime": runtime})
    built = build_rayservice(deployment.model_copy(update={"spec": spec}), make_plan(), SETTINGS)
    for template in templates(built):
        assert template["metadata"]["labels"][names.MODEL_DEPLOYMENT] == "mixtral"


@given(st.integers(5, 60), st.integers(1, 60))
def test_a_pod_leaves_the_service_before_its_proxy_ends_whatever_the_period(period: int, timeout: int) -> None:
    """docs/adr/0012: the times of a replica that goes must fit each other."""
    probes = Probes(period_seconds=period, timeout_seconds=timeout)
    probe = engine_probe(probes)
    assert ENGINE_UNREADY_S - period < probe["failureThreshold"] * probe["periodSeconds"] <= ENGINE_UNREADY_S
    assert PROXY_DRAIN_S > ENGINE_UNREADY_S
    assert f"--timeout={timeout} " in probe["exec"]["command"][2]
    assert HEAD_UNREADY_S >= ENGINE_UNREADY_S


def marker(built: JsonObject) -> str:
    head, worker = templates(built)
    found = {template["metadata"]["annotations"][names.ROLLOUT] for template in (head, worker)}
    assert len(found) == 1
    return str(found.pop())


def test_other_tolerations_of_the_head_replace_pods_although_kuberay_does_not_look_at_them() -> None:
    plain = marker(rayservice({}))
    assert plain == marker(rayservice({"head": {"nodeSelector": {"a": "b"}}}))
    assert len({plain, *(marker(rayservice({"head": {"tolerations": [{**TEAM, "key": key}]}})) for key in "ab")}) == 3


def serving_environment(spec: Json) -> Json:
    built = build_rayservice(make_deployment(spec), make_plan(), SETTINGS)
    (application,) = yaml.safe_load(built["spec"]["serveConfigV2"])["applications"]
    found: Json = application["args"]["env"]
    return found


def test_an_engine_may_take_as_long_as_the_spec_says() -> None:
    env = {"NCCL_DEBUG": "INFO"}
    assert serving_environment({"engine": {"env": env}}) == env
    given_both = serving_environment({"engine": {"env": env}, "runtime": {"startupSeconds": 3600}})
    assert given_both == env | {"VLLM_ENGINE_READY_TIMEOUT_S": "3600"}


DEFAULTS: Json = {
    "head": {"nodeSelector": {}, "tolerations": []},
    "probes": {"periodSeconds": 10, "timeoutSeconds": 10, "livenessFailureThreshold": 30},
}
EMPTY: Json = {"podLabels": {}, "podAnnotations": {}, "resources": {"head": {}, "worker": {"devices": {}}}}


def test_defaults_that_somebody_writes_out_change_no_pod() -> None:
    written = build_rayservice(make_deployment({"runtime": DEFAULTS | EMPTY}), make_plan(), SETTINGS)
    assert written == rayservice({})
    assert keys_of(make_deployment({"runtime": EMPTY})) == keys_of(make_deployment())


def stored(spec: Json) -> ModelDeployment:
    store = {"persistentVolumeClaim": None, "objectStore": {"uri": "s3://models/mixtral", "secretName": "store"}}
    return make_deployment({"model": {"source": store, "cache": {"size": "20Gi"}}, **spec})


def download_job(spec: Json) -> JsonObject:
    deployment = stored(spec)
    cache = deployment.spec.model.cache
    assert cache is not None
    return build_download_job(deployment, cache, (), SETTINGS, claim_uid="uid", kept_keys=())


def inspection_job(spec: Json) -> JsonObject:
    return build_inspection_job(make_deployment({"model": {"id": "acme/own"}, **spec}), SETTINGS, "0" * 16)


JOBS = {"a download": download_job, "an inspection": inspection_job}
jobs = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
PLACED: dict[str, tuple[Json, Json]] = {
    "anywhere without a word": ({}, {}),
    "where the head may go": (
        {"runtime": {"head": {"nodeSelector": {"pool": "system"}, "tolerations": [TEAM]}}},
        {"nodeSelector": {"pool": "system"}, "tolerations": [TEAM]},
    ),
    "on the workers' nodes where some are selected, whose taint they tolerate": (
        {
            "hardware": {"nodeSelector": {"pool": "h100"}},
            "runtime": {"head": {"nodeSelector": {"pool": "system"}, "tolerations": [TEAM]}},
        },
        {"nodeSelector": {"pool": "h100"}, "tolerations": [TEAM, *GPUS]},
    ),
    "with the workers' tolerations": ({"hardware": {"tolerations": [TEAM]}}, {"tolerations": [TEAM]}),
    "with no toleration twice": (
        {"hardware": {"nodeSelector": {"a": "b"}, "tolerations": GPUS}, "runtime": {"head": {"tolerations": GPUS}}},
        {"nodeSelector": {"a": "b"}, "tolerations": GPUS},
    ),
}


@jobs
@pytest.mark.parametrize(("spec", "placed"), PLACED.values(), ids=PLACED)
def test_a_job_is_placed(job: Any, spec: Json, placed: Json) -> None:
    pod = job(spec)["spec"]["template"]["spec"]
    assert {key: pod[key] for key in ("nodeSelector", "tolerations") if key in pod} == placed


def test_a_volume_of_one_node_is_filled_on_the_workers_nodes_whatever_the_head_selects() -> None:
    deployment = stored(
        {
            "model": {
                "source": {
                    "persistentVolumeClaim": None,
                    "objectStore": {"uri": "s3://models/mixtral", "secretName": "store"},
                },
                "cache": {"size": "20Gi", "accessMode": "ReadWriteOnce"},
            },
            "runtime": {"head": {"nodeSelector": {"pool": "system"}}},
        }
    )
    cache = deployment.spec.model.cache
    assert cache is not None
    job = build_download_job(deployment, cache, make_plan().roles, SETTINGS, claim_uid="uid", kept_keys=())
    pod = job["spec"]["template"]["spec"]
    assert "nodeSelector" not in pod
    assert pod["tolerations"] == GPUS[:1]


@jobs
def test_a_job_bears_the_labels_and_stays_out_of_meshes(job: Any) -> None:
    runtime = {"podLabels": {**COST, "sidecar.istio.io/inject": "true"}, "podAnnotations": {"example.com/note": "a"}}
    template = job({"runtime": {**runtime, "runtimeClassName": "nvidia"}})["spec"]["template"]
    assert template["metadata"]["labels"].items() >= {**COST, **names.NO_MESH_LABELS}.items()
    assert template["metadata"]["annotations"] == names.NO_MESH_ANNOTATIONS
    assert "runtimeClassName" not in template["spec"]


UNNAMED: dict[str, Json] = {
    "labels": {"podLabels": COST},
    "annotations": {"podAnnotations": {"example.com/note": "a"}},
    "a RuntimeClass": {"runtimeClassName": "nvidia"},
    "probes": {"probes": {"periodSeconds": 20}},
    "devices": {"resources": {"worker": {"devices": {"rdma/ib": 1}}}},
}


@jobs
@pytest.mark.parametrize("runtime", UNNAMED.values(), ids=UNNAMED)
def test_a_job_that_works_is_not_made_anew_for(job: Any, runtime: Json) -> None:
    assert job({"runtime": runtime})["metadata"]["name"] == job({})["metadata"]["name"]


@jobs
def test_a_job_is_made_anew_for_other_nodes_and_pull_secrets(job: Any) -> None:
    changes = [{}, {"head": {"tolerations": [TEAM]}}, {"imagePullSecrets": ["pull"]}]
    made = [job({"runtime": runtime}) for runtime in changes]
    assert len({item["metadata"]["name"] for item in made}) == len(made)
    assert made[2]["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "pull"}]


def test_no_part_of_a_built_pod_is_shared_with_another() -> None:
    """What is changed in one would change in the other."""
    built = rayservice({"podLabels": COST})
    head, worker = templates(copy.deepcopy(built))
    assert head["metadata"]["annotations"] is not worker["metadata"]["annotations"]
    assert "&id" not in yaml.safe_dump(templates(built)[0]["metadata"])

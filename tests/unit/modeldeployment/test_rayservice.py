"""The RayService builder: what a reader of the manifest, KubeRay and a security review look for."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.scenes import DIGEST, SETTINGS, make_deployment, make_plan

from conclave import names
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import scheduled_requests
from conclave.kubernetes.quantities import write_quantity
from conclave.modeldeployment.serving.rayservice import build_rayservice, in_place


def worker_group(rayservice: JsonObject) -> JsonObject:
    (group,) = rayservice["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return group


def templates(rayservice: JsonObject) -> dict[str, JsonObject]:
    return {
        "head": rayservice["spec"]["rayClusterConfig"]["headGroupSpec"]["template"],
        "worker": worker_group(rayservice)["template"],
    }


def containers(rayservice: JsonObject) -> list[JsonObject]:
    return [
        container
        for template in templates(rayservice).values()
        for container in (*template["spec"].get("initContainers", []), *template["spec"]["containers"])
    ]


def affinity_terms(template: JsonObject) -> dict[str, list[str]]:
    affinity = template["spec"].get("affinity")
    if affinity is None:
        return {}
    required = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    return {expression["key"]: expression["values"] for expression in term["matchExpressions"]}


def test_a_worker_pod_holds_the_gpus_of_one_node() -> None:
    group = worker_group(build_rayservice(make_deployment(), make_plan(tensor=8, pipeline=2, nodes=2), SETTINGS))
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert group["replicas"] == 2
    assert group["maxReplicas"] % 2 == 0


def test_an_amd_plan_asks_for_amd_gpus_on_nodes_that_amds_labeller_names() -> None:
    plan = make_plan(accelerator="AMD_Instinct_MI300X_OAM")
    template = worker_group(build_rayservice(make_deployment(), plan, SETTINGS))["template"]
    (container,) = template["spec"]["containers"]
    assert container["resources"]["limits"]["amd.com/gpu"] == "2"
    assert affinity_terms(template) == {"amd.com/gpu.product-name": ["AMD_Instinct_MI300X_OAM"]}


def test_a_worker_pod_of_a_mig_slice_asks_for_the_slice_and_tells_ray_of_one_gpu() -> None:
    """KubeRay and Ray's autoscaler count resources whose name ends with gpu, and would start no such pod."""
    plan = make_plan(
        tensor=1,
        accelerator="NVIDIA-A100-80GB-PCIe-MIG-3g.40gb",
        resource="nvidia.com/mig-3g.40gb",
        nodeLabels={"nvidia.com/mig-3g.40gb.product": ["NVIDIA-A100-80GB-PCIe-MIG-3g.40gb"]},
    )
    group = worker_group(build_rayservice(make_deployment(), plan, SETTINGS))
    (container,) = group["template"]["spec"]["containers"]
    for part in ("requests", "limits"):
        assert container["resources"][part]["nvidia.com/mig-3g.40gb"] == "1"
        assert "nvidia.com/gpu" not in container["resources"][part]
    assert group["rayStartParams"]["num-gpus"] == "1"
    assert affinity_terms(group["template"]) == {
        "nvidia.com/mig-3g.40gb.product": ["NVIDIA-A100-80GB-PCIe-MIG-3g.40gb"]
    }
    assert group["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_a_plan_by_a_cloud_s_labels_selects_nodes_by_these_labels_only() -> None:
    labels = {"karpenter.k8s.aws/instance-gpu-name": ["a100"], "karpenter.k8s.aws/instance-gpu-memory": ["81920"]}
    plan = make_plan(accelerator="NVIDIA-A100-SXM4-80GB", nodeLabels=labels)
    group = worker_group(build_rayservice(make_deployment(), plan, SETTINGS))
    assert affinity_terms(group["template"]) == labels
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "num-gpus" not in group["rayStartParams"]


def test_a_plan_that_needs_neither_is_recorded_as_before() -> None:
    wire = make_plan().flat()
    assert not {"resource", "node_labels"} & wire.model_dump().keys()
    assert not {"resource", "nodeLabels"} & wire.to_wire().keys()
    sliced = make_plan(tensor=1, resource="nvidia.com/mig-3g.40gb", nodeLabels={"a": ["b"]}).flat()
    assert type(sliced).model_validate(sliced.to_wire()) == sliced


def test_regions_bind_head_and_workers() -> None:
    deployment = make_deployment({"access": {"regions": ["eu-west-1", "eu-central-1"]}})
    for template in templates(build_rayservice(deployment, make_plan(), SETTINGS)).values():
        assert affinity_terms(template)[names.REGION] == ["eu-west-1", "eu-central-1"]


def test_every_container_is_restricted() -> None:
    deployment = make_deployment({"model": {"digest": DIGEST}})
    rayservice = build_rayservice(deployment, make_plan(), SETTINGS)
    for container in containers(rayservice):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    for template in templates(rayservice).values():
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert template["spec"]["automountServiceAccountToken"] is False


def test_only_the_autoscaler_mounts_a_kubernetes_token() -> None:
    rayservice = build_rayservice(make_deployment(), make_plan(), SETTINGS)
    options = rayservice["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert names.API_TOKEN_VOLUME in [mount["name"] for mount in options["volumeMounts"]]
    for container in containers(rayservice):
        assert names.API_TOKEN_VOLUME not in [mount["name"] for mount in container["volumeMounts"]]


def test_mounts_name_volumes_and_weights_are_read_only() -> None:
    deployment = make_deployment({"model": {"digest": DIGEST}})
    for template in templates(build_rayservice(deployment, make_plan(), SETTINGS)).values():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert volumes["weights"]["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
        for container in (*template["spec"].get("initContainers", []), *template["spec"]["containers"]):
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert mounts.keys() <= volumes.keys()
            if container["name"] == names.CANARY_CONTAINER:
                assert mounts.keys() == {"tmp"}
                continue
            assert mounts["weights"] == {
                "name": "weights",
                "mountPath": names.MODEL_PATH,
                "subPath": "mixtral",
                "readOnly": True,
            }


def test_no_pod_can_fill_the_disk_of_its_node() -> None:
    for template in templates(build_rayservice(make_deployment(), make_plan(), SETTINGS)).values():
        scratch = {volume["name"]: volume["emptyDir"] for volume in template["spec"]["volumes"] if "emptyDir" in volume}
        assert scratch.keys() == {"tmp", "ray", "home", "shared-memory"}
        assert all(re.fullmatch("[1-9][0-9]*Gi", volume["sizeLimit"]) for volume in scratch.values())


def test_an_image_source_becomes_an_image_volume() -> None:
    reference = "images.test/mixtral@sha256:" + "cd" * 32
    deployment = make_deployment(
        {"model": {"source": {"persistentVolumeClaim": None, "image": {"reference": reference}}}}
    )
    template = worker_group(build_rayservice(deployment, make_plan(), SETTINGS))["template"]
    assert {"name": "weights", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}} in template["spec"][
        "volumes"
    ]


def test_a_digest_is_verified_before_the_engine_starts() -> None:
    plain = templates(build_rayservice(make_deployment(), make_plan(), SETTINGS))
    assert [container["name"] for container in plain["worker"]["spec"]["initContainers"]] == [names.CANARY_CONTAINER]
    checked = templates(build_rayservice(make_deployment({"model": {"digest": DIGEST}}), make_plan(), SETTINGS))
    (_canary, verify, wait) = checked["worker"]["spec"]["initContainers"]
    assert verify["command"] == [
        "python", "-m", "conclave_weights", "verify", "--report", "/dev/termination-log",
        "--notes", "/tmp/unfit-weights.json", "--digest", DIGEST, names.MODEL_PATH,
    ]  # fmt: skip
    assert verify["terminationMessagePath"] == "/dev/termination-log"
    assert wait["command"] == ["python", "-m", "conclave_weights", "await", "/tmp/unfit-weights.json"]
    assert wait["volumeMounts"] == verify["volumeMounts"]


SOURCES: dict[str, dict[str, Any]] = {
    "a claim": {},
    "an image": {
        "source": {
            "persistentVolumeClaim": None,
            "image": {"reference": "images.test/mixtral@sha256:" + "cd" * 32, "path": "mixtral"},
        }
    },
    "an object store": {
        "source": {"persistentVolumeClaim": None, "objectStore": {"uri": "s3://models/mixtral", "secretName": "store"}},
        "cache": {"size": "100Gi"},
    },
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_each_pod_verifies_the_very_directory_that_its_engine_loads(source: dict[str, Any]) -> None:
    deployment = make_deployment({"model": source | {"digest": DIGEST}})
    pod = templates(build_rayservice(deployment, make_plan(nodes=2, pipeline=2), SETTINGS))["worker"]["spec"]
    (_canary, verify, wait) = pod["initContainers"]
    assert (verify["name"], wait["name"]) == (names.VERIFY_CONTAINER, names.AWAIT_CONTAINER)
    assert verify["command"][-2:] == [DIGEST, names.MODEL_PATH]
    for container in (verify, wait, *pod["containers"]):
        (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == names.MODEL_PATH)
        (loaded,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == names.WEIGHTS_VOLUME)
        assert mount == loaded
        assert mount["readOnly"] is True


def test_all_that_has_a_digest_is_awaited_at_once() -> None:
    tone, formal, plain = ({"name": name, "source": SOURCE_OF_ADAPTERS} for name in ("tone", "formal", "plain"))
    adapters = [tone | {"digest": DIGEST}, plain, formal | {"digest": DIGEST}]
    made = templates(build_rayservice(make_deployment({"model": {"adapters": adapters}}), make_plan(), SETTINGS))
    (_canary, first, second, wait) = made["worker"]["spec"]["initContainers"]
    assert [container["name"] for container in (first, second)] == ["verify-weights-1", "verify-weights-3"]
    assert not names.is_verification(wait["name"])
    mounts = [mount["mountPath"] for mount in wait["volumeMounts"]]
    assert mounts == ["/tmp", "/models/adapters/tone", "/models/adapters/formal"]


def test_workers_begin_with_a_canary_and_heads_which_may_call_the_api_server_do_not() -> None:
    made = templates(build_rayservice(make_deployment({"model": {"digest": DIGEST}}), make_plan(), SETTINGS))
    assert "initContainers" not in made["head"]["spec"]
    canary = made["worker"]["spec"]["initContainers"][0]
    assert canary["command"] == ["python", "-m", "conclave_serving.egress_canary", "/dev/termination-log"]
    assert canary["image"] == SETTINGS.image
    assert canary["terminationMessagePath"] == "/dev/termination-log"


def test_requests_equal_limits_so_that_pods_are_guaranteed_what_they_have() -> None:
    for container in containers(
        build_rayservice(make_deployment({"model": {"digest": DIGEST}}), make_plan(), SETTINGS)
    ):
        assert container["resources"]["requests"] == container["resources"]["limits"], container["name"]


SMALL = {"cpu": "700m", "memory": "10Gi"}
REQUESTS = {
    "a worker of less than the reader's CPU": (SMALL, ("700m", "1Gi"), {"cpu": "700m", "memory": "10Gi"}),
    "a worker of less than the reader's memory": ({"memory": "512Mi"}, ("1", "512Mi"), {"cpu": "5", "memory": "512Mi"}),
    "a worker of more, in another unit": ({"cpu": "1100m"}, ("1", "1Gi"), {"cpu": "1100m", "memory": "20Gi"}),
    "a worker of the default size": ({}, ("1", "1Gi"), {"cpu": "5", "memory": "20Gi"}),
}


@pytest.mark.parametrize(("worker", "reader", "scheduled"), REQUESTS.values(), ids=REQUESTS)
def test_reading_the_weights_makes_no_pod_larger_than_its_worker(
    worker: dict[str, str], reader: tuple[str, str], scheduled: dict[str, str]
) -> None:
    deployment = make_deployment({"model": {"digest": DIGEST}, "runtime": {"resources": {"worker": worker}}})
    pod = templates(build_rayservice(deployment, make_plan(), SETTINGS))["worker"]
    (canary, *readers) = pod["spec"]["initContainers"]
    assert canary["resources"]["requests"] == {"cpu": "250m", "memory": "128Mi"}
    for container in readers:
        requests = container["resources"]["requests"]
        assert (requests["cpu"], requests["memory"]) == reader
        assert container["resources"]["limits"] == requests
    written = {resource: write_quantity(amount) for resource, amount in scheduled_requests(pod).items()}
    assert written == {**scheduled, "nvidia.com/gpu": "2"}


def test_the_serve_config_reads_the_mounted_token_and_weights() -> None:
    rayservice = build_rayservice(make_deployment(), make_plan(), SETTINGS)
    (application,) = yaml.safe_load(rayservice["spec"]["serveConfigV2"])["applications"]
    assert application["args"]["model_path"] == names.MODEL_PATH
    assert application["args"]["token_path"] == names.TOKEN_PATH
    assert application["args"]["placement"]["bundles"] == 2


SOURCE_OF_ADAPTERS = {"persistentVolumeClaim": {"claimName": "weights", "path": "tone"}}
ADAPTER = {"name": "acme/tone", "source": SOURCE_OF_ADAPTERS}


def test_what_two_sources_name_is_one_volume_and_every_mount_a_directory_of_its_own() -> None:
    own = {"name": "acme/tone/formal", "source": {"persistentVolumeClaim": {"claimName": "own"}}, "digest": DIGEST}
    deployment = make_deployment({"model": {"adapters": [ADAPTER, own]}})
    rayservice = build_rayservice(deployment, make_plan(), SETTINGS)
    for template in templates(rayservice).values():
        volumes = [volume for volume in template["spec"]["volumes"] if "persistentVolumeClaim" in volume]
        assert [volume["persistentVolumeClaim"]["claimName"] for volume in volumes] == ["weights", "own"]
        mounts = {mount["mountPath"]: mount for mount in template["spec"]["containers"][0]["volumeMounts"]}
        tone, formal = mounts["/models/adapters/acme+tone"], mounts["/models/adapters/acme+tone+formal"]
        assert (tone["name"], tone["subPath"], tone["readOnly"]) == ("weights", "tone", True)
        assert (formal["name"], formal["readOnly"]) == (volumes[1]["name"], True)
    (_canary, verify, _wait) = templates(rayservice)["worker"]["spec"]["initContainers"]
    assert names.is_verification(verify["name"])
    assert verify["command"][-2:] == [DIGEST, "/models/adapters/acme+tone+formal"]
    (application,) = yaml.safe_load(rayservice["spec"]["serveConfigV2"])["applications"]
    assert application["args"]["adapters"] == [
        {"name": "acme/tone", "path": "/models/adapters/acme+tone", "max_rank": 16},
        {"name": "acme/tone/formal", "path": "/models/adapters/acme+tone+formal", "max_rank": 16},
    ]


def test_without_adapters_an_older_application_is_told_nothing_of_them() -> None:
    rayservice = build_rayservice(make_deployment(), make_plan(), SETTINGS)
    (application,) = yaml.safe_load(rayservice["spec"]["serveConfigV2"])["applications"]
    assert "adapters" not in application["args"]


RUNTIME = {
    "image": "images.test/own:1",
    "imagePullSecrets": ["pull"],
    "priorityClassName": "high",
    "serviceAccountName": "model",
    "resources": {"head": {"cpu": "2"}, "worker": {"memory": "99Gi"}},
}


def test_runtime_settings_reach_every_pod() -> None:
    settings = SETTINGS.model_copy(update={"image_pull_secrets": ("cluster", "pull")})
    found = templates(build_rayservice(make_deployment({"runtime": RUNTIME}), make_plan(), settings))
    for template in found.values():
        assert template["spec"]["containers"][0]["image"] == "images.test/own:1"
        assert template["spec"]["imagePullSecrets"] == [{"name": "pull"}, {"name": "cluster"}]
        assert template["spec"]["priorityClassName"] == "high"
        assert template["spec"]["serviceAccountName"] == "model"
    assert found["head"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "8Gi"}
    assert found["worker"]["spec"]["containers"][0]["resources"]["requests"]["memory"] == "99Gi"


ROLLS = {
    "an engine argument": {"engine": {"maxModelLen": 1024}},
    "a toleration, which KubeRay's hash leaves out": {
        "hardware": {"tolerations": [{"key": "a", "operator": "Exists"}]}
    },
    "a node selector": {"hardware": {"nodeSelector": {"pool": "gpu"}}},
    "another directory of weights": {"model": {"source": {"persistentVolumeClaim": {"path": "other"}}}},
    "a served name": {"model": {"servedName": "other"}},
    "an adapter from the model's own claim": {"model": {"adapters": [ADAPTER]}},
    "an image": {"runtime": {"image": "images.test/own:2"}},
}
STAYS: dict[str, dict[str, Any]] = {
    "a replica bound": {"scaling": {"minReplicas": 3, "maxReplicas": 5}},
    "a target of load": {"scaling": {"targetConcurrency": 7}},
    "callers": {"access": {"allowedNamespaces": ["chat"]}},
    "a data class": {"access": {"dataClass": "public"}},
}


def what_kuberay_hashes(rayservice: JsonObject) -> JsonObject:
    """KubeRay 1.6.2, GenerateHashWithoutReplicasAndWorkersToDelete."""
    cluster = dict(rayservice["spec"]["rayClusterConfig"])
    group = {
        key: value
        for key, value in worker_group(rayservice).items()
        if key not in ("replicas", "minReplicas", "maxReplicas")
    }
    spec = {key: value for key, value in group["template"]["spec"].items() if key != "tolerations"}
    group["template"] = {**group["template"], "spec": spec}
    return {**cluster, "workerGroupSpecs": [group]}


@pytest.mark.parametrize("change", ROLLS.values(), ids=ROLLS)
def test_this_edit_makes_kuberay_build_a_new_cluster(change: dict[str, Any]) -> None:
    plan = make_plan(max_model_len=change.get("engine", {}).get("maxModelLen", 32768))
    before = build_rayservice(make_deployment(), make_plan(), SETTINGS)
    after = build_rayservice(make_deployment(change), plan, SETTINGS)
    assert what_kuberay_hashes(before) != what_kuberay_hashes(after)


@pytest.mark.parametrize("change", STAYS.values(), ids=STAYS)
def test_this_edit_keeps_the_running_cluster(change: dict[str, Any]) -> None:
    before = build_rayservice(make_deployment(), make_plan(), SETTINGS)
    after = build_rayservice(make_deployment(change), make_plan(), SETTINGS)
    assert what_kuberay_hashes(before) == what_kuberay_hashes(after)
    assert in_place(before, after) == after


def test_load_bounds_are_no_arguments_of_the_application_which_serve_would_start_anew() -> None:
    scaling = {"minReplicas": 2, "maxReplicas": 9, "targetConcurrency": 300, "idleSeconds": 60}
    (before,), (after,) = (
        yaml.safe_load(build_rayservice(deployment, make_plan(), SETTINGS)["spec"]["serveConfigV2"])["applications"]
        for deployment in (make_deployment(), make_deployment({"scaling": scaling}))
    )
    assert before["args"] == after["args"]
    engine, ingress = after["deployments"]
    assert (engine["name"], ingress["name"]) == ("engine", "ingress")
    assert engine["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 9,
        "target_ongoing_requests": 300,
        "upscale_delay_s": 30.0,
        "downscale_delay_s": 60.0,
    }
    assert engine["max_ongoing_requests"] == 300
    assert ingress["autoscaling_config"]["max_replicas"] == 27


layouts = st.sampled_from([(1, 1, 1), (2, 1, 1), (8, 1, 1), (8, 2, 2), (16, 1, 2), (4, 4, 4), (8, 4, 8)])


@given(layout=layouts, replicas=st.integers(0, 50))
def test_bundles_are_the_gpus_of_a_replicas_pods(layout: tuple[int, int, int], replicas: int) -> None:
    tensor, pipeline, nodes = layout
    plan = make_plan(tensor=tensor, pipeline=pipeline, nodes=nodes)
    deployment = make_deployment({"scaling": {"minReplicas": replicas, "maxReplicas": 50}})
    rayservice = build_rayservice(deployment, plan, SETTINGS)
    group = worker_group(rayservice)
    (container,) = group["template"]["spec"]["containers"]
    (application,) = yaml.safe_load(rayservice["spec"]["serveConfigV2"])["applications"]
    gpus_per_pod = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert application["args"]["placement"]["bundles"] == tensor * pipeline == gpus_per_pod * nodes
    assert group["replicas"] == replicas * nodes
    assert group["maxReplicas"] >= 50 * nodes
    # Ray places a rank, the engine and an ingress replica on the pod's CPUs.
    assert int(container["resources"]["limits"]["cpu"]) >= gpus_per_pod + 2
    assert rayservice == build_rayservice(deployment, plan, SETTINGS)

"""Forged records are refused and named, what builds of ours recorded is kept, and what runs goes on either way."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scenes import SETTINGS, make_deployment, make_plan
from tests.unit.modeldeployment.test_sync import Cluster, h100, key

from conclave import names
from conclave.api.modeldeployment import ModelDeployment
from conclave.api.reasons import Reason
from conclave.kubernetes.objects import JsonObject
from conclave.modeldeployment.decision import Decision
from conclave.modeldeployment.observed import Observed
from conclave.modeldeployment.records.check import MOST_REFUSED, find_difference
from conclave.modeldeployment.records.record import HISTORY, build_revision, keys_of, make_record, read_records
from conclave.modeldeployment.records.recorded_serve_config import serve_config_difference
from conclave.modeldeployment.serving.pods import own_address
from conclave.modeldeployment.serving.rayservice import build_rayservice
from conclave.modeldeployment.sync import decide
from conclave.settings import OperatorSettings

RECORDS = sorted((Path(__file__).parents[2] / "data" / "records").glob("*.json"))
TOKEN_SECRET = names.token_secret("mixtral", make_deployment().metadata.uid)
OUTSIDER = "registry.evil/serving:1"
Forgery = Callable[[JsonObject], None]


def pods(rayservice: JsonObject) -> tuple[JsonObject, JsonObject]:
    cluster = rayservice["spec"]["rayClusterConfig"]
    return cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"][0]["template"]["spec"]


def sets(value: Any, *path: str | int) -> Forgery:
    """Of the record's data."""

    def forge(data: JsonObject) -> None:
        at: Any = data
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value

    return forge


CLUSTER = ("rayservice", "spec", "rayClusterConfig")
HEAD = (*CLUSTER, "headGroupSpec", "template")
WORKER = (*CLUSTER, "workerGroupSpecs", 0, "template")
ENGINE = (*WORKER, "spec", "containers", 0)
STEP = (*WORKER, "spec", "initContainers", 0)


SERVE_CONFIG = ("rayservice", "spec", "serveConfigV2")
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n" for before, name in pairwise("abcdefghi")
)


IN_REGION = [{"key": "topology.kubernetes.io/region", "operator": "In", "values": ["eu-west-1"]}]


def region_affinity(*terms: list[JsonObject]) -> JsonObject:
    selector = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}


def adds_volume(name: str = "weights-9", **kind: Any) -> Forgery:
    return lambda data: pods(data["rayservice"])[1]["volumes"].append({"name": name, **kind})


def goes_back_to_the_former_secret(data: JsonObject) -> None:
    data["token_secret"] = names.former_token_secret("mixtral")
    for pod in pods(data["rayservice"]):
        for volume in pod["volumes"]:
            if "secret" in volume:
                volume["secret"]["secretName"] = data["token_secret"]


def adds_container(data: JsonObject) -> None:
    containers = pods(data["rayservice"])[1]["containers"]
    containers.append(containers[0] | {"name": "second"})


def mounts_the_api_token(data: JsonObject) -> None:
    head, _ = pods(data["rayservice"])
    mount = {"name": names.API_TOKEN_VOLUME, "mountPath": names.API_TOKEN_DIRECTORY}
    head["containers"][0]["volumeMounts"].append(mount)


def gives_workers_the_api_token(data: JsonObject) -> None:
    head, worker = pods(data["rayservice"])
    worker["volumes"].append(next(volume for volume in head["volumes"] if "projected" in volume))


def sets_variable(name: str, value: str) -> Forgery:
    return lambda data: pods(data["rayservice"])[1]["containers"][0]["env"].append({"name": name, "value": value})


def serves(change: Callable[[JsonObject], None]) -> Forgery:
    def forge(data: JsonObject) -> None:
        config = yaml.safe_load(data["rayservice"]["spec"]["serveConfigV2"])
        change(config)
        data["rayservice"]["spec"]["serveConfigV2"] = yaml.safe_dump(config)

    return forge


def application(**changes: Any) -> Forgery:
    return serves(lambda config: config["applications"][0].update(changes))


def arguments(**changes: Any) -> Forgery:
    return serves(lambda config: config["applications"][0]["args"].update(changes))


def engine(**extra: Any) -> Forgery:
    return serves(lambda config: config["applications"][0]["args"]["engine"]["extra"].update(extra))


def drafts(**config: Any) -> Forgery:
    return serves(
        lambda data: data["applications"][0]["args"]["engine"].update(
            speculative_config={"method": "eagle3", "num_speculative_tokens": 2} | config
        )
    )


def engine_text(argument: str) -> Forgery:
    """As YAML that safe_dump would not write."""

    def forge(data: JsonObject) -> None:
        engine(seed=1)(data)
        spec = data["rayservice"]["spec"]
        spec["serveConfigV2"] = spec["serveConfigV2"].replace("seed: 1", argument)

    return forge


IPV6 = SETTINGS.model_copy(update={"ip_family": "IPv6"})
FORGED: dict[str, tuple[Forgery, str]] = {
    "another kind": (sets("ClusterRoleBinding", "rayservice", "kind"), "kind: "),
    "another group": (sets("apps/v1", "rayservice", "apiVersion"), "apiVersion: "),
    "another namespace": (sets("kube-system", "rayservice", "metadata", "namespace"), "kube-system/mixtral"),
    "another name": (sets("other", "rayservice", "metadata", "name"), "llm/other, expected llm/mixtral"),
    "another owner": (
        sets("22222222-2222-2222-2222-222222222222", "rayservice", "metadata", "ownerReferences", 0, "uid"),
        "its RayService has another owner than ModelDeployment llm/mixtral",
    ),
    "no owner": (sets([], "rayservice", "metadata", "ownerReferences"), "its RayService has another owner"),
    "another deployment's labels": (
        sets("other", "rayservice", "metadata", "labels", names.MODEL_DEPLOYMENT),
        "are not this deployment's",
    ),
    "another deployment's pods": (
        sets("other", *WORKER, "metadata", "labels", names.MODEL_DEPLOYMENT),
        "the labels of its worker pods",
    ),
    "an annotation that KubeRay acts upon": (
        sets("true", "rayservice", "metadata", "annotations", "ray.io/overwrite-container-cmd"),
        "no version of the operator sets ray.io/overwrite-container-cmd",
    ),
    "an annotation that runtimes act upon": (
        sets("unconfined", *WORKER, "metadata", "annotations", "container.apparmor.security.beta.kubernetes.io/ray"),
        "its worker pods have a label or annotation container.apparmor.security.beta.kubernetes.io/ray, which",
    ),
    "a network": (
        sets("storage", *HEAD, "metadata", "annotations", "k8s.v1.cni.cncf.io/networks"),
        "its head pods have a label or annotation k8s.v1.cni.cncf.io/networks, which is not in the operator's list",
    ),
    "another model's weights": (
        sets("other", *WORKER, "metadata", "labels", names.WEIGHTS_OF),
        f"its worker pods have a label or annotation {names.WEIGHTS_OF}, which is not in the operator's list",
    ),
    "a device": (
        sets("1", *ENGINE, "resources", "limits", "devices.kubevirt.io/kvm"),
        "its worker pods ask for devices.kubevirt.io/kvm, which is not in the operator's list",
    ),
    "a device of a step": (
        sets("1", *STEP, "resources", "requests", "hugepages-2Mi"),
        "its worker pods ask for hugepages-2Mi, which is not in the operator's list",
    ),
    "a finalizer": (
        sets(["x/y"], "rayservice", "metadata", "finalizers"),
        "metadata.finalizers: no version of the operator writes",
    ),
    "a directory of the host": (
        adds_volume(hostPath={"path": "/"}),
        "hostPath: no version of the operator writes this field",
    ),
    "a directory of another machine": (
        adds_volume(nfs={"server": "a", "path": "/"}),
        "nfs: no version of the operator writes",
    ),
    "a volume of a driver": (
        adds_volume(csi={"driver": "secrets-store.csi.k8s.io"}),
        "csi: no version of the operator writes",
    ),
    "another Secret": (
        adds_volume("endpoint-token", secret={"secretName": "admin", "defaultMode": 288}),
        "mount Secret admin, expected",
    ),
    "a Secret as weights": (
        adds_volume(secret={"secretName": "admin", "defaultMode": 288}),
        "no version of the operator gives the volume 'weights-9' the kind secret",
    ),
    "another Secret as the token": (sets("admin", "token_secret"), "expected admin"),
    "a Secret whose name anybody can guess": (
        goes_back_to_the_former_secret,
        f"token_secret is mixtral-token, expected {TOKEN_SECRET}",
    ),
    "a claim that it may write": (
        adds_volume(persistentVolumeClaim={"claimName": "weights", "readOnly": False}),
        "persistentVolumeClaim.readOnly",
    ),
    "a claim in place of the home": (
        lambda data: pods(data["rayservice"])[1]["volumes"].append(
            {"name": "home", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}
        ),
        "no version of the operator gives the volume 'home' the kind persistentVolumeClaim",
    ),
    "weights where Python looks for modules": (
        lambda data: pods(data["rayservice"])[1]["containers"][0]["volumeMounts"].append(
            {"name": "weights", "mountPath": "/home/conclave/.local", "readOnly": True}
        ),
        "no version of the operator mounts the volume 'weights' at '/home/conclave/.local'",
    ),
    "weights above their directory": (
        lambda data: pods(data["rayservice"])[1]["containers"][0]["volumeMounts"].append(
            {"name": "weights", "mountPath": "/models/../usr/lib", "readOnly": True}
        ),
        "no version of the operator mounts the volume 'weights' at '/models/../usr/lib'",
    ),
    "a Secret at another place": (
        lambda data: pods(data["rayservice"])[1]["containers"][0]["volumeMounts"].append(
            {"name": "endpoint-token", "mountPath": "/models/weights", "readOnly": True}
        ),
        "no version of the operator mounts the volume 'endpoint-token' at '/models/weights'",
    ),
    "a token for another audience": (
        adds_volume(projected={"sources": [{"serviceAccountToken": {"path": "token", "audience": "vault"}}]}),
        "the volume projects something other than the autoscaler's token",
    ),
    "the autoscaler's token in Ray's container": (
        mounts_the_api_token,
        "the token for the API server is mounted outside of the autoscaler",
    ),
    "the autoscaler's token in workers": (gives_workers_the_api_token, "its worker pods have a token"),
    "an automounted token": (
        sets(True, *WORKER, "spec", "automountServiceAccountToken"),
        "automountServiceAccountToken",
    ),
    "the host's network": (
        sets(True, *WORKER, "spec", "hostNetwork"),
        "spec.hostNetwork: no version of the operator writes",
    ),
    "the host's processes": (sets(True, *WORKER, "spec", "hostPID"), "spec.hostPID: no version of the operator writes"),
    "the host's IPC": (sets(True, *HEAD, "spec", "hostIPC"), "spec.hostIPC: no version of the operator writes"),
    "users of the host": (sets(True, *HEAD, "spec", "hostUsers"), "spec.hostUsers: no version of the operator writes"),
    "a node": (sets("node-1", *HEAD, "spec", "nodeName"), "spec.nodeName: no version of the operator writes"),
    "another runtime": (
        sets("runc", *WORKER, "spec", "runtimeClassName"),
        "its worker pods have the RuntimeClass runc, expected None",
    ),
    "another runtime of the head": (
        sets("runc", *HEAD, "spec", "runtimeClassName"),
        "its head pods have the RuntimeClass runc; no version of the operator gives them any",
    ),
    "a privileged container": (
        sets(True, *ENGINE, "securityContext", "privileged"),
        "privileged: no version of the operator",
    ),
    "more privileges later": (
        sets(True, *ENGINE, "securityContext", "allowPrivilegeEscalation"),
        "allowPrivilegeEscalation",
    ),
    "an added capability": (
        sets(["SYS_ADMIN"], *ENGINE, "securityContext", "capabilities", "add"),
        "capabilities.add: no version of the operator writes",
    ),
    "a capability that is not dropped": (
        sets(["NET_RAW"], *ENGINE, "securityContext", "capabilities", "drop"),
        "capabilities.drop",
    ),
    "a container without rules": (sets({}, *STEP, "securityContext"), "securityContext"),
    "root": (sets(0, *HEAD, "spec", "securityContext", "runAsUser"), "runAsUser"),
    "a pod without rules": (sets({}, *HEAD, "spec", "securityContext"), "securityContext"),
    "no seccomp profile": (
        sets("Unconfined", *HEAD, "spec", "securityContext", "seccompProfile", "type"),
        "seccompProfile.type",
    ),
    "a port of the host": (
        sets(80, *ENGINE, "ports", 0, "hostPort"),
        "ports[0].hostPort: no version of the operator writes",
    ),
    "another account": (sets("admin", *HEAD, "spec", "serviceAccountName"), "head pods run as service account admin"),
    "another image": (sets(OUTSIDER, *ENGINE, "image"), f"worker pods run image {OUTSIDER}"),
    "another image of a step": (sets(OUTSIDER, *STEP, "image"), f"worker pods run image {OUTSIDER}"),
    "an image of a repository that begins alike": (
        sets("images.test/conclave-serving-evil:1", *ENGINE, "image"),
        "images.test/conclave-serving-evil:1, which is not in the operator's list",
    ),
    "another image of the autoscaler": (
        sets(OUTSIDER, *CLUSTER, "autoscalerOptions", "image"),
        "autoscalerOptions.image",
    ),
    "a command of the autoscaler": (
        sets(["sh"], *CLUSTER, "autoscalerOptions", "command"),
        "autoscalerOptions.command",
    ),
    "variables of the autoscaler from a Secret": (
        sets([{"secretRef": {"name": "admin"}}], *CLUSTER, "autoscalerOptions", "envFrom"),
        "autoscalerOptions.envFrom: no version of the operator writes",
    ),
    "a second container": (adds_container, "containers"),
    "a command": (sets(["sh", "-c", "id"], *ENGINE, "command"), "command: no version of the operator writes"),
    "another command of a step": (sets(["sh", "-c", "id"], *STEP, "command"), "is not one of `python -m`"),
    "another module of a step": (sets(["python", "-m", "http.server"], *STEP, "command"), "is not one of `python -m`"),
    "a hook": (
        sets({"postStart": {"exec": {"command": ["id"]}}}, *ENGINE, "lifecycle"),
        "lifecycle: no version of the operator",
    ),
    "a command as a probe": (sets(["id"], *ENGINE, "readinessProbe", "exec", "command"), "a probe runs ['id']"),
    "a probe that waits for another time than it says": (
        sets(11, *ENGINE, "readinessProbe", "timeoutSeconds"),
        "a probe runs ['sh', '-c', 'kill -0",
    ),
    "a probe of another host": (
        sets("10.0.0.1", *ENGINE, "livenessProbe", "httpGet", "host"),
        "httpGet.host: no version of the operator",
    ),
    "a variable from a Secret": (
        sets([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}], *ENGINE, "env"),
        "no version of the operator takes the variable 'A' from elsewhere",
    ),
    "an address from a Secret": (
        sets([{"name": "VLLM_HOST_IP", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}], *ENGINE, "env"),
        "no version of the operator takes the variable 'VLLM_HOST_IP' from elsewhere",
    ),
    "an address and a value": (
        sets([{**own_address(IPV6)[0], "value": "10.0.0.1"}], *ENGINE, "env"),
        "no version of the operator takes the variable 'VLLM_HOST_IP' from elsewhere",
    ),
    "a fixed address": (sets_variable("VLLM_HOST_IP", "10.0.0.1"), "sets the variable 'VLLM_HOST_IP'"),
    "code by a variable": (sets_variable("PYTHONPATH", "/models/weights"), "the variable 'PYTHONPATH'"),
    "code by the home": (sets_variable("HOME", "/models/weights"), "the variable 'HOME'"),
    "code by a callback": (
        sets_variable("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "os.system"),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
    ),
    "a shell in an option of ray start": (
        sets("0; id", *CLUSTER, "headGroupSpec", "rayStartParams", "num-gpus"),
        "the option 'num-gpus' with the value '0; id'",
    ),
    "a shell in the address of a node": (
        sets("$(id)", *CLUSTER, "headGroupSpec", "rayStartParams", "node-ip-address"),
        "the option 'node-ip-address' with the value '$(id)'",
    ),
    "another option of ray start": (
        sets("1", *CLUSTER, "headGroupSpec", "rayStartParams", "x; id;"),
        "the option 'x; id;'",
    ),
    "no token of Ray": (sets("disabled", *CLUSTER, "authOptions", "mode"), "authOptions.mode"),
    "a Service for the world": (sets("LoadBalancer", *CLUSTER, "headGroupSpec", "serviceType"), "serviceType"),
    "a field that only KubeRay knows": (
        sets({"redisAddress": "evil:6379"}, *CLUSTER, "gcsFaultToleranceOptions"),
        "gcsFaultToleranceOptions: no version of the operator writes",
    ),
    "two groups of workers": (
        lambda data: data["rayservice"]["spec"]["rayClusterConfig"]["workerGroupSpecs"].append({}),
        "workerGroupSpecs",
    ),
    "another function": (application(import_path="os:system"), "import_path: os:system, expected conclave_serving"),
    "an environment of a function": (
        application(runtime_env={"py_modules": ["http://evil"]}),
        "runtime_env: no version of the operator",
    ),
    "an environment of an actor": (
        serves(
            lambda config: config["applications"][0]["deployments"][0].update(
                ray_actor_options={"runtime_env": {"pip": ["evil"]}}
            )
        ),
        "ray_actor_options: no version of the operator writes",
    ),
    "a function that scales": (
        serves(
            lambda config: config["applications"][0]["deployments"][0]["autoscaling_config"].update(
                policy={"policy_function": "os:system"}
            )
        ),
        "autoscaling_config.policy: no version of the operator writes",
    ),
    "code of the weights": (
        serves(lambda config: config["applications"][0]["args"]["engine"]["extra"].update(trust_remote_code=True)),
        "engine arguments outside the allowlist: ['trust_remote_code']",
    ),
    "a variable of the engine": (arguments(env={"LD_PRELOAD": "/models/weights/x"}), "outside the allowlist: ['LD_PRE"),
    "a variable's value that no spec can set": (
        arguments(env={"NCCL_SOCKET_IFNAME": "eth0;id"}),
        "NCCL_SOCKET_IFNAME is 'eth0;id'",
    ),
    "an engine that is told nothing": (
        sets([], *ENGINE, "env"),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH",
    ),
    "a compiler of any module": (
        engine(compilation_config={"mode": 2, "backend": "os.system"}),
        "outside the allowlist: ['compilation_config']",
    ),
    "a draft from elsewhere": (
        drafts(model="/home/conclave/head"),
        "draft path: /home/conclave/head, expected /models/dr",
    ),
    "a draft that is a hub's": (drafts(), "draft path: None, expected /models/draft"),
    "files where a method has none": (
        drafts(method="ngram", model="/models/draft"),
        "draft path: /models/draft, expec",
    ),
    "a class that drafts": (drafts(method="custom_class", model="os.system"), "speculative_config.method"),
    "another setting of drafts": (drafts(model="/models/draft", code_revision="main"), "speculative_config.code_rev"),
    "a parser of any module": (engine(tool_call_parser="evil.parser"), "outside the allowlist: ['tool_call_parser']"),
    "merges that multiply": (sets(MERGES, *SERVE_CONFIG), "it cannot be read as YAML (YAMLError)"),
    "a nested engine argument": (engine(max_num_seqs={"a": {}}), "outside the allowlist: ['max_num_seqs']"),
    "a number beyond measure as an engine argument": (
        engine_text("seed: 0x" + "f" * 20_000),
        "outside the allowlist: ['seed']",
    ),
    "an engine argument as another type": (engine(enforce_eager="true"), "outside the allowlist: ['enforce_eager']"),
    "other weights": (arguments(model_path="/proc/self/root"), "model_path: /proc/self/root"),
    "another token's file": (arguments(token_path="/dev/null"), "token_path: /dev/null"),
    "a second application": (
        serves(lambda config: config["applications"].append(copy.deepcopy(config["applications"][0]))),
        "applications",
    ),
    "a Serve config that is no YAML": (sets("a: [", "rayservice", "spec", "serveConfigV2"), "cannot be read as YAML"),
    "a Serve config of a thousand brackets": (
        sets("[" * 5000, "rayservice", "spec", "serveConfigV2"),
        "cannot be read as YAML (RecursionError)",
    ),
    "a Serve config with a huge number": (
        sets("a: " + "9" * 5000, "rayservice", "spec", "serveConfigV2"),
        "spec.serveConfigV2: ",
    ),
    "a Serve config that contains itself": (
        sets("&a {applications: *a}", "rayservice", "spec", "serveConfigV2"),
        "spec.serveConfigV2: ",
    ),
    "a huge Serve config": (sets("#" * 70_000, "rayservice", "spec", "serveConfigV2"), "serveConfigV2: String should"),
    "an option of the download": (sets("--report=/x", "weights_key"), "weights_key is --report=/x"),
    "a spec that is a list": (sets([], "rayservice", "spec"), "spec: "),
    "nothing": (sets({}, "rayservice"), "apiVersion: "),
}


class Scene(Cluster):
    """A model that runs, and a person with the right to write ControllerRevisions."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(h100().model_copy(update={"labels": {"topology.kubernetes.io/region": "eu-west-1"}}))
        self.deployment = make_deployment({"model": {"digest": f"sha256:{'a' * 64}"}, **spec})
        self.first = self.reconcile(self.deployment)

    @property
    def records(self) -> list[JsonObject]:
        return [item for (kind, _), item in self.objects.items() if kind == "ControllerRevision"]

    def forge(self, change: Forgery, *, number: int = 7, name: str = "forged") -> JsonObject:
        forged = copy.deepcopy(self.records[0])
        forged["metadata"]["name"], forged["revision"] = name, number
        change(forged["data"])
        self.objects["ControllerRevision", name] = forged
        return forged

    def delete_records(self) -> None:
        self.objects = {at: item for at, item in self.objects.items() if at[0] != "ControllerRevision"}


def objection(decision: Decision) -> str:
    (found,) = decision.objections
    assert found.reason == Reason.RECORD_REFUSED
    return found.message


@pytest.mark.parametrize(("change", "words"), FORGED.values(), ids=FORGED)
def test_a_forged_record_is_named_and_changes_nothing_else(change: Forgery, words: str) -> None:
    scene = Scene()
    before = copy.deepcopy(scene.objects)
    forged = scene.forge(change)
    decision = scene.reconcile(scene.deployment)
    assert objection(decision).startswith(
        "ControllerRevision llm/forged: the operator makes no such record and applies nothing of it: "
    )
    assert words in objection(decision)
    assert decision.refusal is None
    assert decision.apply == scene.first.apply
    assert (decision.endpoint, decision.plan) == (scene.first.endpoint, scene.first.plan)
    assert scene.objects == before | {key(forged): forged}


@pytest.mark.parametrize(("change", "words"), FORGED.values(), ids=FORGED)
def test_a_forged_record_in_place_of_the_real_one_leaves_what_runs_as_it_is(change: Forgery, words: str) -> None:
    scene = Scene()
    scene.forge(change, number=1, name="forged")
    del scene.objects[key(scene.first.apply[0])]
    decision = scene.reconcile(scene.deployment)
    assert words in objection(decision)
    assert decision.refusal is not None
    assert decision.refusal.reason == Reason.RECORD_REFUSED
    assert decision.refusal.message.endswith(
        "until then the operator leaves the running model unchanged; after that it plans the model again"
    )
    assert [item["kind"] for item in decision.apply] == ["NetworkPolicy", "NetworkPolicy"]
    assert (decision.create, decision.delete) == ((), ())
    assert decision.endpoint == scene.first.endpoint
    scene.delete_records()
    assert scene.reconcile(scene.deployment).apply == scene.first.apply


def test_nothing_that_runs_is_found_where_a_forged_record_is_all_there_is() -> None:
    scene = Scene()
    scene.forge(sets("kube-system", "rayservice", "metadata", "namespace"))
    del scene.objects[key(scene.first.apply[0])], scene.objects["RayService", "mixtral"]
    decision = scene.reconcile(scene.deployment)
    assert decision.refusal is None
    assert scene.rayservice["metadata"]["namespace"] == "llm"
    assert decision.apply[-1] == scene.first.apply[-1]


def test_a_rayservice_of_somebody_else_vouches_for_nothing() -> None:
    scene = Scene()
    scene.forge(sets(OUTSIDER, *ENGINE, "image"))
    theirs = copy.deepcopy(scene.rayservice)
    theirs["metadata"]["ownerReferences"][0]["uid"] = "33333333-3333-3333-3333-333333333333"
    pods(theirs)[1]["containers"][0]["image"] = OUTSIDER
    scene.observed["rayservice"] = theirs
    assert OUTSIDER in objection(scene.reconcile(scene.deployment))


def test_an_edit_waits_until_a_forged_record_is_gone() -> None:
    """What was refused may be what runs: nobody knows, and so nothing is rolled."""
    scene = Scene()
    scene.forge(sets(OUTSIDER, *ENGINE, "image"))
    edited = make_deployment({"engine": {"maxModelLen": 4096}})
    decision = scene.reconcile(edited)
    assert decision.refusal is not None
    assert decision.refusal.reason == Reason.RECORD_REFUSED
    assert scene.rayservice == scene.first.apply[-1]
    del scene.objects["ControllerRevision", "forged"]
    assert scene.reconcile(edited).refusal is None
    assert scene.rayservice != scene.first.apply[-1]


def test_scaling_and_suspension_go_on_beside_a_forged_record() -> None:
    scene = Scene()
    scene.forge(sets(OUTSIDER, *ENGINE, "image"))
    digest = {"model": {"digest": f"sha256:{'a' * 64}"}}
    scene.reconcile(make_deployment(digest | {"scaling": {"minReplicas": 2, "maxReplicas": 2}}))
    assert scene.rayservice["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] == 2
    scene.reconcile(make_deployment(digest | {"suspend": True}))
    assert scene.rayservice["spec"]["rayClusterConfig"]["suspend"] is True


def test_forged_records_push_no_real_one_out_of_the_history() -> None:
    scene = Scene()
    for number in range(12):
        scene.forge(sets("kube-system", "rayservice", "metadata", "namespace"), number=90 + number, name=f"f{number}")
    decision = scene.reconcile(scene.deployment)
    assert decision.delete == ()
    assert len(decision.objections) == 12
    assert scene.first.apply[0] in decision.apply


def test_a_flood_of_forged_records_is_not_looked_through() -> None:
    scene = Scene()
    for number in range(MOST_REFUSED + 4):
        scene.forge(sets("x", "rayservice", "kind"), number=90 + number, name=f"f{number}")
    decision = scene.reconcile(scene.deployment)
    assert decision.refusal is not None
    assert decision.refusal.reason == Reason.RECORD_REFUSED
    assert len(decision.objections) == MOST_REFUSED
    assert "RayService" not in {item["kind"] for item in decision.apply}


def test_a_pass_deletes_few_of_many_records_so_that_others_are_not_held_up() -> None:
    scene = Scene()
    for number in range(100):
        scene.forge(lambda data: None, number=2 + number, name=f"copy{number:03}")
    first = scene.reconcile(scene.deployment).delete
    assert [item["metadata"]["name"] for item in first] == [f"copy{number:03}" for number in range(95, 75, -1)]
    while scene.reconcile(scene.deployment).delete:
        pass
    assert len([kind for kind, _ in scene.objects if kind == "ControllerRevision"]) == HISTORY


@pytest.mark.parametrize("component", [HEAD, WORKER], ids=["heads", "workers"])
@pytest.mark.parametrize(
    "affinity",
    [
        None,
        region_affinity([]),
        region_affinity([{"key": "topology.kubernetes.io/region", "operator": "In", "values": ["eu-west-1", "us-1"]}]),
        region_affinity(IN_REGION, [{"key": "zone", "operator": "In", "values": ["a"]}]),
    ],
    ids=["nowhere", "anywhere", "another region too", "or another zone"],
)
def test_a_record_leads_no_pods_out_of_their_regions(component: tuple[str, ...], affinity: JsonObject | None) -> None:
    scene = Scene(access={"dataClass": "internal", "regions": ["eu-west-1"]})
    scene.forge(sets(affinity, *component, "spec", "affinity"), number=7, name="forged")
    decision = scene.reconcile(scene.deployment)
    assert "pods may run outside of spec.access.regions eu-west-1" in objection(decision)
    assert decision.apply == scene.first.apply


def test_a_number_that_no_history_has_is_refused() -> None:
    """The number after it would not be one for the API server."""
    scene = Scene()
    scene.forge(lambda data: None, number=2**63 - 1)
    assert "revision 9223372036854775807 is larger than any that the operator writes" in objection(
        scene.reconcile(scene.deployment)
    )


def test_a_forgers_words_are_cut_and_cleaned() -> None:
    scene = Scene()
    scene.forge(sets("\x1b[2J\n" + "x" * 9000, "rayservice", "metadata", "name"))
    message = objection(scene.reconcile(scene.deployment))
    assert message.isprintable()
    assert len(message) < 1000


FREE = ("nodeSelector", "requests", "limits", "extra", "env", "labels", "annotations")
"""Maps whose keys the spec chooses, or that are compared as a whole."""


def mappings(item: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(item, dict):
        if not path or path[-1] not in FREE:
            yield path
        for name, value in item.items():
            yield from mappings(value, (*path, name))
    elif isinstance(item, list):
        for number, value in enumerate(item):
            yield from mappings(value, (*path, number))


def make_rich_deployment() -> ModelDeployment:
    """With everything that a spec can bring into pods."""
    claim = {"persistentVolumeClaim": {"claimName": "more"}}
    image = {"image": {"reference": f"images.test/a@sha256:{'c' * 64}"}}
    return make_deployment(
        {
            "model": {
                "digest": f"sha256:{'a' * 64}",
                "revision": "a" * 40,
                "adapters": [{"name": "one", "source": claim}, {"name": "two/x", "source": image}],
            },
            "engine": {"extraArgs": {"max_num_seqs": "64"}},
            "hardware": {
                "nodeSelector": {"pool": "gpu"},
                "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
            },
            "runtime": {
                "imagePullSecrets": ["pull"],
                "priorityClassName": "high",
                "runtimeClassName": "nvidia",
                "head": {"nodeSelector": {"pool": "system"}, "tolerations": [{"key": "b", "operator": "Exists"}]},
                "podLabels": {"team": "chat", "sidecar.istio.io/inject": "true"},
                "podAnnotations": {"example.com/note": "a"},
                "resources": {
                    "head": {"cpu": "2", "ephemeralStorage": "24Gi", "sharedMemory": "4Gi"},
                    "worker": {"devices": {"rdma/hca_shared_devices_a": 1}},
                },
                "probes": {"periodSeconds": 20, "timeoutSeconds": 15, "livenessFailureThreshold": 60},
                "startupSeconds": 3600,
            },
            "access": {"regions": ["eu-west-1"]},
            "telemetry": {"tracing": {"endpoint": "http://collector.telemetry:4318"}},
        }
    )


RICH = make_rich_deployment()
BUILT = build_rayservice(RICH, make_plan(), SETTINGS)
RECORD = make_record(keys_of(RICH), make_plan(), BUILT, TOKEN_SECRET)


PLATFORMS = {
    "as installed by default": SETTINGS,
    "users of the platform": SETTINGS.model_copy(update={"fixed_user_ids": False}),
    "addresses of IPv6": IPV6,
}


@pytest.mark.parametrize("of", PLATFORMS.values(), ids=PLATFORMS)
def test_all_that_a_spec_and_the_settings_can_bring_is_what_builds_write(of: OperatorSettings) -> None:
    record = make_record(keys_of(RICH), make_plan(), build_rayservice(RICH, make_plan(), of), TOKEN_SECRET)
    assert find_difference(RICH, keys_of(RICH), record, of, None) is None
    assert find_difference(RICH, keys_of(RICH), record, SETTINGS, None) is None, "the settings may change"


@pytest.mark.parametrize("path", list(mappings(BUILT)), ids=lambda path: ".".join(map(str, path)) or "the object")
def test_no_object_takes_a_field_that_no_build_writes(path: tuple[str | int, ...]) -> None:
    """Whatever Kubernetes and KubeRay know or will know there."""
    forged = copy.deepcopy(BUILT)
    at: Any = forged
    for step in path:
        at = at[step]
    at["hostPath"] = {"path": "/"}
    record = RECORD.model_copy(update={"rayservice": forged})
    assert find_difference(RICH, keys_of(RICH), record, SETTINGS, None) is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(mappings(BUILT))), st.integers(0, 20), json_values)
def test_no_value_of_any_type_raises(path: tuple[str | int, ...], number: int, value: Any) -> None:
    forged = copy.deepcopy(BUILT)
    at: Any = forged
    for step in path:
        at = at[step]
    at[sorted(at)[number % len(at)]] = value
    record = RECORD.model_copy(update={"rayservice": forged})
    difference = find_difference(RICH, keys_of(RICH), record, SETTINGS, {"spec": forged["spec"]} if path else None)
    assert difference is None or difference


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60) | json_values.map(json.dumps))
def test_no_text_of_a_serve_config_raises(text: str) -> None:
    assert serve_config_difference(text, "mixtral")


class Recorded:
    """A record of a former build, with the deployment that it was made for."""

    def __init__(self, path: Path) -> None:
        given = json.loads(path.read_text(encoding="utf-8"))
        self.deployment = ModelDeployment.model_validate(given["deployment"])
        self.settings = OperatorSettings.model_validate(given["settings"])
        self.revision: JsonObject = given["revision"]
        self.observed = Observed.model_validate(
            given["observed"] | {"revisions": [self.revision], "rayservice": self.revision["data"]["rayservice"]}
        )


def revision_of(decision: Decision) -> JsonObject:
    (revision,) = (item for item in decision.apply if item["kind"] == "ControllerRevision")
    return revision


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_what_former_builds_recorded_runs_on_with_the_token_that_its_clients_know(path: Path) -> None:
    recorded = Recorded(path)
    (record,) = read_records(recorded.observed.revisions)
    decision = decide(recorded.deployment, recorded.observed, recorded.settings, "random")
    assert [found.reason for found in decision.objections if found.reason == Reason.RECORD_REFUSED] == []
    assert decision.refusal is None
    assert decision.create == ()
    assert revision_of(decision)["data"] == recorded.revision["data"]
    assert decision.apply[-1] == record.rayservice
    assert decision.endpoint is not None
    assert decision.endpoint.token_secret == record.token_secret
    assert record.token_secret == f"{recorded.deployment.metadata.name}-token"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_an_edit_of_what_former_builds_made_keeps_the_token(path: Path) -> None:
    recorded = Recorded(path)
    engine = recorded.deployment.spec.engine.model_copy(update={"max_model_len": 2048})
    spec = recorded.deployment.spec.model_copy(update={"engine": engine})
    edited = recorded.deployment.model_copy(update={"spec": spec})
    listed = recorded.settings.model_copy(
        update={"allowed_images": ("images.test/own:1",), "allowed_service_accounts": ("model",)}
    )
    decision = decide(edited, recorded.observed, listed, "random")
    assert decision.refusal is None
    assert decision.apply[-1] != recorded.revision["data"]["rayservice"]
    token_secret = f"{edited.metadata.name}-token"
    assert revision_of(decision)["data"]["token_secret"] == token_secret
    for pod in pods(decision.apply[-1]):
        (token,) = (volume["secret"] for volume in pod["volumes"] if "secret" in volume)
        assert token["secretName"] == token_secret


def test_a_former_name_is_taken_only_from_a_record() -> None:
    decision = Cluster().reconcile(make_deployment())
    (secret,) = decision.create
    assert secret["metadata"]["name"] == TOKEN_SECRET != names.former_token_secret("mixtral")


def test_an_earlier_default_image_comes_back_when_somebody_deletes_the_rayservice() -> None:
    """Of the operator's own repository: earlier releases of the chart had other tags as their default."""
    newer = SETTINGS.model_copy(update={"image": "images.test/conclave-serving:0.2.0"})
    scene = Scene()
    del scene.objects["RayService", "mixtral"]
    assert scene.reconcile(scene.deployment, newer).objections == ()
    assert scene.rayservice == scene.first.apply[-1]


def test_a_revision_of_a_record_holds_neither_its_number_nor_its_name() -> None:
    (read,) = read_records([build_revision(RICH, RECORD.model_copy(update={"number": 3}))])
    assert (read.number, read.name.startswith("mixtral-")) == (3, True)
    assert not {"number", "name"} & build_revision(RICH, read)["data"].keys()


OPEN = SETTINGS.model_copy(
    update={"allowed_pod_keys": ("k8s.v1.cni.cncf.io/networks",), "allowed_devices": ("nvidia.com/hostdev",)}
)
LISTED = {
    "podAnnotations": {"k8s.v1.cni.cncf.io/networks": "[" + "x" * 2000 + "]"},
    "resources": {"worker": {"devices": {"nvidia.com/hostdev": 1}}},
}


def test_a_running_model_keeps_what_the_lists_held_when_it_began() -> None:
    """A longer annotation than a label may be is recognised too."""
    cluster, deployment = Cluster(), make_deployment({"runtime": LISTED})
    assert cluster.reconcile(deployment, OPEN).objections == ()
    cluster.writes.clear()
    decision = cluster.reconcile(deployment)
    assert cluster.writes == []
    assert decision.refusal is None
    assert [found.reason for found in decision.objections] == [Reason.POD_KEY_NOT_ALLOWED, Reason.DEVICE_NOT_ALLOWED]


def test_what_the_lists_hold_no_more_does_not_begin_again() -> None:
    cluster, deployment = Cluster(), make_deployment({"runtime": LISTED})
    cluster.reconcile(deployment, OPEN)
    del cluster.objects["RayService", "mixtral"]
    decision = cluster.reconcile(deployment)
    assert decision.refusal is not None
    assert ("RayService", "mixtral") not in cluster.objects


def test_a_record_for_this_spec_has_the_runtime_class_of_the_spec() -> None:
    forged = copy.deepcopy(BUILT)
    pods(forged)[1]["runtimeClassName"] = "kata"
    record = RECORD.model_copy(update={"rayservice": forged})
    difference = find_difference(RICH, keys_of(RICH), record, SETTINGS, None)
    assert difference == "its worker pods have the RuntimeClass kata, expected nvidia"

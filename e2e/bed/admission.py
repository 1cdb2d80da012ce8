"""What only a machine without GPUs needs, added to model pods by a MutatingAdmissionPolicy of this suite.

In every namespace of the suite: the variables of vLLM's CPU build, and the Python environment, which is too large to
be unpacked by two containerds, from a claim (restricted Pod Security admits claims). In the privileged one also the
host's /dev/shm: without GPUs, ranks on two nodes compute sums through shared memory. The product has no test hook.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conclave import names

ENVIRONMENT_CLAIM = "environment"
ENVIRONMENT_PATH = "/opt/environment"
MARK = "e2e.conclave.dev/mutate"
"""Label of the namespaces whose model pods are changed: `restricted` or `privileged`."""
OURS = " || ".join(f"object.metadata.?labels[?{json.dumps(label)}].hasValue()" for label in names.POD_OWNERS)
"""CEL: a pod of a model, or one that fetches or inspects its weights."""
INCOMPLETE_MARK = "e2e.conclave.dev/incomplete"
SITE_PACKAGES = f"{ENVIRONMENT_PATH}/lib/python3.11/site-packages"
VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "eth0",
}
ON_SHARED_MEMORY = {"VLLM_RPC_BASE_PATH": "/dev/shm"}
"""Ranks that see one /dev/shm are taken for one host and joined through sockets, which both must see."""

Manifest = dict[str, Any]


def policies(*, with_environment: bool) -> list[Manifest]:
    """One for each kind of namespace, with its binding."""
    return [
        *_policy("restricted", VARIABLES, with_environment=with_environment, host_memory=False),
        *_policy("privileged", VARIABLES | ON_SHARED_MEMORY, with_environment=with_environment, host_memory=True),
    ]


def without_library(name: str) -> list[Manifest]:
    """In namespaces with INCOMPLETE_MARK the image lacks a package of Python: an empty directory hides it."""
    volume = 'Object.spec.volumes{name: "nothing", emptyDir: Object.spec.volumes.emptyDir{}}'
    mounted = _containers("containers", {}, [("nothing", f"{SITE_PACKAGES}/{name}", "true")])
    expression = f"Object{{spec: Object.spec{{volumes: [{volume}], containers: {mounted}}}}}"
    mutation = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}
    return _mutating("without-library", {INCOMPLETE_MARK: "true"}, [mutation])


def volume_and_claim(namespace: str, claim: str, directory: Path) -> list[Manifest]:
    """A directory of this machine, which all nodes of the local cluster share, as a claim of the namespace."""
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            **common,
            "capacity": {"storage": "20Gi"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim, "namespace": namespace},
            "hostPath": {"path": str(directory), "type": "Directory"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }
    wanted = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim, "namespace": namespace},
        "spec": {**common, "volumeName": f"{namespace}-{claim}", "resources": {"requests": {"storage": "20Gi"}}},
    }
    return [volume, wanted]


def _policy(kind: str, variables: Mapping[str, str], *, with_environment: bool, host_memory: bool) -> list[Manifest]:
    name = f"without-gpus-{kind}"
    volumes, mounts = [], []
    if with_environment:
        volumes.append(
            f'Object.spec.volumes{{name: "{ENVIRONMENT_CLAIM}", persistentVolumeClaim: '
            f'Object.spec.volumes.persistentVolumeClaim{{claimName: "{ENVIRONMENT_CLAIM}", readOnly: true}}}}'
        )
        mounts.append((ENVIRONMENT_CLAIM, ENVIRONMENT_PATH, "true"))
    expression = (
        f"Object{{spec: Object.spec{{volumes: [{', '.join(volumes)}], "
        f"containers: {_containers('containers', variables, mounts)}, "
        f"initContainers: has(object.spec.initContainers) ? "
        f"{_containers('initContainers', variables, mounts)} : []}}}}"
    )
    mutations: list[Manifest] = [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}},
    ]
    if host_memory:
        mutations.append({"patchType": "JSONPatch", "jsonPatch": {"expression": _host_memory()}})
    return _mutating(name, {MARK: kind}, mutations)


def _mutating(name: str, namespaces: Mapping[str, str], mutations: list[Manifest]) -> list[Manifest]:
    """Of model pods in namespaces with these labels, when they are made."""
    rules = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
    return [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "resourceRules": [rules],
                    "namespaceSelector": {"matchLabels": dict(namespaces)},
                },
                "matchConditions": [{"name": "ours", "expression": OURS}],
                "mutations": mutations,
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    ]


def _containers(part: str, variables: Mapping[str, str], mounts: list[tuple[str, str, str]]) -> str:
    """CEL: each container of this part, by its name, with the variables and the mounts."""
    kind = f"Object.spec.{part}"
    environment = ", ".join(
        f"{kind}.env{{name: {json.dumps(name)}, value: {json.dumps(value)}}}" for name, value in variables.items()
    )
    mounted = ", ".join(
        f"{kind}.volumeMounts{{name: {json.dumps(name)}, mountPath: {json.dumps(path)}, readOnly: {read_only}}}"
        for name, path, read_only in mounts
    )
    return f"object.spec.{part}.map(c, {kind}{{name: c.name, env: [{environment}], volumeMounts: [{mounted}]}})"


def _host_memory() -> str:
    """CEL: the host's /dev/shm in place of the pod's own."""
    return (
        'object.spec.volumes.exists(v, v.name == "shared-memory") ? [JSONPatch{op: "replace", '
        'path: "/spec/volumes/" + string(object.spec.volumes.map(v, v.name).indexOf("shared-memory")), '
        'value: Object.spec.volumes{name: "shared-memory", '
        'hostPath: Object.spec.volumes.hostPath{path: "/dev/shm"}}}] : []'
    )

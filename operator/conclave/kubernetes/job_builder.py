"""One builder for all Jobs that Conclave makes.

A Job is created once under a name made of its content and is kept: what its pod reported is the record.
"""

from __future__ import annotations

from conclave.kubernetes.hardening import CONTAINER_SECURITY, pod_security
from conclave.kubernetes.objects import JsonObject, without_empty
from conclave.kubernetes.reports import REPORT_PATH

FOREVER = 2**31 - 1
"""Tries: the kubelet waits longer and longer between them, up to five minutes."""


def job_spec(pod_labels: dict[str, str], pod: JsonObject) -> JsonObject:
    """A Job's spec: its pod is tried until it succeeds, and a new pod is made only after the old one has ended."""
    return {
        "backoffLimit": FOREVER,
        "podReplacementPolicy": "Failed",
        "template": {"metadata": {"labels": pod_labels}, "spec": pod},
    }


def job_pod(
    containers: list[JsonObject],
    volumes: list[JsonObject],
    placement: JsonObject,
    *,
    has_fixed_ids: bool,
    **more: object,
) -> JsonObject:
    """A Job's pod: the containers run one after the other. `more` is what the pod's spec has besides."""
    spec = without_empty(
        {
            **placement,
            **more,
            "containers": containers[-1:],
            "initContainers": containers[:-1],
            "restartPolicy": "OnFailure",
            "securityContext": pod_security(has_fixed_ids=has_fixed_ids),
            "volumes": volumes,
        }
    )
    spec["automountServiceAccountToken"] = False
    return spec


def reporting_container(name: str, image: JsonObject, command: list[str], **more: object) -> JsonObject:
    """A container that reports by its termination message; `image` is its image and how it is pulled."""
    return {
        "name": name,
        **image,
        "command": command,
        **more,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": REPORT_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def build_job(metadata: JsonObject, labels: dict[str, str], spec: JsonObject) -> JsonObject:
    """The Job, with these labels beside those of its metadata."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata | {"labels": metadata["labels"] | labels},
        "spec": spec,
    }

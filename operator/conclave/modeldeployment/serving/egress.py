"""Condition EgressEnforced: whether the cluster enforces the NetworkPolicy of the worker pods, as their canaries found.

Called by `status`. A canary (`conclave_serving.egress_canary`) tries to reach the API server once, when its pod starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from conclave import names
from conclave.api.reasons import Reason
from conclave.finding import Verdict
from conclave.kubernetes.objects import JsonObject
from conclave.kubernetes.pods import is_leaving, is_worker
from conclave.kubernetes.reports import read_report
from conclave.modeldeployment.scene import StatusScene

_TARGET = re.compile(r"(?:\[[0-9a-fA-F:.]{2,45}\]|[0-9A-Za-z.-]{1,253}):([0-9]{1,5})", re.ASCII)


class _Report(NamedTuple):
    """What one pod's canary found."""

    pod: str
    is_open: bool
    target: str
    port: int


def egress_enforced(scene: StatusScene) -> Verdict:
    """True if every canary was refused, False if a canary reached its target, Unknown without a valid test."""
    if scene.deployment.spec.suspend:
        words = "spec.suspend is true: no worker pod runs that could try to reach the API server"
        return Verdict("Unknown", Reason.SUSPENDED, words)
    workers = sorted(
        (pod for pod in scene.observed.pods if is_worker(pod) and not is_leaving(pod)),
        key=lambda pod: str(pod["metadata"]["name"]),
    )
    reports = [report for pod in workers for report in _reports(pod)]
    reports.sort(key=lambda report: not report.is_open)
    if not reports:
        return Verdict("Unknown", Reason.EGRESS_UNTESTED, _untested(workers))
    first = reports[0]
    policy = scene.name_of("NetworkPolicy", names.network_policy(scene.name))
    if allowed := _ports_to_anywhere(scene) & {first.port, *names.API_SERVER_PORTS}:
        return Verdict(
            "Unknown",
            Reason.EGRESS_ALLOWED,
            (
                f"{policy} allows any address on port {min(allowed)}, for the collector of spec.telemetry.tracing. API "
                "servers use this port too, so a test would show nothing; name the collector by its Service in the "
                "cluster, by an address, or on another port"
            ),
        )
    if first.is_open:
        return Verdict(
            "False",
            Reason.EGRESS_OPEN,
            (
                f"{scene.name_of('Pod', first.pod)}: reached the API server at {first.target}, which {policy} does not "
                "allow. Use a network plugin that enforces NetworkPolicies, or remove another NetworkPolicy of the "
                "namespace that allows this. Then delete the worker pods: each new pod tries again"
            ),
        )
    return Verdict(
        "True",
        Reason.EGRESS_CLOSED,
        (
            f"{len(reports)} of {len(workers)} worker pods have tried to reach the API server at {first.target}, which "
            f"{policy} does not allow; none reached it"
        ),
    )


def _reports(pod: JsonObject) -> Iterator[_Report]:
    """At most one report. A pod may write anything: other text than a canary's report is ignored."""
    for status in pod.get("status", {}).get("initContainerStatuses", []):
        end = status.get("state", {}).get("terminated")
        if status["name"] != names.CANARY_CONTAINER or not end:
            continue
        report = read_report(end.get("message", ""))
        egress, target = report.get("egress"), report.get("target")
        found = _TARGET.fullmatch(target) if isinstance(target, str) else None
        if egress in ("open", "closed") and found:
            yield _Report(pod["metadata"]["name"], egress == "open", found[0], int(found[1]))


def _untested(workers: list[JsonObject]) -> str:
    of_older_builds = [pod for pod in workers if not _has_canary(pod)]
    if not of_older_builds:
        return "no worker pod has reported yet whether it could reach the API server"
    return (
        f"{len(of_older_builds)} of {len(workers)} worker pods have no init container {names.CANARY_CONTAINER}, "
        "which would try to reach the API server: an earlier version of the operator built these pods; to take the new "
        f"build, set the annotation {names.REFRESH} to a new value"
    )


def _has_canary(pod: JsonObject) -> bool:
    return any(item.get("name") == names.CANARY_CONTAINER for item in pod.get("spec", {}).get("initContainers", []))


def _ports_to_anywhere(scene: StatusScene) -> set[int]:
    """Of the workers' policy: a rule without peers allows every address, which an external collector needs."""
    name = names.network_policy(scene.name)
    return {
        port["port"]
        for policy in scene.observed.network_policies
        if policy["metadata"]["name"] == name
        for rule in policy.get("spec", {}).get("egress", [])
        if not rule.get("to")
        for port in rule.get("ports", [])
        if isinstance(port.get("port"), int)
    }

"""What kubelets and KubeRay would report of the pods of the frozen deployments: nothing runs on the test bed.

The messages are those of the version's own programs (`reports`).
"""

from __future__ import annotations

from typing import Any

from tools.freeze.reports import Reports

Json = dict[str, Any]
SINCE = "2026-11-30T00:00:00Z"
RUNNING: Json = {"running": {"startedAt": SINCE}}
WAITING: Json = {"waiting": {"reason": "PodInitializing"}}


def ended(message: str = "", exit_code: int = 0) -> Json:
    end = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed", "startedAt": SINCE}
    return {"terminated": end | {"finishedAt": SINCE} | ({"message": message} if message else {})}


def model_pod(pod: Json, state: str, reports: Reports) -> Json:
    """Of a head or worker pod of a deployment that is `serving`, `starting` or `unfit`."""
    is_unfit = state == "unfit" and bool(pod["spec"].get("initContainers"))
    messages = {
        "egress-canary": reports.opened if state == "starting" else reports.closed,
        "verify-weights": reports.mismatch if is_unfit else reports.verified,
        "await-weights": reports.awaited,
    }
    inits: dict[str, Json] = {}
    for container in pod["spec"].get("initContainers", []):
        name = container["name"]
        begun = next((message for prefix, message in messages.items() if name.startswith(prefix)), "")
        inits[name] = ended(begun)
    if is_unfit:
        inits |= {name: RUNNING if name == "await-weights" else WAITING for name in _after_verification(inits)}
    mains = {container["name"]: WAITING if is_unfit else RUNNING for container in pod["spec"]["containers"]}
    is_ready = state == "serving" or (state == "unfit" and not is_unfit)
    return _status(pod, inits, mains, phase="Pending" if is_unfit else "Running", is_ready=is_ready)


def job_pod(pod: Json, state: str, reports: Reports) -> Json:
    """Of the pod of a Job that is `done`, `inspected`, `half` through or `refused` by the store."""
    steps = [container["name"] for container in pod["spec"].get("initContainers", [])]
    (main,) = (container["name"] for container in pod["spec"]["containers"])
    if state == "refused":
        failed = ended(reports.refused, exit_code=4)
        status = _status(pod, dict.fromkeys(steps, WAITING), {main: WAITING}, phase="Pending", is_ready=False)
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        status["initContainerStatuses"][0] |= {"state": waiting, "lastState": failed, "restartCount": 3}
        return status
    inits = dict.fromkeys(steps, ended(reports.half))
    if state == "half":
        return _status(pod, inits, {main: RUNNING}, phase="Running", is_ready=True)
    message = reports.inspected if state == "inspected" else reports.downloaded
    return _status(pod, inits, {main: ended(message)}, phase="Succeeded", is_ready=False)


def serving_rayservice(rayservice: Json, cluster: str) -> Json:
    """As KubeRay reports one whose endpoints answer."""
    condition = {"lastTransitionTime": SINCE, "message": "", "observedGeneration": rayservice["metadata"]["generation"]}
    return {
        "observedGeneration": rayservice["metadata"]["generation"],
        "serviceStatus": "Running",
        "numServeEndpoints": 1,
        "conditions": [
            condition | {"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints"},
            condition | {"type": "UpgradeInProgress", "status": "False", "reason": "NoPendingCluster"},
        ],
        "activeServiceStatus": {"rayClusterName": cluster},
        "pendingServiceStatus": None,
    }


def _after_verification(inits: dict[str, Json]) -> list[str]:
    names = list(inits)
    return names[names.index("await-weights") :]


def _status(pod: Json, inits: dict[str, Json], mains: dict[str, Json], phase: str, is_ready: bool) -> Json:
    def told(states: dict[str, Json], part: str) -> list[Json]:
        images = {container["name"]: container["image"] for container in pod["spec"].get(part, [])}
        return [
            {"name": name, "image": images[name], "imageID": "", "restartCount": 0, "state": state, "lastState": {}}
            | {"ready": "running" in state and is_ready if part == "containers" else "terminated" in state}
            for name, state in states.items()
        ]

    verdicts = {"PodScheduled": True, "Initialized": phase != "Pending", "ContainersReady": is_ready, "Ready": is_ready}
    return {
        "phase": phase,
        "conditions": [
            {"type": kind, "status": str(verdict), "lastTransitionTime": SINCE} for kind, verdict in verdicts.items()
        ],
        "initContainerStatuses": told(inits, "initContainers"),
        "containerStatuses": told(mains, "containers"),
    }

"""Reads Jobs."""

from __future__ import annotations

from conclave.kubernetes.objects import JsonObject


def is_complete(job: JsonObject) -> bool:
    """Whether the Job's pod has succeeded."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Complete" and condition["status"] == "True" for condition in conditions)

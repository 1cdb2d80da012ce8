"""Termination messages that are JSON: how a container without a Kubernetes token tells the operator what it found.

A pod may write anything, so that a reader believes neither the size nor the shape of a report.
"""

from __future__ import annotations

import json
from typing import Any

LONGEST_REPORT_BYTES = 4096
"""What Kubernetes keeps of a termination message."""
REPORT_PATH = "/dev/termination-log"


def read_report(message: str) -> dict[str, Any]:
    """The report; empty where the message is no JSON object. Half a surrogate pair, which is no text, becomes `?`."""
    try:
        text = json.dumps(json.loads(message[:LONGEST_REPORT_BYTES]), ensure_ascii=False)
        report = json.loads(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}

"""The closed environment of engines: nothing is reported, nothing is fetched, in pods and on a laptop alike."""

from __future__ import annotations

from collections.abc import Mapping

CLOSED_ENVIRONMENT: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
MOST_SEQUENCES = 16
"""Prompts x n of one request, at the edge and in the engine."""

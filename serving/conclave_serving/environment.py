"""The environment of every serving process: nothing is reported, nothing is fetched, no prompt is logged.

`app.py` sets it for the ingress and the engine. `ServingArguments.env` cannot replace it.
"""

from __future__ import annotations

from collections.abc import Mapping

from conclave.engine import environment

PLUGIN = "conclave"
"""The only entry point that vLLM may load, whatever else is installed. vLLM compares names only, so the platform plugin
of the e2e suite has the same name in its own group."""

CLOSED_ENVIRONMENT: Mapping[str, str] = {
    **environment.CLOSED_ENVIRONMENT,
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "VLLM_PLUGINS": PLUGIN,
    "VLLM_SERVER_DEV_MODE": "0",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
}

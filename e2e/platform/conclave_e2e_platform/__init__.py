"""For tests only: a plugin that gives vLLM its own CPU platform with Ray's GPUs as the devices of ranks.

A machine without GPUs can so run what the operator writes for GPUs: nodes say that they have some, Ray places one rank
on each, and the rank computes on the CPU. Installed only in the image of the e2e suite; vLLM calls `register`.
"""

from __future__ import annotations


def register() -> str:
    """The platform's qualified name, as the entry point group `vllm.platform_plugins` has it."""
    return "conclave_e2e_platform.platform.RayGpuCpuPlatform"

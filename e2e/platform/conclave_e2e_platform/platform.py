"""The platform itself; apart from the package's root, which vLLM imports before it has a platform."""

from __future__ import annotations

from vllm.platforms.cpu import CpuPlatform


class RayGpuCpuPlatform(CpuPlatform):
    """vLLM leaves the key empty and then refuses Ray as the executor of CPU ranks."""

    ray_device_key = "GPU"

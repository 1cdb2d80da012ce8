"""The platform itself; apart from the package's root, which vLLM imports before it has a platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.platforms.cpu import CpuPlatform

if TYPE_CHECKING:  # vLLM's configuration is what asks for the platform
    from vllm.config import VllmConfig


class RayGpuCpuPlatform(CpuPlatform):
    """vLLM leaves the key empty and then refuses Ray as the executor of CPU ranks."""

    ray_device_key = "GPU"

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        """Stages of a pipeline get their buffers from the warm-up of a traced model: it is traced, and not compiled,
        which would cost minutes. (VLLM_CPU_CI_ENV would leave that warm-up out.)"""
        super().check_and_update_config(vllm_config)
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            vllm_config.compilation_config.backend = "eager"

"""The engine's settings as vLLM 0.32 resolves them for one accelerator: types, weight format, batch sizes, blocks.

Sources: `vllm/engine/arg_utils.py:get_batch_defaults`, `vllm/config/model.py`, `vllm/platforms/cpu.py`,
`vllm/model_executor/layers/fused_moe/oracle/mxfp4.py`. Called by `evaluate.py` and the inventory-free checks.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from conclave.api.modeldeployment import Dtype, KvCacheDtype, Quantization, SpeculativeMethod
from conclave.catalogue.accelerators import Accelerator
from conclave.catalogue.shapes import ENGINE, FloatType, LatentAttention, MatrixFormat, ModelFacts, WeightFormat
from conclave.planning.matrices import ExpertTiles

CPU = "cpu"
DEFAULT_GPU_MEMORY_UTILIZATION = 0.92

NO_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""Model types that overflow in half precision (`vllm/config/model.py:_FLOAT16_NOT_SUPPORTED_MODELS`)."""

_GIB = 2**30
_AMPERE = 8.0
_HOPPER = 9.0
_FP8_ONLINE = WeightFormat.whole(MatrixFormat(method="fp8", online=True))
_AWQ_USUAL = WeightFormat.whole(MatrixFormat(method="awq", bits=4, group=128, zero_points=True))
_GPTQ_USUAL = WeightFormat.whole(MatrixFormat(method="gptq", bits=4, group=128, zero_points=True))


class Speculation(BaseModel):
    """How tokens are drafted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: SpeculativeMethod
    tokens: int = Field(ge=1)
    """Drafted for each step of a sequence."""


class EngineSettings(BaseModel):
    """The settings of the spec. None leaves a setting to vLLM or to the plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Dtype = Dtype.AUTO
    quantization: Quantization = Quantization.NONE
    kv_cache_dtype: KvCacheDtype = KvCacheDtype.AUTO
    max_model_len: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float = Field(default=DEFAULT_GPU_MEMORY_UTILIZATION, gt=0, le=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    block_size: int | None = Field(default=None, ge=1)
    enforce_eager: bool = False
    max_cudagraph_capture_size: int | None = Field(default=None, ge=1)
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1)
    """vLLM's --kv-cache-memory-bytes: the pool's size instead of what the utilization leaves."""
    adapters: int = Field(default=0, ge=0)
    adapter_rank: int = Field(default=0, ge=0)
    """The largest rank that any of the adapters may have."""
    async_scheduling: bool = True
    speculation: Speculation | None = None

    @property
    def step_tokens(self) -> int:
        """Tokens that one step computes for each sequence that answers."""
        return 1 + (self.speculation.tokens if self.speculation else 0)

    @property
    def overlaps_steps(self) -> bool:
        """Whether vLLM on a GPU schedules a step while the one before runs. It does not with `ngram`."""
        return self.async_scheduling and not (self.speculation and self.speculation.method is SpeculativeMethod.NGRAM)


def has_bfloat16(accelerator: Accelerator | None) -> bool:
    """Whether the accelerator computes in bfloat16. An unknown accelerator counts as new."""
    return accelerator is None or accelerator.vendor == "amd" or float(accelerator.compute) >= _AMPERE


def half_precision_refusal(facts: ModelFacts, settings: EngineSettings) -> str | None:
    """vLLM refuses float16 for models that overflow in it."""
    if settings.dtype is not Dtype.FLOAT16 or facts.model_type not in NO_FLOAT16:
        return None
    return f"engine.dtype is float16, in which {facts.model_type} overflows; set bfloat16 or float32"


def weight_dtype(facts: ModelFacts, settings: EngineSettings, accelerator: Accelerator | None = None) -> FloatType:
    """Type of unconverted weights; `auto` serves in 16 bits that the accelerator has, and that the model takes."""
    if settings.dtype is not Dtype.AUTO:
        named: dict[Dtype, FloatType] = {
            Dtype.BFLOAT16: "bfloat16",
            Dtype.FLOAT16: "float16",
            Dtype.FLOAT32: "float32",
        }
        return named[settings.dtype]
    usual: FloatType = "bfloat16" if has_bfloat16(accelerator) else "float16"
    stored = usual if facts.dtype in ("float32", "bfloat16") else facts.dtype
    if stored == "float16" and facts.model_type in NO_FLOAT16:
        return "bfloat16" if has_bfloat16(accelerator) else "float32"
    return stored


def weight_format(facts: ModelFacts, settings: EngineSettings) -> WeightFormat | None:
    """The format of the weights in memory: that of the checkpoint, or that of engine.quantization."""
    stored = facts.weight_format
    wanted = {
        Quantization.NONE: None,
        Quantization.FP8_PER_TENSOR: _FP8_ONLINE,
        Quantization.FP8: _FP8_ONLINE,  # the older name, which vLLM 0.32 still takes with a warning
        Quantization.AWQ: _AWQ_USUAL,
        Quantization.GPTQ: _GPTQ_USUAL,
    }[settings.quantization]
    return stored if stored is not None else wanted


def quantization_conflict(facts: ModelFacts, settings: EngineSettings) -> str | None:
    """vLLM refuses a quantization other than the one that the checkpoint was made with."""
    stored, wanted = facts.weight_format, settings.quantization
    if stored is None or wanted is Quantization.NONE or stored.declared == wanted.value:
        return None
    return (
        f"engine.quantization is {wanted.value}, but the checkpoint's weights are {stored.declared}; remove "
        "engine.quantization"
    )


def kv_cache_type(facts: ModelFacts, settings: EngineSettings) -> Literal["auto", "fp8", "nvfp4"]:
    """What the spec says, else what the checkpoint asks for; auto is the type of the weights.

    vLLM's latent attention takes no type from compressed-tensors (`layers/attention/mla_attention.py`).
    """
    stored = facts.weight_format
    if settings.kv_cache_dtype is KvCacheDtype.FP8:
        return "fp8"
    if stored is None or (stored.declared == "compressed-tensors" and isinstance(facts.attention, LatentAttention)):
        return "auto"
    return stored.kv_cache


def kv_cache_refusal(facts: ModelFacts, settings: EngineSettings) -> str | None:
    """The type of a KV cache that the planner cannot size."""
    if kv_cache_type(facts, settings) != "nvfp4":
        return None
    return (
        f"engine.kvCacheDtype is {settings.kv_cache_dtype.value}, and the checkpoint asks for an nvfp4 KV cache; "
        f"{ENGINE} serves it; this release of Conclave does not plan it yet; set engine.kvCacheDtype to fp8"
    )


def kv_entry_bytes(facts: ModelFacts, settings: EngineSettings, accelerator: Accelerator | None = None) -> int:
    """Bytes of one number in the KV cache."""
    if kv_cache_type(facts, settings) == "fp8":
        return 1
    return 4 if weight_dtype(facts, settings, accelerator) == "float32" else 2


def batch_sizes(
    settings: EngineSettings, accelerator: Accelerator | None, memory_bytes: int, world: int, *, on_cpu: bool
) -> tuple[int, int]:
    """Tokens and sequences of one step; `accelerator` is None where the catalogue does not know it."""
    if on_cpu:
        tokens, sequences = 2048 * world, 128 * world
    elif memory_bytes >= 160 * _GIB:
        tokens, sequences = 16384, 1024
    elif memory_bytes >= 70 * _GIB and not (accelerator and "A100" in accelerator.name):
        tokens, sequences = 8192, 1024
    else:
        tokens, sequences = 2048, 256
    tokens = settings.max_num_batched_tokens or tokens
    return tokens, settings.max_num_seqs or min(sequences, tokens)


def largest_graph_tokens(settings: EngineSettings, accelerator: Accelerator | None, tokens: int, sequences: int) -> int:
    """Tokens of the largest batch that a CUDA graph is captured for (`vllm/config/vllm.py:_set_cudagraph_sizes`)."""
    usual = 1024 if accelerator and accelerator.compute.startswith("10.") else 512
    return min(tokens, settings.max_cudagraph_capture_size or min(usual, 2 * sequences * settings.step_tokens))


def in_flight_tokens(batched_tokens: int, pipeline: int, *, overlaps: bool) -> int:
    """Tokens of the steps that run at once: one for each pipeline stage, and one more that is scheduled meanwhile.

    `vllm/config/vllm.py:max_concurrent_batches`.
    """
    return batched_tokens * (pipeline + overlaps)


def block_tokens(facts: ModelFacts, settings: EngineSettings, *, on_cpu: bool) -> int:
    """Tokens of one block of the KV cache.

    A CPU without AMX takes 16 for latent attention. The plan does not know the CPU; what fits in blocks of 128 fits in
    those too.
    """
    if settings.block_size is not None:
        return settings.block_size
    if on_cpu:
        return 128
    return 64 if isinstance(facts.attention, LatentAttention) else 16


def expert_tiles(accelerator: Accelerator | None, *, on_cpu: bool) -> ExpertTiles:
    """How the mxfp4 kernel of an accelerator pads experts. An unknown accelerator counts as the widest."""
    if on_cpu:
        return ExpertTiles(hidden=32, intermediate=32)
    if accelerator is None:
        return ExpertTiles(hidden=256, intermediate=128)
    if accelerator.vendor == "amd":
        return ExpertTiles(hidden=256, intermediate=256)
    if _HOPPER <= float(accelerator.compute) < _HOPPER + 1:  # Triton kernels
        return ExpertTiles(intermediate=64, inputs=256)
    return ExpertTiles(hidden=256, intermediate=128)  # Marlin before, TensorRT-LLM's after

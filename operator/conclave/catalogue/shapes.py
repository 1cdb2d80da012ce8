"""The shape of a model: its layers, ends, context and weight format, as vLLM builds them.

Made by the readers in `conclave.catalogue.architectures` from a `config.json`; read by `conclave.planning`.
Nothing is read or counted here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from conclave.catalogue.measured import MeasuredWeights

ENGINE = "vLLM 0.32"
"""The engine whose classes the readers follow, as messages name it."""
FloatType = Literal["bfloat16", "float16", "float32"]
Matrix = Literal[
    "qkv",
    "output",
    "latent_down",
    "query_up",
    "latent_up",
    "gate_up",
    "down",
    "experts",
    "shared_gate_up",
    "shared_down",
    "recurrence",
    "head",
]
"""What vLLM builds as one matrix. `experts` are all of a layer's; `head` is the model's output head."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroupedAttention(_Facts):
    """Multi-head, grouped-query or multi-query attention."""

    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "per_head", "all_heads"] = "none"
    """A norm vector of head_dim elements for queries and one for keys, or one over all heads (MiniMax-M2)."""
    sinks: bool = False
    """One learned logit a head (gpt-oss)."""
    window_tokens: int | None = Field(default=None, ge=1)
    """Tokens that a query sees; None is full attention."""
    chunked: bool = False
    """Whether the window is a fixed chunk (Llama 4) rather than sliding."""
    value_head_dim: int | None = Field(default=None, ge=1)
    """Where a value is not as wide as a key (MiMo-V2); the cache counts both as wide as the wider one."""
    output_gate: bool = False
    """Whether the query's projection makes a gate as well (Qwen3-Next)."""


class LatentAttention(_Facts):
    """Multi-head latent attention (DeepSeek): one compressed key-value entry for all heads."""

    heads: int = Field(ge=1)
    query_rank: int | None = Field(default=None, ge=1)
    """Rank of the query's down-projection; None where queries are projected at once."""
    kv_rank: int = Field(ge=1)
    nope_head_dim: int = Field(ge=1)
    rope_head_dim: int = Field(ge=1)
    value_head_dim: int = Field(ge=1)
    caches_heads: bool = False
    """Whether vLLM's class caches the keys and values of all heads instead (MiniCPM3)."""
    index_heads: int = Field(default=0, ge=0)
    """Heads of the indexer that chooses the tokens to attend to (DeepSeek-V3.2); 0 where there is none."""
    index_head_dim: int = Field(default=0, ge=0)


class Recurrence(_Facts):
    """A mixer that keeps a state of fixed size for each request: Mamba, linear attention, a short convolution."""

    projected: int = Field(ge=1)
    """Outputs of the projections into it."""
    inner: int = Field(ge=1)
    """Inputs of the projection out of it."""
    state_elements: int = Field(default=0, ge=0)
    """Of one request in one layer; counted as float32, the widest type that vLLM keeps it in."""
    convolution_elements: int = Field(default=0, ge=0)
    """The latest inputs of the convolution, in the model's type."""
    sliced: tuple[int, ...] = ()
    """Numbers that vLLM divides by the tensor-parallel size: heads, groups of heads, widths."""


class DenseMlp(_Facts):
    """A gated feed-forward network: gate, up, down."""

    intermediate: int = Field(ge=1)
    bias: bool = False
    gated: bool = True
    """False: up and down only."""


class ExpertMlp(_Facts):
    """A mixture of gated experts behind a router."""

    experts: int = Field(ge=1)
    top_k: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    bias: bool = False
    router_bias: bool = False
    router_dtype: FloatType | None = None
    """Type of the router's weights where it is not the model's own."""
    correction_bias: bool = False
    """One float32 for each expert, added to the router's scores (DeepSeek's noaux_tc)."""
    shared_intermediate: int = Field(default=0, ge=0)
    """Width of the experts that every token passes; 0 where there are none."""
    shared_gate: bool = False
    """A gate of one output before the shared expert (Qwen2-MoE)."""
    gated: bool = True
    """False: an expert has up and down only (Nemotron-H)."""
    latent: int | None = Field(default=None, ge=1)
    """Width that the experts see, where projections of each layer narrow the model's to it (Nemotron 3)."""
    four_bits: bool = False
    """Whether the experts are stored in mxfp4, whatever the weight format says (DeepSeek-V4)."""


class Layer(_Facts):
    """One decoder layer. Grok-2 has a dense and an expert network side by side; most have one of them.

    Hybrid models have layers without attention, or without a feed-forward network.
    """

    attention: GroupedAttention | LatentAttention | None
    recurrence: Recurrence | None = None
    dense: DenseMlp | None = None
    moe: ExpertMlp | None = None
    norms: int = Field(default=2, ge=0)
    """Norm vectors of `hidden` elements."""
    norm_bias: bool = False

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The matrices of this layer that a checkpoint may have converted. vLLM never converts a router."""
        found: list[Matrix] = []
        if isinstance(self.attention, GroupedAttention):
            found += ["qkv", "output"]
        elif self.attention is not None:
            found += ["latent_down", "query_up", "latent_up", "output"]
        if self.recurrence is not None:
            found.append("recurrence")
        if self.dense is not None:
            found += ["gate_up", "down"]
        if self.moe is not None:
            found.append("experts")
            found += ["shared_gate_up", "shared_down"] if self.moe.shared_intermediate else []
        return tuple(found)


class Rotary(_Facts):
    """One table of rotary cosines and sines, which vLLM keeps whole on every GPU."""

    positions: int = Field(ge=1)
    dim: int = Field(ge=1)
    dtype: FloatType | None = None
    """None: the model's own type."""


class VisionTower(_Facts):
    """The vision encoder of a multimodal model (Llama 4)."""

    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    heads: int = Field(ge=1)
    patch: int = Field(ge=1)
    image: int = Field(ge=1)
    channels: int = Field(ge=1)
    adapter_input: int = Field(ge=1)
    adapter_output: int = Field(ge=1)
    output: int = Field(ge=1)
    pixel_shuffle_ratio: float = Field(default=0.5, gt=0, le=1)


class Encoder(_Facts):
    """An encoder of images or sound beside the decoder, as a bound: whole on every rank."""

    name: str
    """As config.json names it, for instance vision_config."""
    parameters: int = Field(ge=0)
    heads: int | None = Field(default=None, ge=1)
    """What vLLM divides by the tensor-parallel size, where the config says it."""
    inputs_per_token: int = Field(default=1, ge=1)
    """Patches, or frames, that become one token of the decoder."""
    elements_per_input: int = Field(default=0, ge=0)
    """Elements that are alive at once for each of them in its widest layer."""


class Evidence(_Facts):
    """What the plan of an architecture without a reader of its own rests on."""

    basis: Literal["headers", "index", "config"]
    """The tensors' headers, the total of an index file, or config.json alone."""
    measured: MeasuredWeights | None = None
    """None: the weights are an estimate from config.json."""
    total_bytes: int | None = Field(default=None, ge=1)
    """Of the index file; the estimate is stretched or shrunk to it."""
    uncertain_share: float = Field(ge=0, le=1)
    """Share of a rank's weights that the longest request leaves of the KV cache, beside what every plan leaves."""


class MatrixFormat(_Facts):
    """How the elements and scales of a converted matrix are stored."""

    method: Literal["fp8", "mxfp8", "awq", "gptq", "packed", "mxfp4", "int8", "nvfp4"]
    bits: int = Field(default=8, ge=2, le=8)
    group: int | None = Field(default=None, ge=1)
    """Weights along the input dimension that share a scale (AWQ, GPTQ, mxfp4); None is one a column."""
    block: tuple[int, int] | None = None
    """Output and input size of an fp8 block that shares a scale."""
    per_channel: bool = False
    """fp8 and int8: one scale an output channel rather than one a tensor."""
    static_activations: bool = False
    """Whether input scales are stored."""
    zero_points: bool = False
    online: bool = False
    """Whether vLLM converts a 16-bit checkpoint while it loads."""


class FormatRule(_Facts):
    """Some matrices of a checkpoint, and their format."""

    names: tuple[str, ...] = ()
    """Modules as the checkpoint's config names them (`catalogue.modules`). Empty: every matrix of the layers, and not
    the output head."""
    format: MatrixFormat | None
    """None: these matrices stay unconverted."""


class WeightFormat(_Facts):
    """How a checkpoint (or vLLM at load) stores its matrices, module by module."""

    rules: tuple[FormatRule, ...]
    """The first rule that names a module decides. A module that no rule names stays unconverted."""
    declared: str = ""
    """`quant_method` of the checkpoint; empty for what vLLM converts."""
    kv_cache: Literal["auto", "fp8", "nvfp4"] = "auto"
    """Type of the KV cache that the checkpoint asks for; auto is the model's own type."""

    @classmethod
    def whole(cls, matrices: MatrixFormat, *, declared: str = "") -> WeightFormat:
        """All matrices of the layers in one format."""
        return cls(rules=(FormatRule(format=matrices),), declared=declared)


class ModelFacts(_Facts):
    """A model as vLLM builds it."""

    architecture: str
    """vLLM's model class."""
    model_type: str
    hidden: int = Field(ge=1)
    vocab: int = Field(ge=1)
    layers: tuple[Layer, ...] = Field(min_length=1)
    context_tokens: int = Field(ge=1)
    dtype: FloatType = "bfloat16"
    tied_embeddings: bool = False
    ends_on_every_stage: bool = False
    """Whether vLLM builds embedding, head and last norm on every pipeline stage, not only where they are used."""
    head_bias: bool = False
    final_norm_bias: bool = False
    rotary: tuple[Rotary, ...] = ()
    drafting_layers: int = Field(default=0, ge=0)
    """Further layers of the weights, like the last one, that draft tokens (`num_nextn_predict_layers`)."""
    weight_format: WeightFormat | None = None
    vision: VisionTower | None = None
    encoders: tuple[Encoder, ...] = ()
    further_parameters: int = Field(default=0, ge=0)
    """Tables beside embedding and head that every rank holds (Gemma 3n's embeddings for each layer)."""
    evidence: Evidence | None = None
    """None: a reader knows the architecture, and the plan counts every parameter."""
    pipeline: bool = True
    """Whether vLLM's class supports pipeline parallelism."""
    tensor: bool = True
    """Whether vLLM's class supports tensor parallelism."""
    sliced: tuple[int, ...] = ()
    """Further numbers that vLLM divides by the tensor-parallel size (DeepSeek-V4's groups of output heads)."""
    tensor_divides_intermediate: bool = False
    """Whether vLLM refuses a world size that does not divide the experts' width (gpt-oss)."""
    tensor_within_experts: bool = False
    """Whether vLLM refuses a tensor-parallel size over the number of experts (Qwen3-MoE, MiniMax-M2)."""

    @property
    def attention(self) -> GroupedAttention | LatentAttention | None:
        """The first attention that there is; head counts are the same in all layers that a reader knows."""
        return next((layer.attention for layer in self.layers if layer.attention), None)

    @property
    def moe(self) -> ExpertMlp | None:
        """The first layer's experts that there are."""
        return next((layer.moe for layer in self.layers if layer.moe), None)

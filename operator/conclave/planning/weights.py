"""Bytes of weights on each pipeline stage's fullest rank, parameter by parameter as vLLM allocates them.

Authority: `vllm/model_executor/models/*.py`, `layers/linear.py`, `layers/vocab_parallel_embedding.py` and
`layers/fused_moe`; `tests/serving/test_planner_matches_vllm.py` compares the sums with real ones.
"""

from __future__ import annotations

from math import ceil

from conclave.catalogue.modules import head_format, layer_formats
from conclave.catalogue.shapes import (
    DenseMlp,
    ExpertMlp,
    FloatType,
    GroupedAttention,
    LatentAttention,
    Layer,
    Matrix,
    MatrixFormat,
    ModelFacts,
    Recurrence,
    VisionTower,
    WeightFormat,
)
from conclave.planning.layout import Layout
from conclave.planning.matrices import NO_TILES, ExpertTiles, expert_bytes, linear_bytes
from conclave.planning.measured_weights import measured_bytes

DTYPE_BYTES: dict[FloatType, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
_FLOAT32_BYTES = 4
_VOCABULARY_PADDING = 64
_Formats = dict[Matrix, MatrixFormat | None]
"""The formats of a layer's matrices; None is unconverted."""
_FOUR_BITS = MatrixFormat(method="mxfp4", bits=4, group=32)


def padded_vocabulary(vocab: int) -> int:
    """Rows of the embedding: vLLM pads to a multiple of 64."""
    return ceil(vocab / _VOCABULARY_PADDING) * _VOCABULARY_PADDING


def weight_bytes(
    facts: ModelFacts,
    layout: Layout,
    dtype: FloatType,
    weights: WeightFormat | None,
    tiles: ExpertTiles = NO_TILES,
) -> tuple[int, ...]:
    """Bytes for each pipeline stage on its fullest rank."""
    evidence = facts.evidence
    if evidence is not None and evidence.measured is not None:
        return measured_bytes(facts, evidence.measured, layout, DTYPE_BYTES[dtype], weights)
    counted = _counted_bytes(facts, layout, dtype, weights, tiles)
    if evidence is None or evidence.total_bytes is None:
        return counted
    stored = _counted_bytes(facts, Layout(), facts.dtype, facts.weight_format, tiles)[0]
    return tuple(ceil(size * evidence.total_bytes / stored) for size in counted)


def _counted_bytes(
    facts: ModelFacts, layout: Layout, dtype: FloatType, weights: WeightFormat | None, tiles: ExpertTiles
) -> tuple[int, ...]:
    sizes = _Sizes(facts, layout, DTYPE_BYTES[dtype], weights, tiles)
    stages = layout.stages(len(facts.layers))
    return tuple(
        sum(sizes.layer(index) for index in stage) + sizes.ends(first=stage is stages[0], last=stage is stages[-1])
        for stage in stages
    )


def layer_bytes(
    facts: ModelFacts,
    layout: Layout,
    dtype: FloatType,
    weights: WeightFormat | None,
    tiles: ExpertTiles,
    indices: range,
) -> int:
    """Bytes of some decoder layers on the fullest rank of one pipeline stage."""
    sizes = _Sizes(facts, layout, DTYPE_BYTES[dtype], weights, tiles)
    return sum(map(sizes.layer, indices))


def parameters(facts: ModelFacts) -> int:
    """Parameters of the model, as publishers count them: without padding or quantization."""
    total = sum(weight_bytes(facts, Layout(), "bfloat16", None)) // 2
    padding = padded_vocabulary(facts.vocab) - facts.vocab
    return total - padding * facts.hidden * (1 if facts.tied_embeddings else 2)


class _Sizes:
    """Sizes under one layout; equal layers are counted once."""

    def __init__(
        self,
        facts: ModelFacts,
        layout: Layout,
        dtype_bytes: int,
        weights: WeightFormat | None,
        tiles: ExpertTiles,
    ) -> None:
        self._facts = facts
        self._layout = layout
        self._dtype_bytes = dtype_bytes
        self._tiles = tiles
        self._formats = [formats for _, formats in layer_formats(facts, weights)]
        self._head_format = head_format(facts, weights)
        self._known: dict[tuple[Layer, tuple[MatrixFormat | None, ...]], int] = {}

    def layer(self, index: int) -> int:
        """One decoder layer."""
        layer, formats = self._facts.layers[index], self._formats[index]
        key = (layer, tuple(formats.values()))
        if key not in self._known:
            self._known[key] = self._layer(layer, formats)
        return self._known[key]

    def ends(self, *, first: bool, last: bool) -> int:
        """Embedding, output head, last norm and vision encoder on one stage."""
        facts = self._facts
        everywhere = facts.ends_on_every_stage
        rows = padded_vocabulary(facts.vocab) // self._layout.tensor
        table = rows * facts.hidden * self._dtype_bytes
        has_head = last or everywhere
        has_embedding = first or everywhere or (facts.tied_embeddings and last)
        total = table if has_embedding else 0
        if has_head:
            total += 0 if facts.tied_embeddings else self._linear([rows], facts.hidden, self._head_format)
            total += facts.hidden * (2 if facts.final_norm_bias else 1) * self._dtype_bytes
            if facts.head_bias:
                total += rows * self._dtype_bytes
        if facts.vision is not None:
            total += self._vision(facts.vision)
        further = facts.further_parameters + sum(encoder.parameters for encoder in facts.encoders)
        return total + further * self._dtype_bytes

    def _linear(self, outputs: list[int], inputs: int, matrices: MatrixFormat | None, *, bias: bool = False) -> int:
        size = linear_bytes(outputs, inputs, self._dtype_bytes, matrices)
        return size + (sum(outputs) * self._dtype_bytes if bias else 0)

    def _layer(self, layer: Layer, formats: _Formats) -> int:
        hidden = self._facts.hidden
        total = layer.norms * hidden * (2 if layer.norm_bias else 1) * self._dtype_bytes
        if isinstance(layer.attention, LatentAttention):
            total += self._latent_attention(layer.attention, formats)
        elif layer.attention is not None:
            total += self._grouped_attention(layer.attention, formats)
        if layer.recurrence is not None:
            total += self._recurrence(layer.recurrence, formats)
        if layer.dense is not None:
            total += self._mlp(layer.dense, formats["gate_up"], formats["down"])
        if layer.moe is not None:
            total += self._experts(layer.moe, formats)
        return total

    def _grouped_attention(self, attention: GroupedAttention, formats: _Formats) -> int:
        hidden, tensor, head_dim = self._facts.hidden, self._layout.tensor, attention.head_dim
        query = attention.heads // tensor * head_dim
        key_value = max(1, attention.kv_heads // tensor) * head_dim
        value_dim = attention.value_head_dim or head_dim
        value = max(1, attention.kv_heads // tensor) * value_dim
        queries = [query, query] if attention.output_gate else [query]
        total = self._linear([*queries, key_value, value], hidden, formats["qkv"], bias=attention.qkv_bias)
        total += self._linear([hidden], attention.heads // tensor * value_dim, formats["output"])
        total += hidden * self._dtype_bytes if attention.output_bias else 0
        norms = {"none": 0, "per_head": 2 * head_dim, "all_heads": query + key_value}[attention.qk_norm]
        sinks = attention.heads // tensor if attention.sinks else 0
        return total + (norms + sinks) * self._dtype_bytes

    def _latent_attention(self, attention: LatentAttention, formats: _Formats) -> int:
        hidden, heads = self._facts.hidden, attention.heads // self._layout.tensor
        query = heads * (attention.nope_head_dim + attention.rope_head_dim)
        compressed = attention.kv_rank + attention.rope_head_dim
        total = attention.kv_rank * self._dtype_bytes  # norm of the compressed entry
        if attention.query_rank is None:
            total += self._linear([compressed], hidden, formats["latent_down"])
            total += self._linear([query], hidden, formats["query_up"])
        else:
            # The down-projections are whole on every rank.
            total += self._linear([attention.query_rank, compressed], hidden, formats["latent_down"])
            total += self._linear([query], attention.query_rank, formats["query_up"])
            total += attention.query_rank * self._dtype_bytes
        expanded = heads * (attention.nope_head_dim + attention.value_head_dim)
        total += self._linear([expanded], attention.kv_rank, formats["latent_up"])
        if attention.index_heads:  # whole on every rank
            queries = attention.index_heads * attention.index_head_dim
            total += self._linear([queries], attention.query_rank or hidden, formats["latent_down"])
            total += (attention.index_head_dim + attention.index_heads) * hidden * self._dtype_bytes
        return total + self._linear([hidden], heads * attention.value_head_dim, formats["output"])

    def _recurrence(self, recurrence: Recurrence, formats: _Formats) -> int:
        hidden, tensor = self._facts.hidden, self._layout.tensor
        inner = ceil(recurrence.inner / tensor)
        total = self._linear([ceil(recurrence.projected / tensor)], hidden, formats["recurrence"])
        return total + self._linear([hidden], inner, formats["recurrence"])

    def _mlp(self, mlp: DenseMlp, gate_up: MatrixFormat | None, down: MatrixFormat | None) -> int:
        hidden, share = self._facts.hidden, mlp.intermediate // self._layout.tensor
        total = self._linear([share, share] if mlp.gated else [share], hidden, gate_up, bias=mlp.bias)
        return total + self._linear([hidden], share, down, bias=mlp.bias)

    def _experts(self, moe: ExpertMlp, formats: _Formats) -> int:
        facts, layout = self._facts, self._layout
        router_bytes = DTYPE_BYTES[moe.router_dtype] if moe.router_dtype else self._dtype_bytes
        total = moe.experts * facts.hidden * router_bytes
        total += moe.experts * self._dtype_bytes if moe.router_bias else 0
        total += moe.experts * _FLOAT32_BYTES if moe.correction_bias else 0
        share = moe.intermediate // layout.expert_slices
        total += expert_bytes(
            layout.local_experts(moe.experts),
            moe.latent or facts.hidden,
            share if moe.gated else 2 * share // 3,  # two matrices instead of three
            self._dtype_bytes,
            _FOUR_BITS if moe.four_bits else formats["experts"],
            bias=moe.bias,
            tiles=self._tiles,
        )
        if moe.latent is not None:  # into it and out of it, whole on every rank
            total += 2 * moe.latent * facts.hidden * self._dtype_bytes
        if moe.shared_intermediate:
            shared = DenseMlp(intermediate=moe.shared_intermediate, gated=moe.gated)
            total += self._mlp(shared, formats["shared_gate_up"], formats["shared_down"])
        if moe.shared_gate:
            total += facts.hidden * self._dtype_bytes
        return total

    def _vision(self, vision: VisionTower) -> int:
        """`vllm/model_executor/models/mllama4.py`; whole on every pipeline stage, never converted."""
        tensor, width = self._layout.tensor, vision.hidden
        local = width // tensor
        attention = (width + 1) * 3 * local + local * width + width
        mlp = (width + 1) * (vision.intermediate // tensor) + vision.intermediate // tensor * width + width
        layers = vision.layers * (attention + mlp + 4 * width)
        patches = (vision.image // vision.patch) ** 2 + 1
        embeddings = vision.channels * vision.patch**2 * local + width + patches * width + 4 * width
        adapter_width = vision.adapter_input // tensor
        adapter = vision.intermediate * adapter_width + adapter_width * vision.adapter_output
        projector = vision.output * (self._facts.hidden // tensor)
        return (layers + embeddings + adapter + projector) * self._dtype_bytes
